"""Stage two of a seed: every variant trained by the command, and every figure."""

from __future__ import annotations

import shlex
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from examples.study import rows, seed
from examples.study.measuring import counts, curve_of, verdicts_of
from examples.study.seed import Seed
from examples.study.sizes import Size
from examples.study.variants import BASE, Variant
from train.metrics import read_metrics


def measure_base(one: Seed) -> dict[str, Any]:
    """Let the base model answer the test, and what is asked at checkpoints."""
    longest = one.size.max_new_tokens
    found = verdicts_of(one / BASE, one / "heldout-test", one / "eval-base", longest)
    curve = verdicts_of(one / BASE, one / "heldout-curve", one / "eval-base-curve", longest)
    return {**_scores(one, found), "curve": {"0": _scores(one, curve)["groups"]}}


def run_variant(one: Seed, variant: Variant) -> dict[str, Any]:
    """Train a variant with the command, evaluate it and its checkpoints."""
    found = train_and_measure(one, variant, one / "tape")
    run = one / f"run-{variant.name}"
    folder = one / f"curve-{variant.name}"
    curve = curve_of(run, one / BASE, one / "heldout-curve", folder, one.size.max_new_tokens)
    tokens = np.cumsum([line["tokens"] for line in read_metrics(run / "metrics.jsonl")]).tolist()
    return {
        **found,
        "curve": {
            str(tokens[step - 1]): _scores(one, verdicts)["groups"]
            for step, verdicts in curve.items()
        },
    }


def train_and_measure(one: Seed, variant: Variant, tape: Path) -> dict[str, Any]:
    """Train a variant from a tape with the command; let it answer the test."""
    run = one / f"run-{variant.name}"
    words = train_words(tape, one / BASE, one.seed, one.size, variant, run)
    seed.command(*words)
    found = verdicts_of(
        run / "student", one / "heldout-test", one / f"eval-{variant.name}", one.size.max_new_tokens
    )
    steps = read_metrics(run / "metrics.jsonl")
    return {
        **_scores(one, found),
        "command": shlex.join(map(str, words)),
        "steps": len(steps),
        "tokens": sum(line["tokens"] for line in steps),
        "step_s": statistics.median(line["step_s"] for line in steps),
        "first_terms": {name: term["value"] for name, term in steps[0]["terms"].items()},
        "last_terms": {name: term["value"] for name, term in steps[-1]["terms"].items()},
        "signals": list(variant.signals),
    }


def train_words(
    tape: Path, base: Path, seed: int, size: Size, variant: Variant, run: Path
) -> list[object]:
    """Return the command that trains a variant from a tape."""
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
        *("train", "student", "--cache", tape, "--student", base),
        *("--out", run, "--recipe", variant.recipe, "--seed", seed),
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
