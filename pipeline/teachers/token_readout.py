"""What transformers' language models say of the tokens of a response, chunk by chunk.

The textual and the acoustic teacher share it. The unembedding is the class's own code (scaling and
soft caps included), run on few positions at a time: [N, V] never exists.

Shapes: N positions, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from audio_models.decoder import lens_logits, logits_of
from pipeline.teachers.base import Wanted
from pipeline.teachers.readout import CHUNK_ROWS, of_lens, of_logits


def read_tokens(
    model: Any,
    normed_ND: Tensor,
    states: Mapping[int, Tensor],
    target_N: Tensor,
    uniforms_N: Tensor,
    wanted: Wanted,
) -> dict[str, Tensor]:
    """Read the distributions at the positions that predict a response.

    Args:
        model: a transformers causal or audio language model.
        normed_ND: states behind the final norm.
        states: layer -> [N, D] before it, the layers of ``wanted.lens`` at least.
        target_N: the tokens that came next.
        uniforms_N: float64, a random number a position, for ``wanted.draws``.
        wanted: which signals; its ``layers`` are not read here.

    Returns:
        Field of ``pipeline.teachers.records.record_dtype`` -> [N, ...], on the model's device.
    """
    chunks: list[dict[str, Tensor]] = []
    for start in range(0, len(normed_ND), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        logits_NV = logits_of(model, normed_ND[part])
        found = of_logits(logits_NV, target_N[part], uniforms_N[part], wanted)
        lens = (lens_logits(model, states[layer][part]) for layer in wanted.lens)
        chunks.append(found | of_lens(lens, wanted.lens_top_k))
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
