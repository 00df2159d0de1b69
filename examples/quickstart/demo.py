"""The quickstart's steps in order: what is made, both stages, before and after."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from examples.quickstart import evaluation, teacher, world
from examples.quickstart.making import (
    Places,
    get_recordings,
    make_base,
    make_teacher,
    make_world,
    places_in,
)
from examples.quickstart.recordings import RecordingsError
from examples.quickstart.steps import FolderError, Steps, command, say

MAX_TRACE_TOKENS = 80
ANSWERS = "answers.jsonl"
RECIPE = Path(__file__).parent / "quickstart.toml"
DISTILLED_TERMS = ("text_jsd", "text_hidden", "acoustic_hidden")

BASE, STUDENT, TEACHER = "base audio LM", "distilled student", "textual teacher (reads)"


def run(out: Path, recordings_folder: Path | None, seed: int, fresh: bool) -> int:
    """Run all steps; returns the exit status, 0 when the student clearly learned to reason."""
    transformers_logging.disable_progress_bar()
    places = places_in(out)
    made = [path.name for path in dataclasses.astuple(places)[1:]] + [ANSWERS]
    source = str(recordings_folder.resolve()) if recordings_folder else "automatic"
    try:
        steps = Steps(out, {"seed": seed, "recordings": source}, made, total=8, fresh=fresh)
        found: dict[str, Any] = {}
        for name, title, action in (
            (
                "recordings",
                "recorded speech: numbers spoken one by one",
                partial(get_recordings, places, recordings_folder),
            ),
            ("world", "the world: clips, questions, answers", partial(make_world, places, seed)),
            (
                "teacher",
                "the textual teacher learns to reason, from text alone",
                partial(make_teacher, places, seed),
            ),
            (
                "base",
                "the base audio LM learns to hear, and only that",
                partial(make_base, places, seed),
            ),
            (
                "extract",
                "stage one: both teachers are recorded on a tape",
                partial(extract, places, seed),
            ),
            (
                "train",
                "stage two: the student learns from the tape; no teacher is needed any more",
                partial(distil, places, seed),
            ),
            (
                "evaluate",
                "before and after, on compositions nobody was trained on",
                partial(evaluate, places),
            ),
        ):
            found = steps.run(name, title, action)
    except (FolderError, RecordingsError, subprocess.CalledProcessError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("quickstart: interrupted; the same command continues", file=sys.stderr)
        return 130
    return report(places, found, steps.elapsed_s)


def extract(places: Places, seed: int) -> dict[str, Any]:
    """Step five: stage one, the real command."""
    command(
        "pipeline",
        "extract-teachers",
        "--dataset",
        places.world / "train.jsonl",
        "--text-teacher",
        places.teacher,
        "--acoustic-teacher",
        places.base,
        "--out",
        places.cache,
        "--text-layers",
        "all",
        "--acoustic-layers",
        "all",
        "--max-new-tokens",
        MAX_TRACE_TOKENS,
        "--set",
        f"textual.prompt={teacher.PROMPT}",
        "--seed",
        seed,
    )
    command("pipeline", "inspect", places.cache)
    return {}


def distil(places: Places, seed: int) -> dict[str, Any]:
    """Step six: stage two, the real command; it reads the tape and the student, no teacher."""
    command(
        "train",
        "student",
        "--cache",
        places.cache,
        "--student",
        places.base,
        "--out",
        places.run,
        "--recipe",
        RECIPE,
        "--seed",
        seed,
    )
    return {}


def evaluate(places: Places) -> dict[str, Any]:
    """Step seven: everybody answers the held-out rows; the two that listen by the real command."""
    command(
        "pipeline",
        "ingest",
        "--dataset",
        places.world / "heldout.jsonl",
        "--out",
        places.heldout,
    )
    for model, out, more in (
        (places.base, places.before, ()),
        (places.run / "student", places.after, ("--baseline", places.before)),
    ):
        command(
            "train",
            "evaluate",
            "--model",
            model,
            "--data",
            places.heldout,
            "--out",
            out,
            "--max-new-tokens",
            MAX_TRACE_TOKENS,
            *more,
        )
    training = world.read_rows(places.world / "train.jsonl")
    rows = world.read_rows(places.world / "heldout.jsonl")
    texts = {}
    for name, answer in (
        (BASE, partial(evaluation.answers_in, places.before)),
        (STUDENT, partial(evaluation.answers_in, places.after)),
        (TEACHER, partial(teacher.answer_by_reading, places.teacher)),
        ("commonest answer", partial(evaluation.commonest_answers, training)),
    ):
        say(f"{len(rows)} answers: {name}")
        texts[name] = answer(rows)
    evaluation.save_answers(places.out / ANSWERS, rows, texts)
    scores = {name: evaluation.score(answers, rows) for name, answers in texts.items()}
    return {"scores": scores, "blind": evaluation.chance(rows)}


def report(places: Places, found: dict[str, Any], elapsed_s: float) -> int:
    """Step eight: the table, and where to look next."""
    print(f"\n[8/8] what came of it ({elapsed_s / 60:.1f} minutes)\n")
    print(evaluation.table(found["scores"], found["blind"]))
    before, after = (found["scores"][name]["reasoning"] for name in (BASE, STUDENT))
    better = evaluation.clearly_better(before, after)
    verdict = "The student learned to reason about what it hears."
    if not better:
        verdict = "The student did NOT clearly learn to reason. Please report this."
    print(f"\n{verdict}\n\nWhere to look next:")
    python, sft = shlex.quote(sys.executable), places.out / "run-sft"
    zero = " ".join(f"--set terms.{term}.weight=0" for term in DISTILLED_TERMS)
    print(f"  one recorded sample    {python} -m pipeline inspect {places.cache} train-0000")
    print(
        f"  fine-tuning alone      {python} -m train student --cache {places.cache} "
        f"--student {places.base} --out {sft} --recipe {RECIPE} {zero}"
    )
    print(
        f"  and what it answers    {python} -m train evaluate --model {sft / 'student'} "
        f"--data {places.heldout} --max-new-tokens {MAX_TRACE_TOKENS} "
        f"--out {places.out / 'sft'} --baseline {places.after}"
    )
    print(f"  before and after       {places.after / 'report.html'} (open it in a browser)")
    print(f"  every answer           {places.out / ANSWERS}")
    print(f"  every step's losses    {places.run / 'metrics.jsonl'}")
    return 0 if better else 1
