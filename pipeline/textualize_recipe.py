"""How audio becomes the description a textual teacher reads: what a recipe can say of it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cache_schema.commands.recipes import one_of
from cache_schema.errors import UsageError
from pipeline.describe.template import parse_template

KINDS = ("auto", "asr", "caption", "classify")
TASKS = ("transcribe", "translate")
MAX_COLUMN_CHARACTERS = 64
LEAST_CHUNK_S = 1.0
OF_CLASSIFIERS = ("threshold", "min_s", "chunk_s", "ignore", "multi_label")
"""Settings of a listener that mean nothing to other kinds of models."""

_COLUMN = re.compile(r"[A-Za-z0-9]\w*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ListenRecipe:
    """A model that listens and fills one column of text.

    Attributes:
        model: directory or hub id.
        kind: ``asr`` (the Whisper family: what is said, with its seconds), ``caption`` (an audio
            language model answers a prompt), ``classify`` (an audio classifier: the most probable
            class, or what is on from when to when), or ``auto``: what the model's configuration
            says.
        prompt: what a caption answers; empty for ``pipeline.listen.caption.PROMPT``.
        language: of the speech, for ``asr`` (``en`` or ``english``); empty to detect it.
        task: of ``asr``: ``transcribe``, or ``translate`` into English.
        max_new_tokens: longest caption (of what the model hears at once: longer recordings get one
            a window), or longest text of 30 s of speech; by default 256, and half of what the
            decoder takes.
        threshold: probability from which on a class is told, for classifiers whose classes do not
            exclude each other, and for those of frames; by default 0.5.
        min_s: of a classifier of frames: a class that is on for less is left out, and one that is
            off for less goes on; by default 0.2.
        chunk_s: a classifier of frames hears longer recordings in equal windows of at most this
            many seconds and reads them as one; 0 for what its front end hears, which for many is a
            recording of any length, and then its memory grows with the square of it.
        ignore: classes that are not told (``no speech``, ``neutral``).
        multi_label: whether a classifier's classes are judged each by itself (several can be told);
            by default what the model's configuration says.
        batch_size: recordings heard together, halved when memory runs out.
        dtype: ``auto`` (the model's own), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
    """

    model: str = ""
    kind: str = "auto"
    prompt: str = ""
    language: str = ""
    task: str = "transcribe"
    max_new_tokens: int | None = None
    threshold: float | None = None
    min_s: float | None = None
    chunk_s: float = 0.0
    ignore: tuple[str, ...] = ()
    multi_label: bool | None = None
    batch_size: int = 8
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        one_of("textualize.listen: kind", self.kind, KINDS)
        one_of("textualize.listen: task", self.task, TASKS)
        one_of("textualize.listen: dtype", self.dtype, ("auto", "float32", "bfloat16", "float16"))
        devices = ("auto", "cpu", "cuda", "mps")
        one_of("textualize.listen: device", self.device.partition(":")[0], devices)
        for name in ("max_new_tokens", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"textualize.listen: {name}: expected at least 1, got {value}")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UsageError(
                f"textualize.listen: threshold: expected more than 0 and less than 1, got "
                f"{self.threshold}"
            )
        for name, seconds in (("min_s", self.min_s), ("chunk_s", self.chunk_s)):
            if seconds is not None and not 0 <= seconds < math.inf:
                raise UsageError(f"textualize.listen: {name}: expected 0 or more, got {seconds}")
        if 0 < self.chunk_s < LEAST_CHUNK_S:
            raise UsageError(
                f"textualize.listen: chunk_s: expected 0 or at least {LEAST_CHUNK_S:g}, got "
                f"{self.chunk_s}"
            )

    def refuse_given(self, where: str, names: Sequence[str], kind: str) -> None:
        """Refuse settings that mean nothing to a kind of model.

        Raises:
            UsageError: naming the first that was given.
        """
        for name in names:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise UsageError(
                    f"{where}: {name} means nothing to {self.model}, {kind}; leave it out"
                )


@dataclass(frozen=True, kw_only=True)
class TextualizeRecipe:
    """How audio becomes a description.

    Attributes:
        template: text with ``{column}`` fields; empty for one line a known column.
        listen: column -> the model that fills it by listening; no column of the dataset.
    """

    template: str = ""
    listen: dict[str, ListenRecipe] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parse_template(self.template)
        for column, listener in self.listen.items():
            if not _COLUMN.fullmatch(column) or len(column) > MAX_COLUMN_CHARACTERS:
                raise UsageError(
                    f"textualize.listen.{column}: a heard column is called by A-Z, a-z, 0-9 and _, "
                    f"at most {MAX_COLUMN_CHARACTERS} of them, and does not begin with _"
                )
            if not listener.model:
                raise UsageError(
                    f"textualize.listen.{column}: which model? give "
                    f"--set textualize.listen.{column}.model=openai/whisper-small, say"
                )
