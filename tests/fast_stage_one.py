"""Stage one with a textual teacher that is only arithmetic: the real steps, in a second or so.

What the teacher says follows from its prompt alone, so that a run that was killed and continued
must leave the values of one that was not.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas  # noqa: F401, ICN001 - imported before anything is forked, as Arrow would
import soundfile
import torch
import transformers.models.qwen2_5_omni.modeling_qwen2_5_omni  # noqa: F401 - as pandas
import xxhash
from transformers import Qwen3Config

import pipeline.acoustic
import pipeline.hearing.frames
import pipeline.hearing.language_model
import pipeline.ingest
import pipeline.textual
import pipeline.textualize
from cache_schema.types import IntArray
from pipeline.acoustic_recipe import AcousticRecipe
from pipeline.extract import run_step
from pipeline.recipe import DatasetRecipe, ExtractRecipe, FailureRecipe, TapeRecipe, TextualRecipe
from pipeline.step import STEPS
from pipeline.teachers.base import (
    EngineDiedError,
    Entries,
    Generated,
    Sampling,
    TokenSignals,
    Wanted,
)

VOCABULARY = 300
WIDTH = 16
LAYERS = 2
END = 256
"""The token that ends a trace; those below are bytes."""

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
    save_config(folder / "arithmetic")
    return folder / "rows.jsonl"


def save_config(folder: Path) -> None:
    """Write the configuration that the arithmetic teacher's sizes are looked up in."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        architectures=["Qwen3ForCausalLM"],
    )
    config.save_pretrained(folder)


