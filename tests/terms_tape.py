"""A tape with every signal a term can read, and the models behind it.

- ``textual``: traces; random top-k, lens, drawn tokens and states of another width.
- ``acoustic`` and ``second``: what a real audio language model says, k tokens kept (all of them, if
  asked): top-k, lens, drawn tokens, states at audio and at response positions.
- ``frames``: states of an encoder's frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tiny_tape import TEACHER_LAYERS, TEACHER_WIDTH, random_topk, sample, trace
from torch import Tensor

from audio_models.decoder import lens_logits
from audio_models.forward import forward_with_states
from audio_models.inputs import Request, build_inputs
from audio_models.load import AudioLM
from cache_schema.answers.questions import question_text
from cache_schema.fingerprint import tokenizer_digest
from cache_schema.maker import GroupInfo
from cache_schema.rows.lens import lens_row
from cache_schema.rows.values import hidden_row, sample_rows, sampled_row, topk_row, trace_row
from cache_schema.shard import Storage
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import Lens, Sample, Sampled, TopK
from cache_schema.writer import TapeWriter

DRAWS = 50
LAYERS = (1, 2)
TEXT_LAYERS = (2, 4)
FRAME_WIDTH = 12


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a model says of a sample and its trace: logits [T, V], states at both places."""

    logits: Tensor
    lens: dict[int, Tensor]
    at_audio: dict[int, Tensor]
    at_tokens: dict[int, Tensor]
    times_s: np.ndarray


def hear(lm: AudioLM, item: Sample, ids: np.ndarray) -> Heard:
    """Run a model on one sample."""
    text = question_text(item.question, item.choices)
    assert item.audio is not None
    batch = build_inputs(lm, [Request(audio=item.audio, text=text, response_ids=ids)])
    with torch.no_grad():
        out = forward_with_states(lm.model, batch.inputs, LAYERS, batch.predict_positions)
        at_tokens = {n: s[0, batch.predict_positions[0]] for n, s in out.states.items()}
        lens = {n: lens_logits(lm.model, states) for n, states in at_tokens.items()}
    return Heard(
        logits=out.logits_NV,
        lens=lens,
        at_audio={n: s[0, batch.audio_positions[0]] for n, s in out.states.items()},
        at_tokens=at_tokens,
        times_s=batch.audio_times_s[0],
    )


def topk_of(logits_TV: Tensor, targets: np.ndarray, k: int) -> TopK:
    kept, ids = logits_TV.double().log_softmax(-1).topk(k)
    rest = logits_TV.double().softmax(-1).scatter(-1, ids, 0.0).sum(-1)
    return TopK(
        target_ids=targets,
        token_ids=ids.numpy(),
        logprobs=kept.float().numpy(),
        tail=rest.float().numpy(),
    )


def lens_of(layers: dict[int, TopK]) -> Lens:
    one = next(iter(layers.values()))
    return Lens(
        target_ids=one.target_ids,
        layers=tuple(layers),
        token_ids=np.stack([each.token_ids for each in layers.values()], axis=1),
        logprobs=np.stack([each.logprobs for each in layers.values()], axis=1),
        tail=np.stack([each.tail for each in layers.values()], axis=1),
    )


def drawn_from(logits_TV: Tensor, targets: np.ndarray, seed: int) -> Sampled:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(logits_TV.softmax(-1), DRAWS, replacement=True, generator=generator)
    rows = [np.unique(row, return_counts=True) for row in drawn.numpy()]
    return Sampled(
        target_ids=targets,
        token_ids=np.concatenate([ids for ids, _ in rows]),
        counts=np.concatenate([counts for _, counts in rows]),
        offsets=np.cumsum([0, *(len(ids) for ids, _ in rows)]),
        num_draws=DRAWS,
    )


def _states(states: dict[int, Tensor]) -> dict[int, np.ndarray]:
    return {layer: each.numpy() for layer, each in states.items()}


