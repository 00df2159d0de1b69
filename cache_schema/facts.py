"""What a group must say of its classifiers and embeddings: checked on writing and on reading.

Rows of these signals are numbers alone; without these facts nobody could tell what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from cache_schema.codecs.states_files import MAX_WIDTH
from cache_schema.errors import TapeError
from cache_schema.signals import CLASS_SIGNALS, MAX_CLASSES
from cache_schema.types import AUDIO_SOURCE

MAX_POOLING = 200
"""Characters that say how an embedding was pooled."""

_SHOWN = 80


def check_facts(kind: str, signals: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """Refuse a group whose classifiers or embeddings nobody could read.

    Args:
        kind: of the group.
        signals: signal -> facts.
        where: the group, for errors.

    Raises:
        TapeError: facts are missing or of another form, or the group is not acoustic.
    """
    for signal in CLASS_SIGNALS:
        if signal not in signals:
            continue
        if kind != AUDIO_SOURCE:
            raise TapeError(
                f"{where}: signal {signal!r} in a group of kind {kind!r}, expected {AUDIO_SOURCE!r}"
            )
        try:
            _CHECKS[signal](signals[signal])
        except ValueError as error:
            raise TapeError(f"{where}: facts of signal {signal!r}: {error}") from error


def _check_classes(facts: Mapping[str, Any]) -> None:
    labels, multi_label = facts.get("labels"), facts.get("multi_label")
    if not isinstance(labels, list | tuple) or not 1 <= len(labels) <= MAX_CLASSES:
        raise ValueError(f"labels {_told(labels)}: expected a list of 1 to {MAX_CLASSES} names")
    known = set()
    for label in labels:
        if not _is_text(label):
            raise ValueError(f"label {_told(label)}: expected text")
        if label in known:
            raise ValueError(f"label {_told(label)} is there twice: classes are told apart by name")
        known.add(label)
    if multi_label is not True and multi_label is not False:
        raise ValueError(f"multi_label {_told(multi_label)}: expected true or false")


def _check_embedding(facts: Mapping[str, Any]) -> None:
    width, pooling = facts.get("width"), facts.get("pooling")
    if type(width) is not int or not 1 <= width <= MAX_WIDTH:
        raise ValueError(f"width {_told(width)}: expected 1 to {MAX_WIDTH}")
    if not _is_text(pooling) or not 1 <= len(pooling) <= MAX_POOLING:
        raise ValueError(
            f"pooling {_told(pooling)}: expected 1 to {MAX_POOLING} characters, such as 'x-vector'"
        )


def _is_text(value: object) -> TypeGuard[str]:
    """Whether it is text that UTF-8 can hold: JSON can escape halves of characters."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


_CHECKS: dict[str, Callable[[Mapping[str, Any]], None]] = {
    "utterance_logits": _check_classes,
    "frame_logits": _check_classes,
    "embedding": _check_embedding,
}
