"""What is sent to vLLM and what comes back, as plain values: no engine is imported here.

Shapes: P prompt tokens, T trace tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache_schema.errors import ModelError
from cache_schema.types import FloatArray, IntArray
from pipeline.teachers.base import Generated, Sampling
from pipeline.teachers.channel import Receiver
from pipeline.teachers.records import REQUEST_KEY


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        token_ids: what the engine reads.
        params: fields of vLLM's ``SamplingParams``.
        row: where its signals arrive, if any are wanted.
    """

    token_ids: list[int]
    params: dict[str, Any]
    row: int | None


def continuations(
    prompts: Sequence[IntArray],
    seeds: Sequence[int],
    sampling: Sampling,
    receiver: Receiver | None,
) -> list[Request]:
    """Ask for ``sampling.num_traces`` continuations of each prompt in turn.

    Args:
        prompts: int64 [P] each.
        seeds: one a prompt; trace j of prompt i is drawn with ``seeds[i] + j``.
        sampling: how.
        receiver: who gets the signals, if any are wanted.
    """
    requests = []
    for prompt, first_seed in zip(prompts, seeds, strict=True):
        for seed in range(first_seed, first_seed + sampling.num_traces):
            row, extra = _ask(receiver, len(prompt) - 1, sampling.max_new_tokens, seed)
            params = {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "min_p": sampling.min_p,
                "repetition_penalty": sampling.repetition_penalty,
                "max_tokens": sampling.max_new_tokens,
                "seed": seed,
                "logprobs": 0,  # of the token that was drawn
                "extra_args": extra,
            }
            requests.append(Request(token_ids=prompt.tolist(), params=params, row=row))
    return requests


def readings(
    prompts: Sequence[IntArray],
    targets: Sequence[IntArray],
    seeds: Sequence[int],
    receiver: Receiver,
) -> list[Request]:
    """Ask what the teacher makes of given traces: one forward pass each.

    vLLM cannot be asked for less than one token of its own; it is thrown away.
    """
    requests = []
    for prompt, target, seed in zip(prompts, targets, seeds, strict=True):
        row, extra = _ask(receiver, len(prompt) - 1, len(target), seed)
        params = {"temperature": 0.0, "max_tokens": 1, "extra_args": extra}
        ids = [*prompt.tolist(), *target.tolist()]
        requests.append(Request(token_ids=ids, params=params, row=row))
    return requests


def generated_of(completion: Any) -> Generated:
    """Return a completion's tokens, why it ended and how probable it was."""
    return Generated(
        token_ids=np.asarray(completion.token_ids, np.int64),
        finish_reason=str(completion.finish_reason),
        logprob=float(logprobs_of(completion).sum(dtype=np.float64)),
    )


def logprobs_of(completion: Any) -> FloatArray:
    """Return the log-probabilities of a completion's tokens, float32 [T].

    Raises:
        ModelError: they are of other tokens.
    """
    flat = completion.logprobs
    if list(flat.token_ids) != list(completion.token_ids):
        raise ModelError("the engine's log-probabilities belong to other tokens than the trace's")
    return np.asarray(flat.logprobs, np.float32)


def _ask(
    receiver: Receiver | None, first: int, count: int, seed: int
) -> tuple[int | None, dict[str, Any]]:
    """Expect a request's signals; return their row and what the request must say."""
    if receiver is None:
        return None, {}
    row = receiver.expect(first, count)
    return row, {REQUEST_KEY: {"row": row, "first": first, "end": first + count, "seed": seed}}
