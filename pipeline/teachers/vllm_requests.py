"""What is sent to vLLM and what comes back, as plain values: no engine is imported here.

Shapes: P prompt tokens, T trace tokens, k kept logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache_schema.types import FloatArray, IntArray
from pipeline.teachers.base import Generated, Sampling
from pipeline.teachers.states_channel import StatesReceiver


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        token_ids: what the engine reads.
        params: fields of vLLM's ``SamplingParams``.
        row: where its hidden states arrive, if they are wanted.
    """

    token_ids: list[int]
    params: dict[str, Any]
    row: int | None


def continuations(
    prompts: Sequence[IntArray],
    seeds: Sequence[int],
    sampling: Sampling,
    top_k: int | None,
    receiver: StatesReceiver | None,
) -> list[Request]:
    """Ask for ``sampling.num_traces`` continuations of each prompt in turn.

    Args:
        prompts: int64 [P] each.
        seeds: one a prompt; trace j of prompt i is drawn with ``seeds[i] + j``.
        sampling: how.
        top_k: how many log-probabilities of each token to report; ``None`` for none at all.
        receiver: who gets the hidden states, if they are wanted.
    """
    requests = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        for index in range(sampling.num_traces):
            row, extra = _ask(receiver, len(prompt) - 1, sampling.max_new_tokens)
            params = {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_new_tokens,
                "seed": seed + index,
                "logprobs": top_k,
                "extra_args": extra,
            }
            requests.append(Request(token_ids=prompt.tolist(), params=params, row=row))
    return requests


def readings(
    prompts: Sequence[IntArray],
    targets: Sequence[IntArray],
    top_k: int,
    receiver: StatesReceiver | None,
) -> list[Request]:
    """Ask what the teacher makes of given traces: one forward pass each.

    vLLM cannot be asked for less than one token of its own; it is thrown away.
    """
    requests = []
    for prompt, target in zip(prompts, targets, strict=True):
        row, extra = _ask(receiver, len(prompt) - 1, len(target))
        params = {
            "temperature": 0.0,
            "max_tokens": 1,
            "prompt_logprobs": top_k,
            "extra_args": extra,
        }
        ids = [*prompt.tolist(), *target.tolist()]
        requests.append(Request(token_ids=ids, params=params, row=row))
    return requests


def generated_of(completion: Any) -> Generated:
    """Return a completion's tokens and why it ended."""
    return Generated(
        token_ids=np.asarray(completion.token_ids, np.int64),
        finish_reason=str(completion.finish_reason),
    )


def entries_of(flat: Any, num_tokens: int, top_k: int) -> tuple[IntArray, FloatArray]:
    """Cut the last positions out of vLLM's flat log-probabilities.

    Returns:
        Ids and log-probabilities, [T, 1 + k]: of the token that was there, then of the k most
        probable ones, most probable first.
    """
    start = len(flat.token_ids) - num_tokens * (top_k + 1)
    ids = np.asarray(flat.token_ids[start:], np.int64).reshape(-1, top_k + 1)
    return ids, np.asarray(flat.logprobs[start:], np.float32).reshape(ids.shape)


def _ask(
    receiver: StatesReceiver | None, first: int, count: int
) -> tuple[int | None, dict[str, Any]]:
    """Expect a request's states; return their row and what the request must say."""
    if receiver is None:
        return None, {}
    row = receiver.expect(first, count)
    return row, {"states": {"row": row, "first": first, "end": first + count}}
