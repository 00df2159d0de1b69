"""How a teacher hears, and who the tape says makes its signals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cache_schema.maker import GroupInfo
from cache_schema.types import AUDIO_SOURCE
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
