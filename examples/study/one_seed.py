"""One seed of the study: the world, the models, the tape, every variant, every figure."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from cache_schema import open_tape
from examples.quickstart import teacher
from examples.quickstart.steps import say, source_digest
from examples.quickstart.world import Voices
from examples.study import models, rows
from examples.study.marks import Marks
from examples.study.measuring import counts, curve_of, verdicts_of
from examples.study.questions import HEARING, REASONING
from examples.study.sizes import Size
from examples.study.speech import Speech
from examples.study.variants import BASE, Variant, variants
from train.metrics import read_metrics

COSTS = {"world": 1, "teacher": 14, "base": 22, "tape": 10, "before": 2}
VARIANT_COST = 7
"""Shares of the time, measured."""

CURVE_SHARE = 0.4
"""Share of the test's rows of seen voices that is asked at every checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Seed:
    """What one seed is run with.

    Attributes:
        seed: of everything.
        folder: where it lies.
        speech: the recordings.
        size_name: of ``size``.
        size: how large everything is.
    """

    seed: int
    folder: Path
    speech: Speech
    size_name: str
    size: Size

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


def run_seed(one: Seed, fresh: bool) -> dict[str, Any]:
    """Run all steps of a seed; returns its record, which is also in ``results.json``.

    Raises:
        FolderError: the folder holds something else.
        CalledProcessError: a command failed, and has said why.
    """
    wanted = variants(one.size)
    names = [variant.name for variant in wanted]
    costs = {**COSTS, **dict.fromkeys(names, VARIANT_COST)}
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
        command("pipeline", "ingest", "--dataset", data, "--out", one / f"heldout-{name}")
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
    """Train the textual teacher; say how well it reasons over the test's true transcripts."""
    tokenizer = AutoTokenizer.from_pretrained(one / "tokenizer")
    compositions = rows.split_compositions(one.seed)["train"]
    model = models.make_teacher(one.speech, compositions, tokenizer, one.size, one.seed, say)
    model.save_pretrained(one / "teacher")
    tokenizer.save_pretrained(one / "teacher")
    asked = [
        row
        for row in rows.read_rows(one / "world" / "test.jsonl")
        if row.ability == "reasoning" and row.voices == "seen"
    ]
    right = models.teacher_answers(one / "teacher", asked)
    by_kind = counts(
        {row.row_id: int(value) for row, value in zip(asked, right, strict=True)},
        {row.row_id: row.kind for row in asked},
    )
    say(f"it reads {len(asked)} held-out rows and answers {sum(right)} of them right")
    return {"right": sum(right), "asked": len(asked), "kinds": by_kind}


def make_base(one: Seed) -> dict[str, Any]:
    """Train the base audio model."""
    tokenizer = AutoTokenizer.from_pretrained(one / "tokenizer")
    compositions = rows.split_compositions(one.seed)["train"]
    models.make_base(one.speech, compositions, tokenizer, one.size, one.seed, one / BASE, say)
    return {}


