"""A student and a tape with random signals, and runs of the real trainer on them, for figures.

The student is a Qwen2.5-Omni thinker of random weights, the tape of noise: what is in them changes
no time and no memory.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acoustic import save_language_model

from audio_models.inputs import Request, build_inputs
from cache_schema.answers.questions import question_text
from cache_schema.fingerprint import tokenizer_digest
from cache_schema.maker import GroupInfo
from cache_schema.rows.lens import lens_row
from cache_schema.rows.values import hidden_row, sample_rows, topk_row, trace_row
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import Lens, Sample, TopK, Trace
from cache_schema.writer import SHARD_SAMPLES, TapeWriter
from train.assemble import build_run, make_accelerator
from train.gradients import step_gradients
from train.parts import Run
from train.recipe import TrainRecipe
from train.rundir import RunDir
from train.settings import LoopRecipe, StudentRecipe
from train.steps.loads import Feed
from train.steps.planning import Planner
from train.student import load_student
from train.tapes import check_tapes, open_tapes, resolve_all
from train.terms.recipe import TermsRecipe

TOP_K = 64
TOKENS = (60, 180)
"""Of a trace: the shortest and the longest."""

SECONDS = (1.0, 2.0)
CE = {"ce": {"weight": 1.0}}


@dataclass(frozen=True, kw_only=True)
class Size:
    """A student, and how much it trains on at a time."""

    width: int
    layers: int
    vocabulary: int
    batch_tokens: int
    vocab_chunk: int
    rows: int

    @property
    def pairs(self) -> tuple[int, ...]:
        """Four layers, the last one among them; the teacher's have the same numbers."""
        return tuple(sorted({max(1, self.layers * n // 4) for n in (1, 2, 3, 4)}))


CPU = Size(width=384, layers=8, vocabulary=32_000, batch_tokens=900, vocab_chunk=256, rows=48)
CUDA = Size(
    width=1536, layers=16, vocabulary=151_936, batch_tokens=8192, vocab_chunk=1024, rows=192
)


class World:
    """A folder with a student and a tape of textual and acoustic signals of it.

    Args:
        folder: empty.
        size: of the student.
        shard_samples: of the tape.
    """

    def __init__(self, folder: Path, size: Size, shard_samples: int = SHARD_SAMPLES) -> None:
        self._folder, self.size, self._shard_samples = folder, size, shard_samples
        self.tape = folder / "tape"
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        with contextlib.redirect_stderr(io.StringIO()):
            save_language_model(folder / "student", size.width, size.layers, size.vocabulary)
            self.lm = load_student(str(folder / "student"), StudentRecipe())
        self._write(self.tape)

    @property
    def parameters(self) -> int:
        """Of the student."""
        return sum(p.numel() for p in self.lm.model.parameters())

    def run(self, terms: dict[str, dict[str, object]], location: str = "") -> Run:
        """Return a run with these terms, from a URL of the tape or from disk.

        All runs train the one student.
        """
        size = self.size
        recipe = TrainRecipe(
            terms=TermsRecipe.from_values(terms, "terms"),
            loop=LoopRecipe(
                max_steps=10_000,
                batch_tokens=size.batch_tokens,
                micro_tokens=2 * size.batch_tokens,
                vocab_chunk=size.vocab_chunk,
            ),
        )
        tapes = open_tapes({"": location or str(self.tape)})
        check_tapes(recipe, tapes)
        found = resolve_all(recipe, tapes, self.lm.num_layers)
        stages = Planner(recipe, tapes, found, self.lm).stages()
        accelerator = make_accelerator(recipe, self._folder)
        return build_run(
            RunDir(root=self._folder / "run"), recipe, self.lm, found, stages, accelerator
        )

    def hidden(self, name: str = "text_hidden", **more: object) -> dict[str, dict[str, object]]:
        """Return the section of a term on the four pairs of layers."""
        pairs = ",".join(f"{n}:{n}" for n in self.size.pairs)
        return {name: {"weight": 0.1, "layers": pairs, **more}}

    def _write(self, root: Path) -> None:
        rng = np.random.default_rng(0)
        samples = [_sample(rng, number) for number in range(self.size.rows)]
        ids = {
            each.sample_id: rng.integers(100, self.size.vocabulary, rng.integers(*TOKENS))
            for each in samples
        }
        of_samples, most = GroupInfo(group="samples", kind="samples"), self._shard_samples
        with TapeWriter(root, of_samples, shard_samples=most) as writer:
            for each in samples:
                assert each.audio is not None
                writer.add(sample_rows(each, "0" * 64, len(each.audio)))
        for kind in ("textual", "acoustic"):
            with TapeWriter(root, self._info(kind), shard_samples=most) as writer:
                for each in samples:
                    writer.add(*self._signals(rng, kind, each, ids[each.sample_id]))

    def _info(self, kind: str) -> GroupInfo:
        layers, lm = list(self.size.pairs), self.lm
        signals: dict[str, Any] = {
            "topk": {"k": TOP_K},
            "hidden": {"layers": layers, "width": lm.width},
        }
        if kind == "textual":
            signals |= {"trace": {}, "lens": {"layers": layers, "k": TOP_K, "codec": "hot"}}
        identity = {"tokenizer_digest": tokenizer_digest(lm.tokenizer), "num_layers": lm.num_layers,
                    "width": lm.width}  # fmt: skip
        return GroupInfo(group=kind, kind=kind, signals=signals, identity=identity)

    def _signals(
        self, rng: np.random.Generator, kind: str, sample: Sample, ids: np.ndarray
    ) -> tuple[Any, Any]:
        name, layers, lm = sample.sample_id, self.size.pairs, self.lm
        rows: dict[str, Any] = {"topk": [topk_row(name, 0, self._topk(rng, ids))]}
        count = len(ids)
        place = hidden_row(name, 0, "token", (0, 0), ids, None)
        if kind == "textual":
            said = [self._topk(rng, ids) for _ in layers]
            rows["trace"] = [trace_row(name, 0, _trace(ids))]
            rows["lens"] = [lens_row(name, 0, _lens(layers, said))]
        else:
            text = question_text(sample.question, sample.choices)
            asked = Request(audio=sample.audio, text=text, response_ids=ids)
            times_s = build_inputs(lm, [asked]).audio_times_s[0]
            count = len(times_s)
            place = hidden_row(name, AUDIO_ROW, "audio", (0, 0), None, times_s)
        normal = rng.standard_normal((len(layers), count, lm.width), dtype=np.float32)
        bits = (normal.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        return rows, [(place, dict(zip(layers, bits, strict=True)))]

    def _topk(self, rng: np.random.Generator, targets: np.ndarray) -> TopK:
        """Tokens in steps from a random one, the target first; a tail of some percent."""
        shape = (len(targets), TOP_K)
        steps = np.arange(TOP_K) * 97
        ids = (targets[:, None] + steps) % self.size.vocabulary
        logits = np.sort(rng.standard_normal((len(targets), TOP_K + 1)) * 2)[:, ::-1]
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        logprobs = np.log(shares[:, :TOP_K]).astype(np.float32).reshape(shape)
        return TopK(target_ids=targets, token_ids=ids, logprobs=logprobs,
                    tail=shares[:, TOP_K].astype(np.float32))  # fmt: skip


def _sample(rng: np.random.Generator, number: int) -> Sample:
    audio = 0.1 * rng.standard_normal(round(rng.uniform(*SECONDS) * 16_000))
    return Sample(
        sample_id=f"s{number:04d}", row_index=number, audio=audio.astype(np.float32),
        question=" ".join(f"w{n}" for n in range(20)), choices=(), answer="w1",
    )  # fmt: skip


def _trace(ids: np.ndarray) -> Trace:
    return Trace(text="", token_ids=ids, prompt_token_ids=ids[:1], finish_reason="stop", answer="",
                 correct=True, logprob=-1.0)  # fmt: skip


def _lens(layers: tuple[int, ...], said: list[TopK]) -> Lens:
    return Lens(
        target_ids=said[0].target_ids,
        layers=layers,
        token_ids=np.stack([each.token_ids for each in said], axis=1),
        logprobs=np.stack([each.logprobs for each in said], axis=1),
        tail=np.stack([each.tail for each in said], axis=1),
    )


class Stepper:
    """Steps of a run, the way the loop takes them but for the optimizer's own.

    Args:
        run: what to step.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.feed = Feed(run, 0, run.recipe.loop.micro_tokens)
        self._step = 0

    def advance(self) -> None:
        """Take the next step's batches."""
        self._step += 1
        self.feed.advance()

    def gradients(self) -> None:
        """Find the gradients of the step's batches, and forget them."""
        step_gradients(self.run, self.feed, self._step, measure_norms=False)
        self.forget()

    def forget(self) -> None:
        """Free the gradients; wait for a device."""
        self.run.optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def __call__(self) -> None:
        """Take one step."""
        self.advance()
        self.gradients()

    def close(self) -> None:
        """End the loader."""
        self.feed.close()
