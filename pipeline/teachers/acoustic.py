"""What the acoustic step asks of a teacher that hears, be it a language model or an encoder.

A forward pass takes items: a recording with one response, or a piece of a recording. Passes are
built on the CPU, launched, and landed once their results are in host memory, so that the next pass
is built and launched meanwhile.

Shapes: A audio positions or frames, T response tokens, D width, C classes, E embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from numpy.typing import NDArray

from cache_schema.rows.values import Row
from cache_schema.types import FloatArray, IntArray
from pipeline.teachers.base import TokenSignals

Rows = tuple[dict[str, list[Row]], list[tuple[Row, Mapping[int, NDArray[Any]]]]]
"""A sample's rows a table, and its ``hidden`` rows with their states."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One row of a forward pass.

    Attributes:
        audio: float32 [num_samples], mono, 16 kHz.
        start_s: where it begins in its recording, in seconds.
        is_first: whether it is the first item of its sample.
        text: the question with its choices.
        response_ids: int64 [T], in the teacher's tokenizer; empty for none.
        seed: of the tokens drawn on the response.
        length_s: what it takes of a pass, in seconds of audio.
    """

    audio: FloatArray
    start_s: float = 0.0
    is_first: bool = True
    text: str = ""
    response_ids: IntArray | None = None
    seed: int = 0
    length_s: float


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a teacher said of one item.

    Attributes:
        states: layer -> [A, D] at audio positions or frames, bfloat16 as uint16; empty for none.
        times_s: float32 [A, 2], start and end of each of them in the recording.
        response: signals of the response's tokens, ``None`` for no response.
        utterance_logits: float32 [C].
        frame_logits: float32 [A, C].
        embedding: float32 [E].
    """

    times_s: FloatArray
    states: Mapping[int, NDArray[Any]] = field(default_factory=dict)
    response: TokenSignals | None = None
    utterance_logits: FloatArray | None = None
    frame_logits: FloatArray | None = None
    embedding: FloatArray | None = None


class AcousticTeacher(Protocol):
    """A teacher in memory.

    Attributes:
        same_length: whether only recordings of one length may share a pass.
    """

    same_length: bool

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def items(
        self, audio: FloatArray, text: str, responses: Sequence[tuple[IntArray, int]]
    ) -> list[Item]:
        """Return the items of one sample, at least one.

        Args:
            audio: float32 [num_samples], 16 kHz.
            text: the question with its choices.
            responses: the responses to be read, each with a seed.

        Raises:
            AudioError: the teacher cannot hear it.
        """

    def build(self, items: Sequence[Item]) -> Any:
        """Build the inputs of one pass on the CPU; may run beside another pass.

        Raises:
            AudioError: one of the items cannot be heard.
        """

    def launch(self, built: Any) -> Any:
        """Begin a pass and the moves of its results to host memory."""

    def land(self, flight: Any) -> list[Told]:
        """Return what was said of each item once it is there."""

    def rows(self, sample_id: str, told: Sequence[Told]) -> Rows:
        """Return what is recorded of one sample, of all its items in order."""
