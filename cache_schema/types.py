"""What a tape holds, as plain values: one sample, its traces and its signals.

Shapes: T trace tokens, P prompt tokens, k kept logits, L layers of states, M layers of the lens, D
width, A audio positions, N text positions, F frames, C classes, E width of a pooled embedding.
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
        origin: where it comes from: ``"free"`` (the teacher's own), ``"label"`` (written with the
            right answer told, a label-conditioned rationale) or ``"given"`` (a column of the
            dataset, only read).
        draw: which of the drawn traces it is, from 0, counted before any was left out.
        seed: of its sampling.
    """

    text: str
    token_ids: IntArray
    prompt_token_ids: IntArray
    finish_reason: str
    answer: str
    correct: bool | None
    logprob: float
    origin: str = "free"
    draw: int = 0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A trace that was generated and not kept: nothing is learned from it.

    Attributes:
        draw: which of the drawn traces it is, from 0.
        text: the decoded trace, special tokens left out.
        finish_reason: as of a ``Trace``; so are ``answer``, ``correct``, ``logprob``, ``origin``
            and ``seed``.
        reason: why it was not kept, one of ``cache_schema.signals.REJECT_REASONS`` or as few words.
    """

    draw: int
    text: str
    finish_reason: str
    answer: str
    correct: bool | None
    logprob: float
    origin: str
    seed: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of what was heard.

    Attributes:
        start_s: where it begins in the recording, in seconds.
        end_s: where it ends.
        text: what was heard there.
    """

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a listening model (a speech recogniser, a captioner) wrote of a recording.

    Attributes:
        text: all of it.
        segments: its parts with their times; empty if the model gives none.
    """

    text: str
    segments: tuple[Segment, ...] = ()


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
class Lens:
    """The logit lens: the top-k of chosen layers, each read through the model's own output.

    A layer's state goes through the model's final norm and its unembedding. Of the last layer that
    is the model's own next-token distribution (nostalgebraist, "interpreting GPT: the logit lens",
    2020).

    Attributes:
        target_ids: int64 [T], the token that came next, in this teacher's tokenizer.
        layers: the M layer numbers, ascending; numbered as in ``Hidden``.
        token_ids: int64 [T, M, k], most probable first.
        logprobs: float32 [T, M, k], natural logarithm at T = 1.
        tail: float32 [T, M], probability outside the k.
    """

    target_ids: IntArray
    layers: tuple[int, ...]
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
        states: float32 [T, A or N, L, D]. Layer 0 is the embedding output, layer n the output of
            block n, the last one before the final norm. On trace tokens ``states[t]`` is the input
            position whose next token is ``target_ids[t]``.
        layers: the L layer numbers.
        kind: ``"token"`` (trace tokens), ``"audio"`` (audio positions of a language model),
            ``"frame"`` (frames of an encoder) or ``"text"`` (tokens of the description that an
            encoder of text read).
        target_ids: int64 [T] for ``kind == "token"``; int64 [N] for ``"text"``: the ids of the
            tokens at these positions themselves, special ones included; otherwise ``None``.
        times_s: float32 [A, 2], start and end of each position in seconds, otherwise ``None``.
    """

    states: FloatArray
    layers: tuple[int, ...]
    kind: str
    target_ids: IntArray | None = None
    times_s: FloatArray | None = None


@dataclass(frozen=True, kw_only=True)
class UtteranceLogits:
    """What an audio classifier says of a whole recording: one raw logit a class.

    Attributes:
        logits: float32 [C], before any softmax or sigmoid.
        labels: the C classes' names, in the order of ``logits``; no two are equal.
        multi_label: whether each class is judged for itself (sigmoid); otherwise exactly one class
            holds (softmax over all).
    """

    logits: FloatArray
    labels: tuple[str, ...]
    multi_label: bool


@dataclass(frozen=True, kw_only=True)
class FrameLogits:
    """What an audio classifier says of each frame: one raw logit a class.

    Attributes:
        logits: float32 [F, C], before any softmax or sigmoid.
        times_s: float32 [F, 2], start and end of each frame in seconds of the recording.
        labels: the C classes' names, in the order of ``logits``; no two are equal.
        multi_label: whether each class is judged for itself (sigmoid); otherwise exactly one class
            holds in a frame (softmax over all).
    """

    logits: FloatArray
    times_s: FloatArray
    labels: tuple[str, ...]
    multi_label: bool


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """One vector of a whole recording, such as a speaker embedding.

    Attributes:
        values: float32 [E].
        pooling: how it came about, such as ``"x-vector"`` or ``"mean of layer 12"``.
    """

    values: FloatArray
    pooling: str
