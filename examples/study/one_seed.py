"""One seed of the study: the world, the models, the tape, every variant, every figure."""

from __future__ import annotations

import dataclasses
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from examples.quickstart.steps import say, source_digest
from examples.quickstart.world import Voices
from examples.study import models, rows, seed
from examples.study.hearing_questions import HEARING
from examples.study.marks import Marks
from examples.study.questions import REASONING
from examples.study.seed import Seed
from examples.study.sides import SIDES, run_side
from examples.study.sizes import Size
from examples.study.speech import Speech
from examples.study.stage_one import make_tape, train_teacher
from examples.study.stage_two import measure_base, members, run_variant
from examples.study.variants import BASE, variants

COSTS = {"world": 1, "teacher": 14, "base": 22, "tape": 10, "before": 2}
VARIANT_COST, SIDE_COST = 7, 9
"""Shares of the time, measured."""

CURVE_SHARE = 0.4
"""Share of the test's rows of seen voices that is asked at every checkpoint."""


def run_seed(one: Seed, fresh: bool, with_sides: bool) -> dict[str, Any]:
    """Run all steps of a seed; returns its record, which is also in ``results.json``.

    Args:
        one: the seed.
        fresh: start over.
        with_sides: also answer the questions beside the table.

    Raises:
        FolderError: the folder holds something else.
        CalledProcessError: a command failed, and has said why.
    """
    wanted = variants(one.size)
    names = [variant.name for variant in wanted]
    sides = SIDES if with_sides else ()
    costs = {
        **COSTS,
        **dict.fromkeys(names, VARIANT_COST),
        **dict.fromkeys((f"side-{side.name}" for side in sides), SIDE_COST),
    }
    identity = {
        "seed": one.seed,
        "speech": one.speech.name,
        "recordings": {name: len(found.recordings) for name, found in one.speech.sets.items()},
        "size": one.size_name,
        **dataclasses.asdict(one.size),
    }
    marks = Marks(one.folder, identity, costs, fresh)
    found: dict[str, Any] = {}
    for name, title, action in (
        ("world", "the world: clips, questions, answers", partial(make_world, one)),
        ("teacher", "the textual teacher learns to reason, from text", partial(make_teacher, one)),
        ("base", "the base audio model learns to hear", partial(make_base, one)),
        ("tape", "stage one: both teachers onto one tape", partial(make_tape, one)),
        ("before", "the base model answers", partial(measure_base, one)),
    ):
        found[name] = marks.run(name, title, action)
    for variant in wanted:
        action = partial(run_variant, one, variant)
        found[variant.name] = marks.run(variant.name, f"stage two: {variant.title}", action)
    for side in sides:
        name, action = f"side-{side.name}", partial(run_side, one, side)
        found[name] = marks.run(name, f"beside the table: {side.title}", action)
    record = {
        "identity": identity,
        "sources": source_digest(Path(__file__).parent),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "seconds": round(marks.seconds),
        "note": one.speech.note,
        "groups": members(one),
        "found": found,
    }
    (one / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def make_world(one: Seed) -> dict[str, Any]:
    """Write all rows: for the tape, for the choice of settings, for the test."""
    speech, size = one.speech, one.size
    compositions = rows.split_compositions(one.seed)
    tokenizer_rng, rng = (np.random.default_rng([one.seed, place]) for place in (2, 5))
    draw = partial(_draw, speech, compositions, rng)
    parts = {
        "train": draw("train", "train", "train", list(REASONING), size.train_rows),
        "dev": [
            *draw("dev-reason", "dev", "dev", list(REASONING), size.dev_rows),
            *draw("dev-hear", "dev", "dev", list(HEARING), size.dev_rows),
        ],
        "test": [
            *draw("reason", "test", "test", list(REASONING), size.test_rows),
            *draw("hear", "test", "test", list(HEARING), size.hearing_rows),
        ],
    }
    seen = parts["test"]
    parts["curve"] = [
        row for row in seen if int(row.row_id[-5:]) < CURVE_SHARE * _asked(size, row.ability)
    ]
    if "unseen" in speech.sets:
        unseen = draw("new-reason", "test", "unseen", list(REASONING), size.test_rows)
        heard = draw("new-hear", "test", "unseen", ["digits", "noise"], size.hearing_rows // 2)
        parts["test"] = [*seen, *unseen, *heard]
    for name, drawn in parts.items():
        if name != "curve":
            _write(one / "world", name, drawn, speech, rng)
    lines = (one / "world" / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    chosen = {row.row_id for row in parts["curve"]}
    curve = "".join(line for line in lines if json.loads(line)["id"] in chosen)
    (one / "world" / "curve.jsonl").write_text(curve, encoding="utf-8")
    tokenizer = models.make_tokenizer(speech, compositions["train"], tokenizer_rng)
    tokenizer.save_pretrained(one / "tokenizer")
    for name in ("dev", "test", "curve"):
        data = one / "world" / f"{name}.jsonl"
        seed.command("pipeline", "ingest", "--dataset", data, "--out", one / f"heldout-{name}")
    return {"rows": {name: len(drawn) for name, drawn in parts.items()}, "vocab": len(tokenizer)}


def _asked(size: Size, ability: str) -> int:
    return size.test_rows if ability == "reasoning" else size.hearing_rows


def _draw(
    speech: Speech,
    compositions: dict[str, list[rows.Composition]],
    rng: np.random.Generator,
    prefix: str,
    split: str,
    recordings: str,
    kinds: list[str],
    count: int,
) -> list[rows.Row]:
    found = speech.sets[recordings]
    return rows.draw_rows(prefix, kinds, compositions[split], found, speech.speakers, count, rng)


def _write(
    folder: Path, name: str, drawn: list[rows.Row], speech: Speech, rng: np.random.Generator
) -> None:
    """Write a part's rows; those of unseen voices are spoken by their own recordings."""
    voices = {split: Voices(found) for split, found in speech.sets.items()}

    def spoken_by(row: rows.Row) -> Voices:
        return voices[name if row.voices == "seen" else "unseen"]

    rows.write_rows(folder, name, drawn, spoken_by, name == "train", rng)


def make_teacher(one: Seed) -> dict[str, Any]:
    """Train the textual teacher, with the tokenizer of the student."""
    return train_teacher(one, AutoTokenizer.from_pretrained(one / "tokenizer"), one / "teacher")


def make_base(one: Seed) -> dict[str, Any]:
    """Train the base audio model."""
    tokenizer = AutoTokenizer.from_pretrained(one / "tokenizer")
    compositions = rows.split_compositions(one.seed)["train"]
    models.make_base(one.speech, compositions, tokenizer, one.size, one.seed, one / BASE, say)
    return {}
