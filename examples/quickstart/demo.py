"""The quickstart's steps, in order."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from examples.quickstart import (
    asterisk_prompts,
    evaluation,
    hearing,
    other_sources,
    recordings,
    teacher,
    tokens,
    world,
)
from examples.quickstart.audio_lm import make_audio_lm
from examples.quickstart.steps import FolderError, Steps, say

TRAINING_ROWS = 1200
HELDOUT_ROWS = 400
TEACHER_TEXTS = 4000
HEARING_CLIPS = 1200
MAX_TRACE_TOKENS = 80
RECIPE = Path(__file__).parent / "quickstart.toml"
DISTILLED_TERMS = ("text_jsd", "text_hidden", "acoustic_hidden")

BASE, STUDENT, TEACHER = "base audio LM", "distilled student", "textual teacher (reads)"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where everything lies.

    Attributes:
        out: the folder that holds the others.
        recordings: single spoken numbers.
        world: the data set: clips, ``train.jsonl``, ``heldout.jsonl``.
        teacher: the textual teacher.
        base: the base audio LM: the acoustic teacher, and where the student starts.
        cache: the tape.
        run: stage two's run.
    """

    out: Path
    recordings: Path
    world: Path
    teacher: Path
    base: Path
    cache: Path
    run: Path


def places_in(out: Path) -> Places:
    """Return the places in a folder."""
    names = ("recordings", "world", "teacher", "base", "cache", "run")
    return Places(out=out, **{name: out / name for name in names})