class ArithmeticTeacher:
    """A ``TextTeacher`` of bytes; every prompt it continues is a line of ``calls``.

    Args:
        calls: the file.
        writes: (prompt, seed) -> the text of a trace, and why it ended; ``babble`` by default.
        kills: prompts that hold one of these words kill the engine.
    """

    max_model_len = 4096

    def __init__(
        self,
        calls: Path,
        writes: Callable[[str, int], tuple[str, str]] | None = None,
        kills: Sequence[str] = (),
    ) -> None:
        self._calls = calls
        self._writes = writes or babble
        self._kills = kills
        self._dead = False

    def describe(self) -> dict[str, Any]:
        return {
            "model": "arithmetic", "model_digest": "1", "tokenizer_digest": "bytes",
            "engine": "arithmetic", "engine_version": "1", "engine_settings": {},
            "chat_template_digest": "json", "template_args": {}, "dtype": "float32",
            "num_layers": LAYERS, "width": WIDTH, "vocab_size": VOCABULARY,
        }  # fmt: skip

    def encode(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        return np.frombuffer(json.dumps(list(messages)).encode(), np.uint8).astype(np.int64)

    def encode_trace(self, text: str) -> IntArray:
        return np.append(np.frombuffer(text.encode(), np.uint8).astype(np.int64), END)

    def decode(self, token_ids: IntArray) -> str:
        return token_ids[token_ids < END].astype(np.uint8).tobytes().decode(errors="replace")

    def start(self, wanted: Wanted) -> None:
        assert not self._dead, "a dead engine is closed first"
        note(self._calls, "started")

    def generate(
        self, prompts: Sequence[IntArray], seeds: Sequence[int], sampling: Sampling
    ) -> list[list[Generated]]:
        self._live(prompts)
        for prompt in prompts:
            note(self._calls, f"asked {xxhash.xxh3_64_hexdigest(prompt.tobytes())}")
        return [
            [self._one(prompt, seed + draw) for draw in range(sampling.num_traces)]
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def _one(self, prompt: IntArray, seed: int) -> Generated:
        text, finish_reason = self._writes(self.decode(prompt), seed)
        ids = self.encode_trace(text)
        whole = text and finish_reason == "stop"
        ids = ids if whole else ids[:-1]
        logprobs = read(prompt, ids, seed, Wanted(top_k=0)).target_logprobs
        return Generated(token_ids=ids, finish_reason=finish_reason, logprob=float(logprobs.sum()))

    def trace(
        self,
        prompts: Sequence[IntArray],
        seeds: Sequence[int],
        sampling: Sampling,
        wanted: Wanted,
    ) -> list[list[tuple[Generated, TokenSignals]]]:
        traced = self.generate(prompts, seeds, sampling)
        return [
            [
                (one, read(prompt, one.token_ids, seed + draw, wanted))
                for draw, one in enumerate(many)
            ]
            for prompt, seed, many in zip(prompts, seeds, traced, strict=True)
        ]

    def score(
        self,
        prompts: Sequence[IntArray],
        targets: Sequence[IntArray],
        seeds: Sequence[int],
        wanted: Wanted,
    ) -> list[TokenSignals]:
        self._live(prompts)
        note(self._calls, f"scored {len(prompts)}")
        asked = zip(prompts, targets, seeds, strict=True)
        return [read(prompt, target, seed, wanted) for prompt, target, seed in asked]

    def _live(self, prompts: Sequence[IntArray]) -> None:
        assert not self._dead, "a dead engine is closed first"
        if any(word in self.decode(prompt) for prompt in prompts for word in self._kills):
            self._dead = True
            raise EngineDiedError("the engine is gone")

    def close(self) -> None:
        self._dead = False


def babble(prompt: str, seed: int) -> tuple[str, str]:
    """A trace that follows from its prompt and seed: right, wrong, cut or empty."""
    rng = np.random.default_rng([seed, *prompt.encode()])
    kind = 0 if "infinity" in prompt else rng.integers(4)
    text = "".join(chr(97 + letter) for letter in rng.integers(0, 26, rng.integers(1, 9)))
    return [("yes", "stop"), (text, "stop"), (text, "length"), ("", "stop")][kind]


def read(prompt: IntArray, ids: IntArray, seed: int, wanted: Wanted) -> TokenSignals:
    """Signals that follow from prompt, trace and seed; not finite if the prompt says infinity."""
    rng = np.random.default_rng([*prompt.tolist(), *ids.tolist()])
    shares = rng.dirichlet(np.ones(VOCABULARY), (1 + len(wanted.lens), len(ids)))
    draws = np.random.default_rng(seed)
    drawn = [draws.choice(VOCABULARY, wanted.draws, p=share) for share in shares[0]]
    return TokenSignals(
        target_ids=ids,
        target_logprobs=np.log(shares[0][np.arange(len(ids)), ids]).astype(np.float32),
        topk=entries(shares[0], wanted.top_k, prompt) if wanted.top_k else None,
        states={n: rng.normal(0, 1, (len(ids), WIDTH)).astype(np.float32) for n in wanted.layers},
        lens=entries(shares[1:].swapaxes(0, 1), wanted.lens_top_k, prompt) if wanted.lens else None,
        drawn_ids=np.sort(np.reshape(drawn, (len(ids), wanted.draws)).astype(np.int64), axis=1)
        if wanted.draws
        else None,
    )


def entries(shares: np.ndarray, k: int, prompt: IntArray) -> Entries:
    """The k largest of distributions [..., V]."""
    order = np.argsort(-shares, axis=-1)[..., :k]
    kept = np.take_along_axis(shares, order, axis=-1)
    if b"infinity" in prompt.astype(np.uint8).tobytes():
        kept = np.full_like(kept, np.inf)
    return Entries(
        token_ids=order,
        logprobs=np.log(kept).astype(np.float32),
        tail=(1 - kept.sum(axis=-1)).clip(min=0).astype(np.float32),
    )


def note(file: Path, line: str) -> None:
    """Append a line in one write, so that a kill leaves it or not."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode() + b"\n")
    os.close(descriptor)


def recipe_of(dataset: str, out: str, acoustic_teacher: str, profile: str) -> ExtractRecipe:
    """Small shards, all layers, room for a few failures."""
    return ExtractRecipe(
        dataset=DatasetRecipe(path=dataset),
        textual=TextualRecipe(
            teacher=str(Path(dataset).parent / "arithmetic"),
            layers="all",
            top_k=8,
            lens="1,2",
            lens_top_k=4,
            draws=5,
            traces=2,
            temperature=1.0,
            select="first-correct",
            batch_samples=1,
            prompt="plain.v1",
        ),
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
