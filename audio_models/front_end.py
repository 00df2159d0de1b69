"""What turns recordings and text into a model's inputs: its processor and its family's facts."""

from __future__ import annotations

from typing import Any, Protocol

from audio_models.families import Family


class FrontEnd(Protocol):
    """The part of an audio language model, or of its tower, that prepares inputs.

    Attributes:
        path: directory or hub id, as given.
        processor: text + audio -> model inputs.
        tokenizer: the processor's tokenizer.
        family: what the family needs of its own.
        audio_token_id: the placeholder one audio position stands on.
        sample_rate_hz: what the feature extractor expects.
        max_audio_s: seconds the front end can hear.
    """

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def processor(self) -> Any: ...  # noqa: D102
    @property
    def tokenizer(self) -> Any: ...  # noqa: D102
    @property
    def family(self) -> Family: ...  # noqa: D102
    @property
    def audio_token_id(self) -> int: ...  # noqa: D102
    @property
    def sample_rate_hz(self) -> int: ...  # noqa: D102
    @property
    def max_audio_s(self) -> float: ...  # noqa: D102


def window_s(front: FrontEnd) -> float:
    """Return the seconds of the windows a recording is filled up to, 0 where there are none."""
    extractor = getattr(front.processor, "feature_extractor", None)
    samples = getattr(extractor, "n_samples", 0)
    return 0.0 if front.family.variable_frames else float(samples / front.sample_rate_hz)
