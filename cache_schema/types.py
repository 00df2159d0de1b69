"""What a tape holds, as plain values: one sample, its traces and its signals.

Shapes: T trace tokens, P prompt tokens, k kept logits, L layers, D width, A audio positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
"""Sample rate of every recording on a tape."""

AUDIO_SOURCE = "acoustic"
TEXT_SOURCE = "textual"

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One row of the dataset.

    Attributes:
        sample_id: given by the dataset, or a hash of the row's content.
        row_index: position in the dataset it came from.
        audio: float32 [num_samples], mono, 16 kHz; ``None`` on a tape that keeps references only.
        question: what is asked about the audio; may be empty.
        choices: the permitted answers, empty for an open question.
        answer: the right answer, empty if unknown.
        metadata: every other column (transcript, speaker, ...), JSON values.
    """

    sample_id: str
    row_index: int
    audio: FloatArray | None
    question: str
    choices: tuple[str, ...] = ()
    answer: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One reasoning trace of a textual teacher.

    Attributes:
        text: the decoded trace, special tokens left out.
        token_ids: int64 [T], the ids that supervise the student, end-of-turn token included.
        prompt_token_ids: int64 [P], the prompt as the engine saw it.
        finish_reason: ``"stop"``, or ``"length"`` for a truncated trace.
        answer: the answer parsed out of the text.
        correct: whether ``answer`` matches the sample's; ``None`` when the sample has none.
        logprob: natural log-probability of the trace at T = 1, summed over its tokens; NaN if not
            measured.
    """

    text: str
    token_ids: IntArray
    prompt_token_ids: IntArray
    finish_reason: str
    answer: str
    correct: bool | None
    logprob: float


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The k largest next-token probabilities for each trace token, at temperature 1.

    Attributes:
        target_ids: int64 [T], the token that came next, in this teacher's tokenizer.
        token_ids: int64 [T, k], most probable first.
        logprobs: float32 [T, k], natural logarithm.
        tail: float32 [T], probability outside the k.
    """

    target_ids: IntArray
    token_ids: IntArray
    logprobs: FloatArray
    tail: FloatArray


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Tokens drawn from the next-token distribution at temperature 1, for each trace token.

    ``counts / num_draws`` is an unbiased estimate of every probability (Sparse Logit Sampling,
    arXiv 2503.16870).

    Attributes:
        target_ids: int64 [T], the token that came next, in this teacher's tokenizer.
        token_ids: int64 [M], the unique ids drawn for all tokens, token by token, ascending.
        counts: int64 [M], how often each was drawn; those of a token add up to ``num_draws``.
        offsets: int64 [T + 1], token t owns entries offsets[t] to offsets[t + 1].
        num_draws: n, draws a token.
    """

    target_ids: IntArray
    token_ids: IntArray
    counts: IntArray
    offsets: IntArray
    num_draws: int


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """Hidden states of chosen layers.

    Attributes:
        states: float32 [T or A, L, D]. Layer 0 is the embedding output, layer N the output of block
            N, the last one before the final norm. On trace tokens ``states[t]`` is the input
            position whose next token is ``target_ids[t]``.
        layers: the L layer numbers.
        kind: ``"token"`` (trace tokens), ``"audio"`` (audio positions of a language model) or
            ``"frame"`` (frames of an encoder).
        target_ids: int64 [T] for ``kind == "token"``, otherwise ``None``.
        times_s: float32 [A, 2], start and end of each position in seconds, otherwise ``None``.
    """

    states: FloatArray
    layers: tuple[int, ...]
    kind: str
    target_ids: IntArray | None = None
    times_s: FloatArray | None = None
