"""Tapes of tiny teachers, their replays, and ways to change a tape."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache_schema.codecs.sealed_json import seal
from pipeline.extract import run_step
from pipeline.recipe import DatasetRecipe, ExtractRecipe, TapeRecipe, TextualRecipe
from pipeline.replay.cli import replayed

ALL = 99
"""More samples than any tape here has."""

PAGE = {"files": 1, "bytes": 1, "deep": False, "notes": []}


def recipe_of(dataset: Path, out: Path, **sections: Any) -> ExtractRecipe:
    return ExtractRecipe(
        dataset=DatasetRecipe(path=str(dataset), limit=4),
        tape=sections.pop("tape", TapeRecipe(out=str(out), shard_samples=3)),
        **sections,
    )


def textual(teacher: Path, **settings: Any) -> TextualRecipe:
    values: dict[str, Any] = {
        "engine": "transformers", "top_k": 6, "layers": "1,3", "lens": "2", "lens_top_k": 4,
        "draws": 20, "prompt": "plain.v1", "max_new_tokens": 8,
    }  # fmt: skip
    return TextualRecipe(teacher=str(teacher), **{**values, **settings})


def record(recipe: ExtractRecipe, *steps: str) -> Path:
    for step in steps:
        run_step(step, recipe)
    return Path(recipe.tape.out)


def verified(
    tape: Path,
    *sources: str,
    count: int = ALL,
    seed: int = 0,
    text: Path | None = None,
    acoustic: list[str] | None = None,
    recipe: Path | None = None,
    overrides: tuple[str, ...] = (),
) -> dict[str, Any]:
    values = {"tape": str(tape), "sound": True, "num_problems": 0, "kinds": {}, "problems": []}
    teacher = None if text is None else str(text)
    return replayed(values, count, seed, teacher, acoustic or [], recipe, [*overrides], [*sources])


def edit_notes(tape: Path, group: str, change: Callable[[dict[str, Any]], Any]) -> None:
    file = tape / f"groups/{group}.json"
    values = json.loads(file.read_text())
    del values["xxh3_64"]
    change(values["notes"])
    file.write_bytes(seal(values, indent=2))


def signals_of(values: dict[str, Any], source: str = "textual") -> dict[str, Any]:
    one = next(one for one in values["replay"]["sources"] if one["source"] == source)
    return {signal["signal"]: signal for signal in one["signals"]}


def other_word(rows: list[dict[str, Any]]) -> None:
    rows[0]["token_ids"] = [*rows[0]["token_ids"][:2], 101, *rows[0]["token_ids"][3:]]
