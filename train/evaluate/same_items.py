"""Whether two evaluations are of the same items: an id alone does not say so.

Many files number their rows, so any two of them share ids. What is right by the strict rule must
be the same, and a difference in how the models were asked is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cache_schema.errors import UsageError
from train.evaluate.types import NOT_READ, Verdict


def check_same_items(
    ours: Iterable[Verdict], theirs: Iterable[Verdict], names: tuple[object, object]
) -> None:
    """Check that items of one id have one right answer.

    Args:
        ours: verdicts of the strict rule.
        theirs: those of the other evaluation.
        names: of both, for the message.

    Raises:
        UsageError: they share no item, or the items of an id are different ones.
    """
    expected = {one.sample_id: one.expected for one in theirs}
    shared = {one.sample_id: one.expected for one in ours if one.sample_id in expected}
    if not shared:
        raise UsageError(
            f"{names[0]} and {names[1]} share no item; compare evaluations of the same data"
        )
    other = [
        name
        for name, right in shared.items()
        if right != expected[name] and NOT_READ not in (right, expected[name])
    ]
    if other:
        first = other[0]
        raise UsageError(
            f"{names[0]} and {names[1]} are of different data: of {len(shared)} ids they share, "
            f"{len(other)} stand for other items ({first!r} is {shared[first]!r:.60} here and "
            f"{expected[first]!r:.60} there); compare evaluations of the same data"
        )


def asked_otherwise(
    this: Mapping[str, Any], base: Mapping[str, Any], names: tuple[str, str]
) -> list[str]:
    """Return what was asked in another way, of two ``evaluation.json``: a phrase a setting.

    Args:
        this: one of them.
        base: the other.
        names: what they are called.
    """
    ours, theirs = _settings(this), _settings(base)
    return [
        f"{key} is {ours.get(key)!r} for {names[0]}, {theirs.get(key)!r} for {names[1]}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]


def _settings(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what changes what a model says, beside the model; a seed only where it is used."""
    decoding = dict(about.get("decoding") or {})
    used = decoding if decoding.get("temperature") else {**decoding, "seed": None, "top_p": None}
    return {"instruction": about.get("instruction"), "dtype": about.get("dtype"), **used}
