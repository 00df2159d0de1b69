"""Two values that differ, told in a line: of long ones where they differ, not all they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_CUT = "..."


def apart(one: Any, two: Any, limit: int, show: Callable[[Any], str] = repr) -> tuple[str, str]:
    """Return two JSON values as texts; of long ones only where they differ.

    Args:
        one: a value.
        two: another.
        limit: characters of a text; of a longer object the fields that differ are told, of a longer
            list the first item that does.
        show: makes a value a text.
    """
    texts = show(one), show(two)
    if max(map(len, texts)) <= limit:
        return texts
    if isinstance(one, dict) and isinstance(two, dict):
        names = [k for k in {**one, **two} if one.get(k) != two.get(k)]
        parts = [apart(one.get(name), two.get(name), limit, show) for name in names]
        told = [
            ", ".join(f"{name} {part[side]}" for name, part in zip(names, parts, strict=True))
            for side in (0, 1)
        ]
        return told[0], told[1]
    if isinstance(one, list) and isinstance(two, list) and one != two:
        pairs = zip(one, two, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(two)))
        return _item(one, at, limit, show), _item(two, at, limit, show)
    return _short(texts[0], limit), _short(texts[1], limit)


def _item(values: list[Any], at: int, limit: int, show: Callable[[Any], str]) -> str:
    has = f"{len(values)} items"
    return f"{has}, item {at} {_short(show(values[at]), limit)}" if at < len(values) else has


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - len(_CUT)] + _CUT
