"""Steps that listen, with tiny models or one that says what it is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_stage_one import save_dataset
from typer.testing import CliRunner, Result

from cache_schema.errors import AudioError
from cache_schema.types import FloatArray, Heard
from pipeline.cli import app
from pipeline.listen.base import Hearing
from pipeline.listen.plan import Listening, plan
from pipeline.textualize_recipe import ListenRecipe


def chirps(*seconds: float) -> list[FloatArray]:
    found = []
    for index, length_s in enumerate(seconds):
        times_s = np.arange(int(length_s * 16_000)) / 16_000
        noise = np.random.default_rng(index).normal(0, 0.02, len(times_s))
        found.append(0.3 * np.sin(2 * np.pi * (200 + 300 * times_s) * times_s) + noise)
    return [audio.astype(np.float32) for audio in found]


def planned(model: Path, **settings: Any) -> Listening:
    return plan("heard", ListenRecipe(model=str(model), device="cpu", **settings))


def pipeline(step: str, folder: Path, *settings: str) -> Result:
    told = ["--dataset", folder / "rows.jsonl", "--out", folder / "t", *settings]
    return CliRunner().invoke(app, [step, *map(str, told)])


def listening(whisper: Path, audio_lm: Path, *more: str) -> list[str]:
    settings = [
        f"transcript.model={whisper}", "transcript.batch_size=4", "transcript.device=cpu",
        f"scene.model={audio_lm}", "scene.max_new_tokens=6", "scene.device=cpu",
        "scene.prompt=What is heard?", *more,
    ]  # fmt: skip
    return [part for one in settings for part in ("--set", f"textualize.listen.{one}")]


def ingested(folder: Path, rows: int = 9) -> Path:
    """A tape of rows with no column but the speaker, to describe by listening."""
    dataset = save_dataset(folder, rows)
    lines = [json.loads(line) for line in dataset.read_text().splitlines()]
    for row in lines:
        del row["transcript"]
    dataset.write_text("".join(json.dumps(row) + "\n" for row in lines))
    done = pipeline("ingest", folder)
    assert done.exit_code == 0, done.stderr
    return folder


class Scripted:
    """Hears the length; runs out of memory above a batch size; one length cannot be heard."""

    def __init__(self, most: int, bad: int = 0) -> None:
        self.most, self.bad = most, bad
        self.batches: list[int] = []

    def hear(self, audios: Sequence[FloatArray]) -> list[Hearing]:
        self.batches.append(len(audios))
        if len(audios) > self.most:
            raise torch.cuda.OutOfMemoryError("out of memory")
        if self.bad in map(len, audios):
            raise AudioError("cannot be heard")
        heard = [Heard(text=f"{len(audio)} samples") for audio in audios]
        return [Hearing(heard=one, is_cut=False) for one in heard]
