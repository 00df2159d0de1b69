"""Stage one with a textual teacher that is only arithmetic: the real steps, in a second or so.

What the teacher says follows from its prompt alone, so that a run that was killed and continued
must leave the values of one that was not.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas  # noqa: F401, ICN001 - imported before anything is forked, as Arrow would
import soundfile
import torch
import transformers.models.qwen2_5_omni.modeling_qwen2_5_omni  # noqa: F401 - as pandas
import xxhash

import pipeline.acoustic
import pipeline.ingest
import pipeline.textual
import pipeline.textualize
from cache_schema.types import IntArray
from pipeline.extract import run_step
from pipeline.recipe import (
    AcousticRecipe,
    DatasetRecipe,
    ExtractRecipe,
    FailureRecipe,
    TapeRecipe,
    TextualRecipe,
)
from pipeline.step import STEPS
from pipeline.teachers.base import Generated, Sampling, TokenSignals

VOCABULARY = 300
WIDTH = 16
LAYERS = 2
SHARD_SAMPLES = 4
UNREADABLE, NOTHING_SAID, NOT_FINITE = 5, 9, 14
"""Rows that end in quarantine: of the samples, the descriptions, the textual signals."""


def save_rows(folder: Path, count: int) -> Path:
    """Write short recordings and their JSONL; three rows cannot be recorded."""
    folder.mkdir(parents=True)
    lines = []
    for index in range(count):
        rng = np.random.default_rng(index)
        soundfile.write(folder / f"{index}.wav", rng.normal(0, 0.1, 800 + 160 * (index % 5)), 16000)
        said = {NOTHING_SAID: "", NOT_FINITE: "to infinity"}.get(index, f"number {index}")
        row = {"id": f"r{index}", "audio": f"{index}.wav", "question": "What is said?"}
        lines.append(json.dumps({**row, "answer": "yes", "transcript": said}))
    (folder / f"{UNREADABLE}.wav").write_bytes(b"not audio")
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "rows.jsonl"


class ArithmeticTeacher:
    """A ``TextTeacher``; every prompt it reads is a line of ``calls``."""

    max_model_len = 4096

    def __init__(self, calls: Path) -> None:
        self._calls = calls

    def describe(self) -> dict[str, Any]:
        return {
            "model": "arithmetic", "model_digest": "1", "tokenizer_digest": "bytes",
            "engine": "arithmetic", "engine_version": "1", "dtype": "float32",
            "num_layers": LAYERS, "width": WIDTH, "vocab_size": VOCABULARY,
        }  # fmt: skip

    def encode(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        return np.frombuffer(json.dumps(list(messages)).encode(), np.uint8).astype(np.int64)

    def decode(self, token_ids: IntArray) -> str:
        return "".join(chr(65 + token % 26) for token in token_ids)

    def start(self, layers: Sequence[int]) -> None:
        pass

    def trace(
        self,
        prompts: Sequence[IntArray],
        seeds: Sequence[int],
        sampling: Sampling,
        top_k: int,
        layers: Sequence[int],
    ) -> list[list[tuple[Generated, TokenSignals]]]:
        return [[self._one(prompt, top_k, layers)] for prompt in prompts]

    def _one(
        self, prompt: IntArray, top_k: int, layers: Sequence[int]
    ) -> tuple[Generated, TokenSignals]:
        text = prompt.astype(np.uint8).tobytes()
        note(self._calls, f"asked {xxhash.xxh3_64_hexdigest(text)}")
        rng = np.random.default_rng(list(text))
        ids = rng.integers(0, VOCABULARY, rng.integers(0, 9))
        shares = rng.dirichlet(np.ones(VOCABULARY), len(ids)).reshape(len(ids), VOCABULARY)
        order = np.argsort(-shares, axis=1)[:, :top_k]
        kept = np.take_along_axis(shares, order, axis=1)
        states = {n: rng.normal(0, 1, (len(ids), WIDTH)).astype(np.float32) for n in layers}
        if b"infinity" in text:
            ids, order, kept = np.ones(1, np.int64), order[:1], np.ones((1, top_k)) * np.inf
        return Generated(token_ids=ids, finish_reason="stop"), TokenSignals(
            target_ids=ids,
            topk_ids=order,
            topk_logprobs=np.log(kept).astype(np.float32),
            tail=(1 - kept.sum(axis=1)).clip(min=0).astype(np.float32),
            target_logprobs=np.log(shares[np.arange(len(ids)), ids]) if len(shares) else ids * 0.0,
            states=states,
        )

    def close(self) -> None:
        pass


def note(file: Path, line: str) -> None:
    """Append a line in one write, so that a kill leaves it or not."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode() + b"\n")
    os.close(descriptor)


def recipe_of(dataset: str, out: str, acoustic_teacher: str, profile: str) -> ExtractRecipe:
    """Small shards, all layers, room for a few failures."""
    return ExtractRecipe(
        dataset=DatasetRecipe(path=dataset),
        textual=TextualRecipe(teacher="arithmetic", layers="all", top_k=8, batch_samples=1),
        acoustic=AcousticRecipe(
            teacher=acoustic_teacher, layers="0,2", top_k=8, batch_size=2, device="cpu"
        ),
        tape=TapeRecipe(out=out, profile=profile, shard_samples=SHARD_SAMPLES),
        failures=FailureRecipe(max_fraction=0.5),
    )


def extract(
    dataset: str, out: str, acoustic_teacher: str, profile: str, diary: str, fatal: int
) -> int:
    """Run the steps; die, as by ``kill -9``, at the fatal-th touch of the tape's files.

    Args:
        dataset: JSONL.
        out: the tape.
        acoustic_teacher: model directory, empty for none.
        profile: of the states.
        diary: gets a line a step and a prompt.
        fatal: 0 to live.

    Returns:
        How often the tape's files were opened, made, renamed, linked or removed.
    """
    torch.set_num_threads(1)
    touched = 0

    def touch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal touched
        if event.startswith(("open", "os.", "mmap")) and any(
            isinstance(argument, str | os.PathLike) and str(argument).startswith(out)
            for argument in arguments
        ):
            touched += 1
            if touched == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(touch)
    recipe = recipe_of(dataset, out, acoustic_teacher, profile)
    pipeline.textual.load_teacher = lambda _recipe, _seed: ArithmeticTeacher(Path(diary))
    for step in STEPS:
        if step != "acoustic" or acoustic_teacher:
            note(Path(diary), f"step {step}")
            run_step(step, recipe)
    return touched