def _textual(
    root: Path, lm: AudioLM, ids: dict[str, np.ndarray], samples: Sequence[Sample]
) -> None:
    signals = {
        "trace": {},
        "topk": {"k": 5},
        "sampled": {"num_draws": DRAWS},
        "lens": {"layers": list(TEXT_LAYERS), "k": 5, "codec": "hot"},
        "hidden": {"layers": list(TEXT_LAYERS), "width": TEACHER_WIDTH},
    }
    identity = {"tokenizer_digest": tokenizer_digest(lm.tokenizer), "num_layers": TEACHER_LAYERS,
                "width": TEACHER_WIDTH}  # fmt: skip
    info = GroupInfo(group="textual", kind="textual", signals=signals, identity=identity)
    with TapeWriter(root, info, storage=Storage(states_dtype="float32"), shard_samples=5) as writer:
        for number, item in enumerate(samples):
            name, targets = item.sample_id, ids[item.sample_id]
            generator = torch.Generator().manual_seed(number)
            logits = 3 * torch.randn(len(targets), 262, generator=generator)
            shape = (len(targets), TEACHER_WIDTH)
            states = {n: torch.randn(shape, generator=generator).numpy() for n in TEXT_LAYERS}
            layers = {n: random_topk(targets, 100 * n + number) for n in TEXT_LAYERS}
            rows = {
                "trace": [trace_row(name, 0, trace(lm, item))],
                "topk": [topk_row(name, 0, random_topk(targets, number))],
                "sampled": [sampled_row(name, 0, drawn_from(logits, targets, number))],
                "lens": [lens_row(name, 0, lens_of(layers))],
            }
            writer.add(rows, [(hidden_row(name, 0, "token", (0, 0), targets, None), states)])


def _acoustic(
    root: Path, group: str, lm: AudioLM, ids: dict[str, np.ndarray], samples: Sequence[Sample],
    k: int, without: tuple[str, ...],
) -> None:  # fmt: skip
    signals = {
        "topk": {"k": k},
        "sampled": {"num_draws": DRAWS},
        "lens": {"layers": list(LAYERS), "k": k, "codec": "hot"},
        "hidden": {"layers": list(LAYERS), "width": lm.width},
    }
    identity = {"tokenizer_digest": tokenizer_digest(lm.tokenizer), "num_layers": lm.num_layers,
                "width": lm.width}  # fmt: skip
    info = GroupInfo(group=group, kind="acoustic", signals=signals, identity=identity)
    with TapeWriter(root, info, storage=Storage(states_dtype="float32"), shard_samples=7) as writer:
        for number, item in enumerate(samples):
            name, targets = item.sample_id, ids[item.sample_id]
            heard = hear(lm, item, targets)
            lens = lens_of({n: topk_of(one, targets, k) for n, one in heard.lens.items()})
            rows = {
                "topk": [topk_row(name, 0, topk_of(heard.logits, targets, k))],
                "sampled": [sampled_row(name, 0, drawn_from(heard.logits, targets, number))],
                "lens": [lens_row(name, 0, lens)],
            }
            at_audio = hidden_row(name, AUDIO_ROW, "audio", (0, 0), None, heard.times_s)
            places = [(at_audio, _states(heard.at_audio))]
            if name not in without:
                at_tokens = hidden_row(name, 0, "token", (0, 0), targets, None)
                places.append((at_tokens, _states(heard.at_tokens)))
            writer.add(rows, places)


def _frames(root: Path, samples: Sequence[Sample]) -> None:
    signals = {"hidden": {"layers": [1], "width": FRAME_WIDTH}}
    identity = {"num_layers": 1, "width": FRAME_WIDTH}
    info = GroupInfo(group="frames", kind="acoustic", signals=signals, identity=identity)
    with TapeWriter(root, info, storage=Storage(states_dtype="float32")) as writer:
        for item in samples:
            times_s = (np.arange(8, dtype=np.float32) / 100).reshape(4, 2)
            place = hidden_row(item.sample_id, AUDIO_ROW, "frame", (0, 0), None, times_s)
            writer.add({}, [(place, {1: np.ones((4, FRAME_WIDTH), dtype=np.float32)})])


def write(
    root: Path, student: AudioLM, teacher: AudioLM, *, k: int = 6, num_samples: int = 6,
    sources: tuple[str, ...] = ("acoustic", "second", "frames"),
    without: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """Write it; samples in ``without`` have no acoustic states at their response."""
    samples = [sample(index) for index in range(num_samples)]
    with TapeWriter(root, GroupInfo(group="samples", kind="samples")) as writer:
        for item in samples:
            assert item.audio is not None
            writer.add(sample_rows(item, "0", len(item.audio)))
    with TapeWriter(root, GroupInfo(group="descriptions", kind="descriptions")) as writer:
        for item in samples:
            described = {"sample_id": item.sample_id, "description": f"a tone, {item.sample_id}"}
            writer.add({"descriptions": [described]})
    ids = {item.sample_id: trace(student, item).token_ids for item in samples}
    _textual(root, student, ids, samples)
    for group in sources:
        if group == "frames":
            _frames(root, samples)
        else:
            _acoustic(root, group, teacher, ids, samples, k, without)
    return root
