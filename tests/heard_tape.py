"""A tape without any trace, recorded by the real steps of stage one from tiny random teachers.

- ``mood``: what a classifier says of recordings, one class against the others.
- ``events``: what a classifier says of frames of 20 ms, each class by itself.
- ``voice``: the embedding of an x-vector model, and its classes.
- ``textual``: states of the descriptions' tokens, as an encoder of text read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import soundfile
import tiny_audio_encoders
import tiny_encoders

from pipeline.acoustic_recipe import AcousticRecipe
from pipeline.extract import run_step
from pipeline.recipe import DatasetRecipe, ExtractRecipe, FailureRecipe, TapeRecipe
from pipeline.textual_recipe import TextualRecipe

SECONDS = (1.2, 0.8, 1.7, 0.5, 1.0, 2.1, 0.9, 1.4)
SPOKEN = ("one two", "three", "two plus four", "one", "four is three", "two", "one", "three")
UNREAD = "r3"
"""Whose description is longer than the encoder of text takes."""

CLASSIFIERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mood": ("hubert", "ForSequenceClassification", {}),
    "events": ("wavlm", "ForAudioFrameClassification", {"multi_label": True}),
    "voice": ("wav2vec2", "ForXVector", {}),
}
"""Source -> family, class, and settings."""


def record(
    folder: Path,
    sources: Sequence[str] = ("textual", *CLASSIFIERS),
    more: Mapping[str, tuple[str, str, dict[str, Any]]] = MappingProxyType({}),
) -> Path:
    """Record these sources, and more classifiers; return the tape."""
    lines = []
    waves = tiny_audio_encoders.recordings(*SECONDS)
    for number, (wave, said) in enumerate(zip(waves, SPOKEN, strict=True)):
        soundfile.write(folder / f"{number}.wav", wave, 16_000, subtype="FLOAT")
        text = " ".join([said] * 30) if f"r{number}" == UNREAD else said
        line = {"id": f"r{number}", "audio": f"{number}.wav", "question": "", "transcript": text}
        lines.append(json.dumps(line))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    dataset = DatasetRecipe(path=str(folder / "rows.jsonl"))
    tape = TapeRecipe(out=str(folder / "tape"), states_dtype="float32", shard_samples=3)
    failures = FailureRecipe(max_fraction=0.5)
    encoder = TextualRecipe()
    if "textual" in sources:
        path = tiny_encoders.save_encoder(folder / "bert", "bert")
        encoder = TextualRecipe(teacher=str(path), engine="encoder", layers="0,1,3")
    recipe = ExtractRecipe(dataset=dataset, tape=tape, textual=encoder, failures=failures)
    for step in ("ingest", "textualize", "textual")[: 3 if "textual" in sources else 2]:
        run_step(step, recipe)
    chosen = {name: each for name, each in CLASSIFIERS.items() if name in sources}
    for name, (family, ending, settings) in {**chosen, **more}.items():
        path = tiny_audio_encoders.save_encoder(folder / name, family, ending)
        hearing = AcousticRecipe(teacher=str(path), name=name, layers="none", **settings)
        run_step(
            "acoustic",
            ExtractRecipe(dataset=dataset, tape=tape, acoustic=hearing, failures=failures),
        )
    return folder / "tape"
