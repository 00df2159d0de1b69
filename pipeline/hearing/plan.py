"""Which kind of teacher hears, and what it records: settled before any weight is loaded."""

from __future__ import annotations

from audio_models.encoders.load import is_audio_encoder
from audio_models.load import resolve_device
from cache_schema import Tape
from pipeline.acoustic_recipe import AcousticRecipe
from pipeline.hearing import frames, language_model
from pipeline.hearing.group import Plan
from pipeline.recipe import ExtractRecipe


def plan(recipe: ExtractRecipe, tape: Tape) -> Plan:
    """Settle a teacher; hashes the weights of a local model.

    Raises:
        ModelError: the teacher cannot be used.
        UsageError: a setting does not go with it, or nothing is left to record.
    """
    resolve_device(recipe.acoustic.device)
    if is_frame_teacher(recipe.acoustic):
        return frames.plan(recipe)
    return language_model.plan(recipe, tape)


def check(acoustic: AcousticRecipe) -> None:
    """Find what can be found from configurations alone.

    Raises:
        ModelError: the teacher does not exist or cannot be one.
        UsageError: a setting does not go with it, or there is no such device.
    """
    resolve_device(acoustic.device)
    if is_frame_teacher(acoustic):
        frames.settle(acoustic)
    else:
        language_model.settle(acoustic)


def is_frame_teacher(acoustic: AcousticRecipe) -> bool:
    """Whether the teacher is an encoder, a classifier or an audio tower.

    Raises:
        ModelError: there is no such model.
    """
    return acoustic.part == "audio_tower" or is_audio_encoder(acoustic.teacher)
