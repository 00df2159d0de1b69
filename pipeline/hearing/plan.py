"""Which kind of teacher hears, and what it records: settled before any weight is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from audio_models.load import resolve_device
from cache_schema import Tape
from cache_schema.maker import GroupInfo
from cache_schema.types import AUDIO_SOURCE
from pipeline.acoustic_recipe import AcousticRecipe
from pipeline.recipe import ExtractRecipe
from pipeline.replay.note import recipe_note
from pipeline.responses import Responses
from pipeline.step import notes
from pipeline.teachers.acoustic import AcousticTeacher


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a teacher hears.

    Attributes:
        info: what the tape says of it.
        responses: what it is read on; ``None`` for a teacher that reads none.
        with_states: whether something is recorded of every sample, with or without a response.
        load: loads the teacher.
    """

    info: GroupInfo
    responses: Responses | None
    with_states: bool
    load: Callable[[], AcousticTeacher]


def plan(recipe: ExtractRecipe, tape: Tape) -> Plan:
    """Settle a teacher; hashes the weights of a local model.

    Raises:
        ModelError: the teacher cannot be used.
        UsageError: a setting does not go with it, or nothing is left to record.
    """
    resolve_device(recipe.acoustic.device)
    if is_frame_teacher(recipe.acoustic):
        from pipeline.hearing import frames

        return frames.plan(recipe)
    from pipeline.hearing import language_model

    return language_model.plan(recipe, tape)


def check(acoustic: AcousticRecipe) -> None:
    """Find what can be found from configurations alone.

    Raises:
        ModelError: the teacher does not exist or cannot be one.
        UsageError: a setting does not go with it, or there is no such device.
    """
    resolve_device(acoustic.device)
    if is_frame_teacher(acoustic):
        from pipeline.hearing import frames

        frames.settle(acoustic)
    else:
        from pipeline.hearing import language_model

        language_model.settle(acoustic)


def is_frame_teacher(acoustic: AcousticRecipe) -> bool:
    """Whether the teacher is an encoder, a classifier or an audio tower.

    Raises:
        ModelError: there is no such model.
    """
    from audio_models.encoders.load import is_audio_encoder

    return acoustic.part == "audio_tower" or is_audio_encoder(acoustic.teacher)


def hidden_facts(recipe: ExtractRecipe, layers: tuple[int, ...], width: int) -> dict[str, Any]:
    """Return what the tape says of recorded states."""
    return {
        "layers": list(layers),
        "width": width,
        "dtype": recipe.tape.states_dtype,
        "profile": recipe.tape.profile,
    }


def acoustic_group(
    recipe: ExtractRecipe,
    signals: Mapping[str, Mapping[str, Any]],
    about: Mapping[str, Any],
    identity: Mapping[str, Any],
    engine_version: str,
) -> GroupInfo:
    """Return who makes the acoustic signals.

    Args:
        recipe: of the run.
        signals: what is recorded.
        about: what identifies the teacher, ``model`` as it was given.
        identity: what else must be equal for more to be added.
        engine_version: of the library that runs it.
    """
    return GroupInfo(
        group=recipe.acoustic.name,
        kind=AUDIO_SOURCE,
        signals=signals,
        identity={**{k: v for k, v in about.items() if k != "model"}, **identity},
        notes=notes(
            {"model": recipe.acoustic.teacher, "engine_version": engine_version}
            | recipe_note(recipe, "acoustic")
        ),
    )
