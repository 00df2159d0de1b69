"""The acoustic teacher: everything a recipe can say of it, with its defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cache_schema.codecs.sampled import MAX_DRAWS
from cache_schema.commands.recipes import one_of
from cache_schema.errors import UsageError
from cache_schema.layout import HEARD_PREFIX
from cache_schema.types import AUDIO_SOURCE, TEXT_SOURCE

PARTS = ("auto", "audio_tower")
STATES_AT = ("audio", "response", "both")
EMBEDDINGS = ("auto", "mean", "none")

LANGUAGE_MODEL_ONLY = ("states_at", "lens", "lens_top_k", "draws")
"""Settings that an encoder, a classifier or an audio tower has no use for."""

FRAMES_ONLY = ("chunk_s", "embedding", "multi_label")
"""Settings that the language model of an audio language model has no use for."""

TAKEN = ("samples", "descriptions", "heard", TEXT_SOURCE)
"""Names of groups that hold something else."""

_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class AcousticRecipe:
    """The acoustic teacher: an audio language model, an audio encoder or an audio classifier.

    Attributes:
        teacher: model directory or hub id, or ``torchaudio:PIPELINE``; empty for none.
        name: what its signals are called on the tape (``acoustic/hidden``); a second teacher on the
            same tape takes another, as ``wavlm``.
        part: ``auto``: of an audio language model the language model, of an encoder the encoder;
            ``audio_tower``: the encoder inside an audio language model.
        layers: which hidden states to record.
        states_at: positions of an audio language model they are taken at: ``audio``, ``response``
            (where each token of the response is predicted) or ``both``.
        top_k: logits kept a response token; 0 for none.
        lens: layers to read through the final norm and the unembedding, in the form of ``layers``.
        lens_top_k: logits kept a response token and lens layer.
        draws: tokens drawn at each response position, the unbiased form of its distribution.
        embedding: one pooled embedding a recording: ``auto`` (the one a classifier's head computes,
            if there is a head), ``mean`` (of an encoder's last layer over the frames), ``none``.
        chunk_s: recordings longer than this are cut into pieces of this many seconds, which an
            encoder hears one by one; 0 cuts none, and what the front end cannot hear is left out.
        multi_label: whether a classifier's classes are judged each by itself; what its
            configuration says if left out, which a large one must.
        dtype: ``auto`` (the model's own), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        batch_size: recordings (with a response each) a forward pass, 0 to find it; halved when
            memory runs out.
    """

    teacher: str = ""
    name: str = AUDIO_SOURCE
    part: str = "auto"
    layers: str = "proportional:4"
    states_at: str = "audio"
    top_k: int = 64
    lens: str = "none"
    lens_top_k: int = 64
    draws: int = 0
    embedding: str = "auto"
    chunk_s: float = 0.0
    multi_label: bool | None = None
    dtype: str = "auto"
    device: str = "auto"
    batch_size: int = 0

    def __post_init__(self) -> None:
        one_of("acoustic.part", self.part, PARTS)
        one_of("acoustic.states_at", self.states_at, STATES_AT)
        one_of("acoustic.embedding", self.embedding, EMBEDDINGS)
        one_of("acoustic.device", self.device.partition(":")[0], ("auto", "cpu", "cuda", "mps"))
        is_taken = self.name in TAKEN or self.name.startswith(HEARD_PREFIX)
        if is_taken or not _NAME.fullmatch(self.name):
            raise UsageError(
                f"acoustic.name {self.name!r}: expected a-z, 0-9 and _, a letter first, and none "
                f"of the tape's own names ({', '.join(TAKEN)}, {HEARD_PREFIX}...)"
            )
        for name in ("batch_size", "top_k", "draws", "chunk_s"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"acoustic.{name}: expected 0 or more, got {getattr(self, name)}")
        if self.lens_top_k < 1:
            raise UsageError(f"acoustic.lens_top_k: expected at least 1, got {self.lens_top_k}")
        if self.draws > MAX_DRAWS:
            raise UsageError(f"acoustic.draws: expected at most {MAX_DRAWS}, got {self.draws}")

    def refuse_given(self, names: tuple[str, ...], kind: str) -> None:
        """Refuse settings that are not at their defaults and mean nothing here.

        Args:
            names: the settings.
            kind: what the teacher is, for the message.

        Raises:
            UsageError: naming the first.
        """
        for name in names:
            if getattr(self, name) != getattr(AcousticRecipe, name):
                raise UsageError(
                    f"acoustic.{name}={getattr(self, name)!r}: {self.teacher} is read as {kind}, "
                    "which has no use for it"
                )