def make_tape(one: Seed) -> dict[str, Any]:
    """Record both teachers; returns the tape's fingerprint and its bytes by signal."""
    size = one.size
    settings = [f"textual.prompt={teacher.PROMPT}", "textual.lens=all", "textual.top_p=1.0"]
    command(
        "pipeline",
        "extract-teachers",
        *("--dataset", one / "world" / "train.jsonl", "--out", one / "tape"),
        *("--text-teacher", one / "teacher", "--acoustic-teacher", one / BASE),
        *("--text-layers", "all", "--acoustic-layers", "all", "--engine", size.engine),
        *("--max-new-tokens", size.max_new_tokens, "--temperature", 1, "--seed", one.seed),
        *(word for setting in settings for word in ("--set", setting)),
    )
    tape = open_tape(str(one / "tape"))
    told = subprocess.run(
        [sys.executable, "-m", "pipeline", "inspect", str(one / "tape"), "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    facts = json.loads(told.stdout)
    traces = [trace for name in tape.sample_ids for trace in tape[name].traces]
    signals = {
        f"{group}/{signal}": values["bytes"]
        for group, about in facts["groups"].items()
        for signal, values in about["signals"].items()
    }
    return {
        "fingerprint": facts["fingerprint"],
        "samples": facts["samples"],
        "bytes": facts["bytes"],
        "audio_hours": facts["audio_hours"],
        "signal_bytes": signals,
        "traces": len(traces),
        "traces_right": sum(bool(trace.correct) for trace in traces),
        "trace_tokens": sum(len(trace.token_ids) for trace in traces),
    }


def measure_base(one: Seed) -> dict[str, Any]:
    """Let the base model answer the test, and what is asked at checkpoints."""
    longest = one.size.max_new_tokens
    found = verdicts_of(one / BASE, one / "heldout-test", one / "eval-base", longest)
    curve = verdicts_of(one / BASE, one / "heldout-curve", one / "eval-base-curve", longest)
    return {**_scores(one, found), "curve": {"0": _scores(one, curve)["groups"]}}


def run_variant(one: Seed, variant: Variant) -> dict[str, Any]:
    """Train a variant with the command, evaluate it and its checkpoints."""
    run = one / f"run-{variant.name}"
    words = train_words(one, variant, run)
    command(*words)
    size = one.size
    found = verdicts_of(
        run / "student", one / "heldout-test", one / f"eval-{variant.name}", size.max_new_tokens
    )
    folder = one / f"curve-{variant.name}"
    curve = curve_of(run, one / BASE, one / "heldout-curve", folder, size.max_new_tokens)
    steps = read_metrics(run / "metrics.jsonl")
    tokens = np.cumsum([line["tokens"] for line in steps]).tolist()
    return {
        **_scores(one, found),
        "command": shlex.join(map(str, words)),
        "steps": len(steps),
        "tokens": tokens[-1],
        "step_s": statistics.median(line["step_s"] for line in steps),
        "first_terms": {name: term["value"] for name, term in steps[0]["terms"].items()},
        "last_terms": {name: term["value"] for name, term in steps[-1]["terms"].items()},
        "signals": list(variant.signals),
        "curve": {
            str(tokens[step - 1]): _scores(one, verdicts)["groups"]
            for step, verdicts in curve.items()
        },
    }


def train_words(one: Seed, variant: Variant, run: Path) -> list[object]:
    """Return the command that trains a variant."""
    size = one.size
    settings = [
        *variant.settings,
        f"data.wrong_traces={str(size.wrong_traces).lower()}",
        f"data.truncated_traces={str(size.wrong_traces).lower()}",
        f"optim.lr={size.learning_rate}",
        f"loop.epochs={size.epochs}",
        f"loop.batch_tokens={size.batch_tokens}",
        f"loop.micro_tokens={size.batch_tokens}",
        f"checkpoints.every={size.checkpoint_every}",
        "checkpoints.keep=100",
        "logging.every=50",
    ]
    return [
        *("train", "student", "--cache", one / "tape", "--student", one / BASE, "--out", run),
        *("--recipe", variant.recipe, "--seed", one.seed),
        *(word for setting in settings for word in ("--set", setting)),
    ]


def _scores(one: Seed, verdicts: dict[str, int]) -> dict[str, Any]:
    """Return right and asked by what is measured and by kind, and every row's verdict."""
    found = {row.row_id: row for row in rows.read_rows(one / "world" / "test.jsonl")}
    groups = counts(verdicts, {name: f"{r.ability}, {r.voices}" for name, r in found.items()})
    kinds = counts(verdicts, {name: f"{r.kind}, {r.voices}" for name, r in found.items()})
    return {"groups": groups, "kinds": kinds, "rows": verdicts}


def members(one: Seed) -> dict[str, list[str]]:
    """Return what is measured -> its rows of the test."""
    found: dict[str, list[str]] = {}
    for row in rows.read_rows(one / "world" / "test.jsonl"):
        found.setdefault(f"{row.ability}, {row.voices}", []).append(row.row_id)
    return found


def command(*words: object) -> None:
    """Run one of the project's commands as a user would, in a process of its own."""
    module, *arguments = map(str, words)
    say(f"$ {module} {shlex.join(arguments)}")
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)
