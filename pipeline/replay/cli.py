"""``verify --replay``: flags into a replay, and what it found beside what verify found."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from cache_schema import open_tape
from cache_schema.commands.console import say
from pipeline.replay.found import BEYOND
from pipeline.replay.recipes import given_of
from pipeline.replay.run import replay

_SEEDS = 1 << 31


def replayed(
    values: dict[str, Any],
    count: int,
    seed: int | None,
    text_teacher: str | None,
    acoustic_teachers: list[str],
    recipe: Path | None,
    overrides: list[str],
    sources: list[str],
) -> dict[str, Any]:
    """Return what verify found with what a replay found; a tape with problems is not replayed.

    Args:
        values: what verify found.
        count: samples a source.
        seed: of the choice of samples; drawn if ``None``.
        text_teacher: where the textual teacher lies.
        acoustic_teachers: where the acoustic teachers lie, ``NAME=MODEL`` of several.
        recipe: the recipe in place of the tape's.
        overrides: ``section.key=value`` items.
        sources: those to replay; all if empty.

    Raises:
        TeachertapeError: see ``pipeline.replay.run.replay``.
    """
    if not values["sound"]:
        say("not replayed: the tape has problems, see what verify found")
        return values
    tape = open_tape(values["tape"])
    given = given_of(tape, text_teacher, acoustic_teachers, recipe, overrides, sources)
    found = replay(tape, count, secrets.randbelow(_SEEDS) if seed is None else seed, given)
    beyond = sum(signal["beyond"]["count"] for one in found["sources"] for signal in one["signals"])
    kinds = {**values["kinds"], **({"replay differs": beyond} if beyond else {})}
    return {
        **values,
        "sound": all(one["verdict"] != BEYOND for one in found["sources"]),
        "num_problems": values["num_problems"] + beyond,
        "kinds": kinds,
        "problems": [*values["problems"], *_problems(found)],
        "replay": found,
    }


def _problems(found: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "location": f"{source['source']}/{signal['signal']}",
            "kind": "replay differs",
            "message": problem,
        }
        for source in found["sources"]
        for signal in source["signals"]
        for problem in signal["beyond"]["first"]
    ]
