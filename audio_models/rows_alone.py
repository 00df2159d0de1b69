"""Audio towers that hear each row of a batch by itself.

Some towers have no mask for the padding of a batch, or apply one after convolutions that have seen
the padding: what they say of a recording then depends on the longest one beside it. A teacher's
states must not. Each function here makes the tower of one loaded network run row by row, at the
row's own length, which is what transformers computes for a batch of one.

Shapes: B rows, F frames, A audio positions, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def join_rows(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    """Join what a processor made of each row alone.

    Features [1, F, D] are padded with NaN: NaN is no feature, so the padding is told from silence,
    and a tower that was not made to leave it out cannot go unnoticed. Masks are padded with false,
    sizes are put one after the other, ids stay a list of rows.
    """
    joined: dict[str, Any] = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        if key in ("input_ids", "attention_mask"):
            joined[key] = [value[0] for value in values]
        elif values[0].ndim == 1:
            joined[key] = torch.cat(values)
        else:
            padding = float("nan") if values[0].is_floating_point() else 0.0
            joined[key] = pad_sequence(
                [value[0] for value in values], batch_first=True, padding_value=padding
            )
    return joined


def granite_alone(network: Any) -> None:
    """Let Granite Speech encode rows alone; its encoder takes no mask at all.

    Features come padded with NaN (``join_rows``).
    """
    inner = network.model
    together = inner.get_audio_features

    def alone(input_features: Tensor, **settings: Any) -> Any:
        rows = [row[~row.isnan().any(-1)] for row in input_features]
        outputs = [together(row[None], **settings) for row in rows]
        output = outputs[0]
        output.pooler_output = pad_sequence(
            [one.pooler_output[0] for one in outputs], batch_first=True
        )
        return output

    inner.get_audio_features = alone


def qwen3_omni_alone(network: Any) -> None:
    """Let a Qwen3-Omni thinker encode rows alone.

    Its tower pads every piece to the longest of the batch before the convolutions.
    """
    together = network.get_audio_features

    def alone(
        input_features: Tensor,
        feature_attention_mask: Tensor | None = None,
        audio_feature_lengths: Tensor | None = None,
        **settings: Any,
    ) -> Any:
        if feature_attention_mask is None or len(input_features) == 1:
            return together(
                input_features, feature_attention_mask, audio_feature_lengths, **settings
            )
        outputs = [
            together(row[None], mask[None], **settings)
            for row, mask in zip(input_features, feature_attention_mask, strict=True)
        ]
        output = outputs[0]
        output.last_hidden_state = torch.cat([one.last_hidden_state for one in outputs])
        return output

    network.get_audio_features = alone


def phi_alone(network: Any) -> None:
    """Let Phi-4-multimodal encode rows alone; its convolutions run before its mask.

    Features come padded with NaN (``join_rows``), without a mask.
    """
    encoder = network.model.embed_tokens_extend.audio_embed.encoder
    together = encoder.forward

    def alone(hidden_states: Tensor, mask: Tensor | None = None, **settings: Any) -> Any:
        del mask  # there is none, and it may come by its name
        rows = [row[~row.isnan().any(-1)] for row in hidden_states]
        outputs = [together(row[None], None, **settings)[0] for row in rows]
        return pad_sequence(outputs, batch_first=True)

    encoder.forward = alone
