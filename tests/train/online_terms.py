"""Terms as an online distillation computes them: student and teacher in memory, all logits kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from terms_tape import LAYERS
from torch import Tensor

from audio_models.decoder import decoder_of
from audio_models.forward import forward_with_states
from audio_models.load import AudioLM
from train.batch.build import TrainBatch
from train.losses import eager
from train.terms.resolve import StatesAt


@dataclass(frozen=True, kw_only=True)
class Online:
    """Student and teacher in memory: what an online distillation of the same rows has."""

    logits: Tensor
    teacher_logits: Tensor
    student: dict[StatesAt, dict[int, Tensor]]
    teacher: dict[StatesAt, dict[int, Tensor]]
    rows: list[int]
    audio_rows: list[int]


def forward(lm: AudioLM, batch: TrainBatch) -> tuple[Tensor, dict[StatesAt, dict[int, Tensor]]]:
    audio = batch.audio
    out = forward_with_states(lm.model, audio.inputs, LAYERS, audio.predict_positions)
    found: dict[StatesAt, dict[int, Tensor]] = {}
    for at, positions in (("audio", audio.audio_positions), ("token", audio.predict_positions)):
        found[StatesAt("acoustic", at)] = {
            layer: torch.cat([row[where] for row, where in zip(states, positions, strict=True)])
            for layer, states in out.states.items()
        }
    return out.logits_NV, found


def online(lm: AudioLM, teacher: AudioLM, batch: TrainBatch) -> Online:
    with torch.no_grad():
        teacher_logits, teacher_states = forward(teacher, batch)
    logits, states = forward(lm, batch)
    return Online(
        logits=logits,
        teacher_logits=teacher_logits,
        student=states,
        teacher=teacher_states,
        rows=[len(each) for each in batch.audio.predict_positions],
        audio_rows=[len(each) for each in batch.audio.audio_positions],
    )


def lens(lm: AudioLM, states_ND: Tensor) -> Tensor:
    weight = lm.model.get_output_embeddings().weight
    return eager.lens_of_linear_readout(states_ND, decoder_of(lm.model).norm, weight)


def cka_sum(seen: Online) -> Tensor:
    place = StatesAt("acoustic", at="audio")
    total = torch.zeros(())
    for layer in LAYERS:
        rows = (each[place][layer].split(seen.audio_rows) for each in (seen.student, seen.teacher))
        for one, other in zip(*rows, strict=True):
            total = total + len(one) * (1 - eager.feature_cka(one, other))
    return total / len(LAYERS)


def mse_sum(seen: Online) -> Tensor:
    place = StatesAt("acoustic", at="token")
    pairs = [(seen.student[place][n], seen.teacher[place][n]) for n in LAYERS]
    return torch.stack([eager.relative_mse_of_each(*pair).sum() for pair in pairs]).mean()


def lens_sum(lm: AudioLM, teacher: AudioLM, seen: Online) -> Tensor:
    place = StatesAt("acoustic", at="token")
    values = []
    for layer in LAYERS:
        with torch.no_grad():
            said = lens(teacher, seen.teacher[place][layer])
        values.append(eager.dense_jensen_shannon(said, lens(lm, seen.student[place][layer]), 1.0))
    return torch.stack(values).mean(0).sum()


ONLINE: dict[str, Callable[[AudioLM, AudioLM, TrainBatch, Online], Tensor]] = {
    "ce": lambda lm, t, batch, seen: eager.dense_cross_entropy(seen.logits, batch.target_ids).sum(),
    "acoustic_kl": lambda lm, t, batch, seen: (
        4 * eager.dense_forward_kl(seen.teacher_logits, seen.logits, 2.0).sum()
    ),
    **{
        f"acoustic_{name}": functools.partial(
            lambda dense, lm, t, batch, seen: dense(seen.teacher_logits, seen.logits, 1.0).sum(),
            dense,
        )
        for name, dense in eager.DENSE.items()
        if name != "kl"
    },
    "acoustic_lens": lambda lm, t, batch, seen: lens_sum(lm, t, seen),
    "acoustic_hidden": lambda lm, t, batch, seen: cka_sum(seen),
    "acoustic_response": lambda lm, t, batch, seen: mse_sum(seen),
}
