"""What ``examples.study.real_weights`` does, step by step, and what it says of each."""

from __future__ import annotations

import dataclasses
import shlex
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer

from cache_schema import open_tape
from examples.study import rows, seed, stage_one, stage_two
from examples.study.measuring import counts, verdicts_of
from examples.study.sizes import Size
from examples.study.variants import variants
from train.metrics import read_metrics

if TYPE_CHECKING:
    from examples.study.real_weights import Plan


def extract_words(folder: Path, plan: Plan, size: Size) -> list[object]:
    """Return the command that records both teachers, without the step.

    As many layers of each are kept as the student has. A teacher whose template knows thinking is
    told not to: the prompt asks for a form that holds the reasoning.
    """
    layers = f"proportional:{size.student_layers}"
    template = AutoTokenizer.from_pretrained(plan.text_teacher).chat_template
    thinks = "enable_thinking" in str(template)
    return [
        *("pipeline", "extract-teachers", "--out", folder / "tape-real"),
        *("--dataset", folder / "world" / "train.jsonl", "--limit", plan.rows),
        *("--text-teacher", plan.text_teacher, "--text-layers", layers),
        *("--acoustic-teacher", plan.acoustic_teacher, "--acoustic-layers", layers),
        *("--engine", size.engine, "--max-new-tokens", plan.max_new_tokens),
        *("--set", f"textual.prompt={plan.prompt}"),
        *(("--set", "textual.template_args.enable_thinking=false") if thinks else ()),
    ]


def about_tape(folder: Path) -> dict[str, Any]:
    """Return what the tape holds: its traces, its bytes a token and a second of audio.

    Args:
        folder: of a seed.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    found, tape = stage_one.about(folder / "tape-real"), open_tape(str(folder / "tape-real"))
    traces = [trace for name in tape.sample_ids for trace in tape[name].traces]
    whole = {"textual": found["trace_tokens"], "acoustic": found["audio_hours"] * 3600}
    return {
        **found,
        "traces_cut": sum(trace.finish_reason == "length" for trace in traces),
        "traces_without_answer": sum(not trace.answer for trace in traces),
        # of the textual teacher a token it wrote, of the acoustic one a second it heard
        "bytes_each": {
            name: round(size / whole[name.partition("/")[0]], 1)
            for name, size in found["signal_bytes"].items()
        },
        "longest_trace": max(len(tokenizer(trace.text)["input_ids"]) for trace in traces),
    }


def train(folder: Path, plan: Plan, size: Size, number: int) -> dict[str, Any]:
    """Train the base student as the study's ``joint`` is, in other tokens than its teacher's.

    Args:
        folder: of a seed.
        plan: what is asked for.
        size: of the seed.
        number: the seed.
    """
    (joint,) = (variant for variant in variants(size) if variant.name == "joint")
    more = (f"data.teacher_tokenizer={plan.text_teacher}", f"loop.max_steps={plan.steps}")
    variant = dataclasses.replace(joint, settings=(*joint.settings, *more))
    out = folder / "run-real"
    tape, base = folder / "tape-real", folder / "base"
    words = stage_two.train_words(tape, base, number, size, variant, out)
    seed.command(*words)
    lines = read_metrics(out / "metrics.jsonl")
    first, last = lines[0]["terms"], lines[-1]["terms"]
    return {
        "command": shlex.join(map(str, words)),
        "steps": len(lines),
        "step_s": statistics.median(line["step_s"] for line in lines),
        "tokens": sum(line["tokens"] for line in lines),
        "terms": {name: {"first": first[name], "last": last[name]} for name in first},
    }


def answers(folder: Path, longest: int, model: Path, name: str) -> dict[str, tuple[int, int]]:
    """Let a model answer the ``dev`` rows.

    Returns:
        ability -> (right, asked).
    """
    verdicts = verdicts_of(model, folder / "heldout-dev", folder / f"eval-real-{name}", longest)
    asked = rows.read_rows(folder / "world" / "dev.jsonl")
    return counts(verdicts, {row.row_id: row.ability for row in asked})


def summary(found: Mapping[str, Any]) -> list[str]:
    """Return lines that say what was found."""
    tape, training = found["tape"], found["training"]
    traces = (
        f"{tape['traces_right']} of {tape['traces']} traces are right, {tape['traces_cut']} "
        f"are cut, {tape['traces_without_answer']} have no answer"
    )
    lines = [
        f"the textual teacher: {traces}",
        f"bytes a token or a second of audio: {tape['bytes_each']}",
        f"seconds: {found['seconds']}; of a step of training {training['step_s']:.2f}",
    ]
    for name, term in training["terms"].items():
        lines.append(f"{name}: {term['first']['value']:.3f} -> {term['last']['value']:.3f}")
    for name in ("base", "student"):
        shares = (f"{ability} {right}/{of}" for ability, (right, of) in found[name].items())
        lines.append(f"{name}: {', '.join(shares)}")
    return lines
