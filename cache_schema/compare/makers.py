"""What differs between makers of groups, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cache_schema.compare.apart import apart
from cache_schema.maker import GroupInfo

_SHOWN = 60
"""Characters of a value on a page."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One field that differs.

    Attributes:
        group: whose maker.
        field: dotted name, such as ``identity.model_digest``; ``group`` if only one tape has it.
        a: its value on the first tape, ``None`` if it is not there.
        b: its value on the second.
    """

    group: str
    field: str
    a: Any
    b: Any

    def __str__(self) -> str:
        """Return it as a line of a page."""
        name = f"{self.group}: {self.field}" if self.group else self.field
        one, two = apart(self.a, self.b, _SHOWN, _text)
        return f"{name}: {one} | {two}"


Changes = list[Change]


def maker_changes(a: Mapping[str, GroupInfo], b: Mapping[str, GroupInfo]) -> Changes:
    """Return what differs in what must be equal for signals to be the same."""
    changes = []
    for group in sorted(a.keys() | b.keys()):
        if group not in a or group not in b:
            has = ["recorded" if group in groups else None for groups in (a, b)]
            changes.append(Change(group=group, field="group", a=has[0], b=has[1]))
        else:
            changes += identity_changes(a[group], b[group])
    return changes


def identity_changes(one: GroupInfo, two: GroupInfo) -> Changes:
    """Return what differs between two makers of one group."""
    parts = [
        {"kind": info.kind, "identity": dict(info.identity), "signals": dict(info.signals)}
        for info in (one, two)
    ]
    return list(_changes(one.group, "", *parts))


def note_changes(a: Mapping[str, GroupInfo], b: Mapping[str, GroupInfo]) -> Changes:
    """Return what differs in the notes of groups that both have."""
    return [
        change
        for group in sorted(a.keys() & b.keys())
        for change in _changes(group, "notes.", dict(a[group].notes), dict(b[group].notes))
    ]


def _changes(
    group: str, prefix: str, a: Mapping[str, Any], b: Mapping[str, Any]
) -> Iterator[Change]:
    for name in sorted(a.keys() | b.keys()):
        one, two = (json.loads(json.dumps(values.get(name))) for values in (a, b))
        if isinstance(one, dict) and isinstance(two, dict):
            yield from _changes(group, f"{prefix}{name}.", one, two)
        elif one != two:
            yield Change(group=group, field=f"{prefix}{name}", a=one, b=two)


def _text(value: Any) -> str:
    return "-" if value is None else json.dumps(value, ensure_ascii=False)
