"""Stage one of a seed: its textual teacher; both teachers onto one tape, by the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from cache_schema import open_tape
from examples.quickstart import teacher
from examples.quickstart.steps import say
from examples.study import models, rows, seed
from examples.study.measuring import counts
from examples.study.seed import Seed
from examples.study.variants import BASE


def train_teacher(one: Seed, tokenizer: PreTrainedTokenizerFast, folder: Path) -> dict[str, Any]:
    """Train a textual teacher; say how well it reasons over the test's true transcripts."""
    compositions = rows.split_compositions(one.seed)["train"]
    model = models.make_teacher(one.speech, compositions, tokenizer, one.size, one.seed, say)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    asked = [
        row
        for row in rows.read_rows(one / "world" / "test.jsonl")
        if row.ability == "reasoning" and row.voices == "seen"
    ]
    right = models.teacher_answers(folder, asked, one.size.max_new_tokens)
    by_kind = counts(
        {row.row_id: int(value) for row, value in zip(asked, right, strict=True)},
        {row.row_id: row.kind for row in asked},
    )
    say(f"it reads {len(asked)} held-out rows and answers {sum(right)} of them right")
    return {"right": sum(right), "asked": len(asked), "kinds": by_kind}


def make_tape(one: Seed) -> dict[str, Any]:
    """Record every signal of both teachers; returns the tape's fingerprint, bytes and traces."""
    flags = (*both_teachers(one), "--set", "textual.lens=all")
    seed.command(*extract_words(one, one / "teacher", one / "tape", flags))
    return about(one / "tape")


def both_teachers(one: Seed) -> tuple[str, ...]:
    """Return the flags for states of all layers of both teachers; the base is the acoustic one."""
    layers = ("--text-layers", "all", "--acoustic-layers", "all")
    return ("--acoustic-teacher", str(one / BASE), *layers)


def extract_words(one: Seed, textual: Path, out: Path, flags: tuple[str, ...]) -> list[object]:
    """Return the command that records a textual teacher, and with these flags more."""
    size = one.size
    settings = [f"textual.prompt={teacher.PROMPT}", "textual.top_p=1.0"]
    return [
        *("pipeline", "extract-teachers"),
        *("--dataset", one / "world" / "train.jsonl", "--out", out),
        *("--text-teacher", textual, "--engine", size.engine),
        *("--max-new-tokens", size.max_new_tokens, "--temperature", 1, "--seed", one.seed),
        *(word for setting in settings for word in ("--set", setting)),
        *flags,
    ]


def about(folder: Path) -> dict[str, Any]:
    """Return what a tape holds: its fingerprint, its traces, the bytes of each signal."""
    tape = open_tape(str(folder))
    told = subprocess.run(
        [sys.executable, "-m", "pipeline", "inspect", str(folder), "--json"],
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
