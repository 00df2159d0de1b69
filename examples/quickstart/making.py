"""The quickstart's first half: recordings, the world, and the models that are made on the spot."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

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
from examples.quickstart.questions import QUESTIONS
from examples.quickstart.steps import say

TRAINING_ROWS = 1200
HELDOUT_ROWS = 400
TEACHER_TEXTS = 4000
TEACHER_CHECK_ROWS = 100
HEARING_CLIPS = 1200


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
        heldout: the held-out rows as a tape, for both evaluations.
        before: the evaluation of the base audio LM.
        after: that of the student, compared with it.
    """

    out: Path
    recordings: Path
    world: Path
    teacher: Path
    base: Path
    cache: Path
    run: Path
    heldout: Path
    before: Path
    after: Path


def places_in(out: Path) -> Places:
    """Return the places in a folder."""
    names = [field.name for field in dataclasses.fields(Places)][1:]
    return Places(out=out, **{name: out / name for name in names})


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
    heldout = world.read_rows(places.world / "heldout.jsonl")[:TEACHER_CHECK_ROWS]
    scores = evaluation.score(teacher.answer_by_reading(places.teacher, heldout), heldout)
    right, asked = (sum(scores[kind][place] for kind in QUESTIONS) for place in (0, 1))
    say(f"it reads {asked} held-out rows and answers {right} of them right")
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
