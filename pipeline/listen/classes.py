"""A classifier's classes: names that can be told apart, and whether they exclude each other."""

from __future__ import annotations

from collections.abc import Sequence

from audio_models.config import architecture_of, load_config
from audio_models.frames import FrameShape
from cache_schema.errors import ModelError, TapeError, UsageError
from cache_schema.facts import check_facts
from cache_schema.types import AUDIO_SOURCE

MOST_OF_ONE_KIND = 100
"""More classes than this are often sounds of which several are there at once (AudioSet)."""

_ADVICE = "give the classes different names in its config.json (id2label)"


def check_labels(labels: Sequence[str], model: str, where: str) -> None:
    """Refuse names of classes that no text and no tape could tell apart.

    Raises:
        ModelError: there are none, one is empty, twice there, or holds half a character.
    """
    try:
        facts = {"labels": list(labels), "multi_label": False}
        check_facts(AUDIO_SOURCE, {"utterance_logits": facts}, f"{where}: model {model!r}")
    except TapeError as error:
        raise ModelError(f"{error}; {_ADVICE}") from error
    empty = [number for number, label in enumerate(labels) if not label.strip()]
    if empty:
        raise ModelError(f"{where}: class {empty[0]} of {model!r} has an empty name; {_ADVICE}")
    if all(label == f"LABEL_{number}" for number, label in enumerate(labels)):
        raise ModelError(
            f"{where}: the classes of {model} have no names (LABEL_0, ...), so its text "
            "would say nothing; name them in its config.json (id2label)"
        )


def settle_multi_label(model: str, shape: FrameShape, asked: bool | None, where: str) -> bool:
    """Return whether a classifier's classes are judged each by itself.

    Args:
        model: local directory or hub id.
        shape: what it has to give.
        asked: the setting; ``None`` for what the configuration says.
        where: the setting's section, for errors.

    Raises:
        UsageError: nobody says it of a classifier of whole recordings with so many classes that
            either may be meant. Heads of speakers (x-vectors) are trained to choose one.
    """
    if asked is not None:
        return asked
    if len(shape.utterance_labels) > MOST_OF_ONE_KIND:
        config = load_config(model)
        is_speakers = architecture_of(config).endswith("ForXVector")
        if not config.problem_type and not is_speakers:
            raise UsageError(
                f"{where}: {model} has {len(shape.utterance_labels)} classes, and its config.json "
                "does not say (problem_type) whether they exclude each other; give "
                f"--set {where}.multi_label=true if several can be there at once (AudioSet), or "
                "=false if one is (languages, speakers)"
            )
    return shape.multi_label
