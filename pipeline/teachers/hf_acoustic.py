"""The acoustic teacher: a transformers audio language model, read in batches of one forward pass.

Shapes: R response tokens, k kept logits, A audio positions, D width; N asked positions of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from audio_models.forward import Forward, forward_with_states
from audio_models.inputs import AudioBatch, Request, build_inputs
from audio_models.load import AudioLM
from cache_schema.errors import AudioError
from cache_schema.types import FloatArray, TopK


@dataclass(frozen=True, kw_only=True)
class AcousticSignals:
    """What the teacher said of one request.

    Attributes:
        states: layer -> [A, D] at the audio positions, in the model's dtype (bfloat16 as uint16).
        times_s: float32 [A, 2], start and end of each audio position.
        topk: top-k on the response, [R, k].
    """

    states: Mapping[int, NDArray[Any]]
    times_s: FloatArray
    topk: TopK


@torch.no_grad()
def read_batch(
    lm: AudioLM, requests: Sequence[Request], layers: Sequence[int], top_k: int
) -> list[AcousticSignals]:
    """Run one forward pass over audio, question and response together.

    The tail is 1 minus the summed probabilities of the k, in float64 of float32 log-probabilities.

    Raises:
        AudioError: a recording cannot be heard, or a response holds the audio placeholder.
    """
    for request in requests:
        if request.response_ids is not None and lm.audio_token_id in request.response_ids:
            raise AudioError("the response holds the audio placeholder, which is no text")
    batch = build_inputs(lm, requests).to(lm.device)
    forward = forward_with_states(lm.model, batch.inputs, layers, batch.predict_positions)
    logprobs_NV = forward.logits_NV.float().log_softmax(dim=-1)
    kept_Nk, ids_Nk = logprobs_NV.topk(top_k, dim=-1)
    tail_N = (1.0 - kept_Nk.double().exp().sum(dim=-1)).clamp(0.0, 1.0).float()
    counts = [len(positions) for positions in batch.predict_positions]
    parts = [tensor.cpu().split(counts) for tensor in (ids_Nk, kept_Nk, tail_N)]
    signals = []
    for index, request in enumerate(requests):
        ids, kept, tail = (part[index].numpy() for part in parts)
        target_ids = np.asarray([] if request.response_ids is None else request.response_ids)
        topk = TopK(target_ids=target_ids.astype(np.int64), token_ids=ids, logprobs=kept, tail=tail)
        signals.append(
            AcousticSignals(
                states=_audio_states(forward, batch, index),
                times_s=batch.audio_times_s[index],
                topk=topk,
            )
        )
    return signals


def _audio_states(forward: Forward, batch: AudioBatch, index: int) -> dict[int, NDArray[Any]]:
    positions = batch.audio_positions[index]
    states = {}
    for layer, states_BTD in forward.states.items():
        rows = states_BTD[index, positions.to(states_BTD.device)].cpu()
        bits = rows.view(torch.uint16) if rows.dtype == torch.bfloat16 else rows
        states[layer] = bits.numpy()
    return states