def run(out: Path, recordings_folder: Path | None, seed: int, fresh: bool) -> int:
    """Run all steps; returns the exit status, 0 when the student clearly learned to reason."""
    torch.set_num_threads(2)
    transformers_logging.disable_progress_bar()
    places = places_in(out)
    source = str(recordings_folder.resolve()) if recordings_folder else "automatic"
    try:
        steps = Steps(out, {"seed": seed, "recordings": source}, total=8, fresh=fresh)
        steps.run(
            "recordings",
            "recorded speech: numbers spoken one by one",
            partial(get_recordings, places, recordings_folder),
        )
        steps.run(
            "world", "the world: clips, questions, answers", partial(make_world, places, seed)
        )
        steps.run(
            "teacher",
            "the textual teacher learns to reason, from text alone",
            partial(make_teacher, places, seed),
        )
        steps.run(
            "base",
            "the base audio LM learns to hear, and only that",
            partial(make_base, places, seed),
        )
        steps.run(
            "extract",
            "stage one: both teachers are recorded on a tape",
            partial(extract, places, seed),
        )
        steps.run(
            "train",
            "stage two: the student learns from the tape; the teachers are not needed any more",
            partial(distil, places, seed),
        )
        found = steps.run(
            "evaluate",
            "before and after, on compositions nobody was trained on",
            partial(evaluate, places),
        )
    except (FolderError, recordings.RecordingsError, subprocess.CalledProcessError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    return report(places, found, steps.elapsed_s)


def get_recordings(places: Places, folder: Path | None) -> dict[str, Any]:
    """Step one: get recordings and keep them in the run's folder."""
    if folder is not None:
        found = recordings.read_folder(folder)
    else:
        found = recordings.first_available(
            {
                "Debian's recorded prompts": partial(asterisk_prompts.load, say),
                "the hub": partial(other_sources.load_hub, say),
                "synthetic speech": partial(other_sources.load_synthetic, say),
            },
            say,
        )
    recordings.save(found, places.recordings)
    voices = ", ".join(f"{speaker} ({language})" for speaker, language in found.voices)
    say(f"{found.name}: {len(found.recordings)} recordings of the numbers 0 to 9, {found.note}")
    say(f"voices: {voices}")
    return {"name": found.name, "note": found.note}


def make_world(places: Places, seed: int) -> dict[str, Any]:
    """Step two: the data set."""
    found = recordings.load_saved(places.recordings)
    voices = world.Voices(found)
    training, heldout = world.split_compositions(seed)
    rng = np.random.default_rng([seed, 2])
    for name, compositions, count in (
        ("train", training, TRAINING_ROWS),
        ("heldout", heldout, HELDOUT_ROWS),
    ):
        rows = world.draw_rows(name, compositions, found, count, rng)
        world.write_rows(places.world, name, rows, voices, rng)
        say(f"{name}.jsonl: {count} rows from {len(compositions)} compositions")
    say("held out are sets of numbers: no clip of them, in any order, is ever trained on.")
    say("The recordings of the single numbers are the same ones, spoken by the same voices,")
    say("each time with other gaps, speed, gain and noise.")
    return {}


def make_teacher(places: Places, seed: int) -> dict[str, Any]:
    """Step three: the tokenizer and the textual teacher."""
    found = recordings.load_saved(places.recordings)
    training, _ = world.split_compositions(seed)
    rng = np.random.default_rng([seed, 3])
    rows = world.draw_rows("text", training, found, TEACHER_TEXTS, rng)
    tokenizer = tokens.make_tokenizer(teacher.tokenizer_texts(rows))
    torch.manual_seed(seed)
    model = teacher.make_teacher(tokenizer)
    say(f"a Qwen3 of {model.num_parameters() / 1e6:.1f} million parameters reads {len(rows)} texts")
    teacher.train_teacher(model, tokenizer, rows, rng, say)
    model.save_pretrained(places.teacher)
    tokenizer.save_pretrained(places.teacher)
    return {}


def load_tokenizer(places: Places) -> PreTrainedTokenizerFast:
    """Return the tokenizer all models share."""
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(places.teacher)
    return tokenizer


def make_base(places: Places, seed: int) -> dict[str, Any]:
    """Step four: the base audio LM."""
    found = recordings.load_saved(places.recordings)
    voices = world.Voices(found)
    training, _ = world.split_compositions(seed)
    rng = np.random.default_rng([seed, 4])
    clips = [
        voices.render(*world.draw_clip(training, found, rng), rng) for _ in range(HEARING_CLIPS)
    ]
    processor = tokens.make_processor(load_tokenizer(places))
    heard = hearing.prepare_clips(clips, processor)
    torch.manual_seed(seed)
    model = make_audio_lm(processor.tokenizer)
    say(f"a Qwen2.5-Omni thinker of {model.num_parameters() / 1e6:.1f} million parameters")
    say(f"its audio tower learns which number is spoken when, from {len(clips)} clips")
    hearing.train_tower(model, heard, rng, say)
    say("the whole model learns to answer what it hears")
    hearing.train_hearing(model, processor, heard, rng, say)
    model.save_pretrained(places.base)
    processor.save_pretrained(places.base)
    return {}


def extract(places: Places, seed: int) -> dict[str, Any]:
    """Step five: stage one, the real command."""
    _command(
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
        "--seed",
        seed,
    )
    _command("pipeline", "inspect", places.cache)
    return {}


def distil(places: Places, seed: int) -> dict[str, Any]:
    """Step six: stage two, the real command; it reads the tape and the student, no teacher."""
    _command(
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
    """Step seven: everybody answers the held-out rows."""
    training = world.read_rows(places.world / "train.jsonl")
    rows = world.read_rows(places.world / "heldout.jsonl")
    texts = {
        BASE: evaluation.answer_by_ear(places.base, places.world, rows),
        STUDENT: evaluation.answer_by_ear(places.run / "student", places.world, rows),
        TEACHER: teacher.answer_by_reading(places.teacher, rows),
        "commonest answer": evaluation.commonest_answers(training, rows),
    }
    evaluation.save_answers(places.out / "answers.jsonl", rows, texts)
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
    print(f"  every answer           {places.out / 'answers.jsonl'}")
    print(f"  every step's losses    {places.run / 'metrics.jsonl'}")
    return 0 if better else 1


def _command(module: str, *arguments: object) -> None:
    """Run one of the project's commands as a user would, in a process of its own."""
    words = [str(argument) for argument in arguments]
    say(f"$ {module} {shlex.join(words)}")
    subprocess.run([sys.executable, "-m", module, *words], check=True)
