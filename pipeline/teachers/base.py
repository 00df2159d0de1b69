"""What the extraction loop asks of a textual teacher, whichever engine runs it.

Shapes: P prompt tokens, T trace tokens, k kept logits, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cache_schema.types import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How traces are sampled.

    Attributes:
        num_traces: traces for each prompt.
        max_new_tokens: longer traces are cut and marked ``finish_reason == "length"``.
        temperature: 0 is greedy.
        top_p: nucleus threshold, 1 keeps everything.
    """

    num_traces: int = 1
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Generated:
    """One generated continuation: int64 [T] ids (the end token included) and why it ended."""

    token_ids: IntArray
    finish_reason: str


@dataclass(frozen=True, kw_only=True)
class TokenSignals:
    """What a teacher says about the tokens of one trace.

    Attributes:
        target_ids: int64 [T], the trace's ids as the engine echoed them.
        topk_ids: int64 [T, k], most probable first.
        topk_logprobs: float32 [T, k], natural log, temperature 1.
        tail: float32 [T], probability outside the k, 0..1.
        target_logprobs: float32 [T], log-probability of ``target_ids``.
        states: layer number -> [T, D] in the teacher's dtype: float32, float16, or uint16 holding
            bfloat16 bits. Row t is the input position that predicts ``target_ids[t]``; the last
            layer is taken before the final norm.
    """

    target_ids: IntArray
    topk_ids: IntArray
    topk_logprobs: FloatArray
    tail: FloatArray
    target_logprobs: FloatArray
    states: Mapping[int, NDArray[np.generic]]


class TextTeacher(Protocol):
    """A textual teacher: reads prompts, writes traces, and reports its distributions and states."""

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and trace together that the engine takes."""

    def describe(self) -> dict[str, Any]:
        """Return what made the signals: JSON values.

        Keys: ``model`` (as given), ``model_digest``, ``tokenizer_digest``, ``engine``,
        ``engine_version``, ``dtype``, ``num_layers``, ``width``, ``vocab_size``.
        """

    def encode(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        """Render chat messages with the model's template, generation prompt added; int64 [P]."""

    def decode(self, token_ids: IntArray) -> str:
        """Return the text of a trace, special tokens left out."""

    def start(self, layers: Sequence[int]) -> None:
        """Make ready to report these layers; saves a restart when ``generate`` comes first.

        Raises:
            ModelError: the engine cannot run the model, or cannot report its hidden states.
            UsageError: the model has no such layer.
        """

    def generate(
        self, prompts: Sequence[IntArray], seeds: Sequence[int], sampling: Sampling
    ) -> list[list[Generated]]:
        """Continue each prompt ``sampling.num_traces`` times; ``seeds[i]`` belongs to prompt i."""

    def trace(
        self,
        prompts: Sequence[IntArray],
        seeds: Sequence[int],
        sampling: Sampling,
        top_k: int,
        layers: Sequence[int],
    ) -> list[list[tuple[Generated, TokenSignals]]]:
        """Generate, and report the signals of what was generated; one pass where the engine can."""

    def score(
        self,
        prompts: Sequence[IntArray],
        targets: Sequence[IntArray],
        top_k: int,
        layers: Sequence[int],
    ) -> list[TokenSignals]:
        """Read prompt + target once and report top-k and states of the target's tokens.

        Raises:
            ModelError: the engine's echo of the token ids differs from what was sent.
        """

    def close(self) -> None:
        """Free the engine and its memory."""
