"""What the extraction loop asks of a textual teacher, whichever engine runs it.

Shapes: P prompt tokens, T trace tokens, k kept logits, M lens layers, n draws, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import ModelError
from cache_schema.types import FloatArray, IntArray


class EngineDiedError(ModelError):
    """The engine failed on what it was given; the next call starts another one."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How traces are sampled.

    Attributes:
        num_traces: traces for each prompt.
        max_new_tokens: longer traces are cut and marked ``finish_reason == "length"``.
        temperature: 0 is greedy.
        top_p: nucleus threshold, 1 keeps everything.
        top_k: draw from so many most probable tokens only; 0 draws from all.
        min_p: draw only from tokens at least this much as probable as the most probable one.
        repetition_penalty: divides positive logits of tokens that were there before (multiplies
            negative ones); 1 for none.
    """

    num_traces: int = 1
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which signals a teacher reports of each trace token; the same for a whole run.

    Attributes:
        top_k: logits kept; 0 for none.
        layers: hidden states of these layers, ascending.
        lens: these layers read through the final norm and the unembedding, ascending.
        lens_top_k: logits kept a lens layer.
        draws: tokens drawn from the distribution; 0 for none.
    """

    top_k: int = 64
    layers: tuple[int, ...] = ()
    lens: tuple[int, ...] = ()
    lens_top_k: int = 64
    draws: int = 0


@dataclass(frozen=True, kw_only=True)
class Generated:
    """One generated continuation.

    Attributes:
        token_ids: int64 [T], the token that ended it included.
        finish_reason: ``stop``, or ``length`` if it was cut.
        logprob: natural log-probability at temperature 1, summed over its tokens.
    """

    token_ids: IntArray
    finish_reason: str
    logprob: float


@dataclass(frozen=True, kw_only=True)
class Entries:
    """The k largest entries of distributions over the vocabulary, at temperature 1.

    Attributes:
        token_ids: int64 [..., k], most probable first.
        logprobs: float32 [..., k], natural logarithm.
        tail: float32 [...], probability outside the k, 0..1.
    """

    token_ids: IntArray
    logprobs: FloatArray
    tail: FloatArray


@dataclass(frozen=True, kw_only=True)
class TokenSignals:
    """What a teacher says about the tokens of one trace.

    Row t of everything belongs to the input position that predicts ``target_ids[t]``.

    Attributes:
        target_ids: int64 [T], the trace's ids as the engine echoed them.
        target_logprobs: float32 [T], log-probability of ``target_ids``.
        topk: [T, k] entries, ``None`` if they are not wanted.
        states: layer number -> [T, D] in the teacher's dtype: float32, float16, or uint16 holding
            bfloat16 bits. The last layer is taken before the final norm.
        lens: [T, M, k] entries of the lens layers, ``None`` if they are not wanted.
        drawn_ids: int64 [T, n], the tokens drawn at each position, ascending; ``None`` if they are
            not wanted.
    """

    target_ids: IntArray
    target_logprobs: FloatArray
    topk: Entries | None
    states: Mapping[int, NDArray[np.generic]]
    lens: Entries | None
    drawn_ids: IntArray | None


class TextTeacher(Protocol):
    """A textual teacher: reads prompts, writes traces, and reports its distributions and states.

    ``seeds[i]`` belongs to prompt i; trace j of it is drawn with ``seeds[i] + j``. What is drawn
    depends on neither the batch nor the order, up to the rounding of batched arithmetic.

    Every call may raise ``EngineDiedError``; a later call starts the engine again.
    """

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and trace together that the engine takes."""

    def describe(self) -> dict[str, Any]:
        """Return what made the signals: JSON values.

        Keys: ``model`` (as given), ``model_digest``, ``tokenizer_digest``,
        ``chat_template_digest``, ``template_args``, ``stop_ids``, ``engine``, ``engine_version``,
        ``engine_settings`` (those that change values), ``dtype``, ``num_layers``, ``width``,
        ``vocab_size``.
        """

    def encode(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        """Render chat messages with the chat template, generation prompt added; int64 [P]."""

    def encode_trace(self, text: str) -> IntArray:
        """Return the ids of a given trace, the token that ends a turn added; int64 [T]."""

    def decode(self, token_ids: IntArray) -> str:
        """Return the text of a trace without the tokens that begin, end or pad a text."""

    def start(self, wanted: Wanted) -> None:
        """Make ready to report these signals; saves a restart when ``generate`` comes first.

        Raises:
            ModelError: the engine cannot run the model, or cannot report these signals of it.
            UsageError: the model has no such layer, or fewer logits.
        """

    def generate(
        self, prompts: Sequence[IntArray], seeds: Sequence[int], sampling: Sampling
    ) -> list[list[Generated]]:
        """Continue each prompt ``sampling.num_traces`` times."""

    def trace(
        self,
        prompts: Sequence[IntArray],
        seeds: Sequence[int],
        sampling: Sampling,
        wanted: Wanted,
    ) -> list[list[tuple[Generated, TokenSignals]]]:
        """Generate, and report the signals of what was generated; one pass where the engine can."""

    def score(
        self,
        prompts: Sequence[IntArray],
        targets: Sequence[IntArray],
        seeds: Sequence[int],
        wanted: Wanted,
    ) -> list[TokenSignals]:
        """Read each prompt + target once and report the signals of the target's tokens.

        ``seeds`` are those of ``wanted.draws``: equal seeds draw as ``trace`` did.

        Raises:
            ModelError: the engine's echo of the token ids differs from what was sent.
        """

    def close(self) -> None:
        """Free the engine and its memory."""
