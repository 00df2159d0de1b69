"""A small tape on disk: twelve tones, one trace each, random textual and true acoustic signals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from audio_models.forward import forward_with_states
from audio_models.inputs import Request, build_inputs
from audio_models.load import AudioLM
from cache_schema.answers.questions import question_text
from cache_schema.fingerprint import tokenizer_digest
from cache_schema.maker import GroupInfo
from cache_schema.rows.values import hidden_row, sample_rows, topk_row, trace_row
from cache_schema.shard import Storage
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import Sample, TopK, Trace
from cache_schema.writer import TapeWriter

TEACHER_WIDTH = 24
TEACHER_LAYERS = 4
NUM_SAMPLES = 12
TOP_K = 5
TextLayers = tuple[int, ...]
MakeTape = Callable[..., Path]


def sample(index: int) -> Sample:
    times_s = np.arange(4000 + 700 * index) / 16_000
    audio = (0.3 * np.sin(2 * np.pi * (200 + 90 * index) * times_s)).astype(np.float32)
    return Sample(
        sample_id=f"s{index}",
        row_index=index,
        audio=audio,
        question="Is it high?",
        choices=("yes", "no"),
        answer="yes" if index % 2 else "no",
    )


def trace(lm: AudioLM, item: Sample, **changes: object) -> Trace:
    text = f"<THINK>pitch {item.row_index}</THINK><RESPONSE>{item.answer}</RESPONSE>"
    ids = [*lm.tokenizer(text)["input_ids"], lm.tokenizer.eos_token_id]
    values = {
        "text": text,
        "token_ids": np.asarray(ids, dtype=np.int64),
        "prompt_token_ids": np.zeros(3, dtype=np.int64),
        "finish_reason": "stop",
        "answer": item.answer,
        "correct": True,
        "logprob": -1.0,
    }
    return Trace(**{**values, **changes})  # type: ignore[arg-type]


def random_topk(targets: np.ndarray, seed: int) -> TopK:
    logits = torch.randn(len(targets), 262, generator=torch.Generator().manual_seed(seed))
    logits[torch.arange(len(targets)), torch.from_numpy(targets)] += 6.0
    kept, ids = logits.log_softmax(-1).topk(TOP_K)
    return TopK(
        target_ids=targets,
        token_ids=ids.numpy(),
        logprobs=kept.numpy(),
        tail=(1 - kept.exp().sum(-1)).clamp(min=0).numpy(),
    )


def textual_info(digest: str, layers: TextLayers, signals: tuple[str, ...]) -> GroupInfo:
    facts = {"trace": {}, "topk": {"k": TOP_K}, "hidden": {"layers": list(layers), "width": 24}}
    return GroupInfo(
        group="textual",
        kind="textual",
        signals={name: facts[name] for name in signals},
        identity={
            "tokenizer_digest": digest, "num_layers": TEACHER_LAYERS, "width": TEACHER_WIDTH,
            "vocab_size": 262,
        },
        notes={"model": "tiny-text"},
    )  # fmt: skip


def write_textual(
    root: Path, lm: AudioLM, traces: dict[str, list[Trace]], info: GroupInfo, layers: TextLayers
) -> None:
    with TapeWriter(root, info, storage=Storage(states_dtype="float32"), shard_samples=5) as writer:
        for number, (sample_id, many) in enumerate(traces.items()):
            rng = np.random.default_rng(number)
            hidden = []
            for index, one in enumerate(many):
                place = hidden_row(sample_id, index, "token", (0, 0), one.token_ids, None)
                shape = (len(one.token_ids), TEACHER_WIDTH)
                states = {n: rng.standard_normal(shape).astype(np.float32) for n in layers}
                hidden.append((place, states))
            rows = {"trace": [trace_row(sample_id, i, one) for i, one in enumerate(many)]}
            if "topk" in info.signals:
                rows["topk"] = [
                    topk_row(sample_id, i, random_topk(one.token_ids, number))
                    for i, one in enumerate(many)
                ]
            writer.add(rows, hidden if "hidden" in info.signals else None)


def write_acoustic(
    root: Path, lm: AudioLM, samples: list[Sample], responses: dict[str, np.ndarray]
) -> None:
    signals: dict[str, dict[str, object]] = {"hidden": {"layers": [1, 2], "width": lm.width}}
    if responses:
        signals["topk"] = {"k": TOP_K}
    info = GroupInfo(
        group="acoustic",
        kind="acoustic",
        signals=signals,
        identity={
            "num_layers": lm.num_layers,
            "width": lm.width,
            "tokenizer_digest": tokenizer_digest(lm.tokenizer),
        },
        notes={"model": "tiny-acoustic"},
    )
    with TapeWriter(root, info, storage=Storage(states_dtype="float32")) as writer:
        for item in samples:
            request = Request(audio=item.audio, text=question_text(item.question, item.choices))
            batch = build_inputs(lm, [request])
            with torch.no_grad():
                out = forward_with_states(lm.model, batch.inputs, (1, 2), batch.predict_positions)
            states = {n: s[0, batch.audio_positions[0]].numpy() for n, s in out.states.items()}
            times_s = batch.audio_times_s[0]
            place = hidden_row(item.sample_id, AUDIO_ROW, "audio", (0, 0), None, times_s)
            rows = {}
            if responses:
                topk = random_topk(responses[item.sample_id], item.row_index)
                rows["topk"] = [topk_row(item.sample_id, 0, topk)]
            writer.add(rows, [(place, states)])


def build_tape(
    root: Path,
    student: AudioLM,
    *,
    layers: TextLayers = (2, 4),
    signals: tuple[str, ...] = ("trace", "topk", "hidden"),
    acoustic: bool = True,
    changes: dict[str, dict[str, object]] | None = None,
    digest: str | None = None,
    num_samples: int = NUM_SAMPLES,
    acoustic_responses: dict[str, np.ndarray] | None = None,
    textual: bool = True,
    described: dict[str, str] | None = None,
) -> Path:
    """Write it; ``described``: sample id -> its description, of those that have one."""
    samples = [sample(index) for index in range(num_samples)]
    with TapeWriter(root, GroupInfo(group="samples", kind="samples")) as writer:
        for item in samples:
            assert item.audio is not None
            writer.add(sample_rows(item, "0", len(item.audio)))
    if described:
        with TapeWriter(root, GroupInfo(group="descriptions", kind="descriptions")) as writer:
            for name, text in described.items():
                writer.add({"descriptions": [{"sample_id": name, "description": text}]})
    changed = changes or {}
    traces = {
        item.sample_id: [trace(student, item, **changed.get(item.sample_id, {}))]
        for item in samples
    }
    info = textual_info(digest or tokenizer_digest(student.tokenizer), layers, signals)
    if textual:
        write_textual(root, student, traces, info, layers)
    if acoustic:
        write_acoustic(root, student, samples, acoustic_responses or {})
    return root
