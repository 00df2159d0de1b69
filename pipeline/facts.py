"""What the tape says of a teacher's signals, and which of its words may differ between runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.recipe import ExtractRecipe
from pipeline.teachers.base import Wanted

NOTE_KEYS = ("model", "engine_version")
"""What a teacher says of itself that may differ between runs."""


def hidden_facts(recipe: ExtractRecipe, layers: Sequence[int], width: int) -> dict[str, Any]:
    """Return what the tape says of recorded states."""
    return {
        "layers": list(layers),
        "width": width,
        "dtype": recipe.tape.states_dtype,
        "profile": recipe.tape.profile,
    }


def logits_facts(recipe: ExtractRecipe, wanted: Wanted) -> dict[str, dict[str, Any]]:
    """Return what the tape says of logits by signal; one that is not recorded is not there."""
    codec = recipe.tape.topk_codec
    signals: dict[str, dict[str, Any]] = {}
    if wanted.top_k:
        signals["topk"] = {"k": wanted.top_k, "codec": codec}
    if wanted.lens:
        signals["lens"] = {"layers": list(wanted.lens), "k": wanted.lens_top_k, "codec": codec}
    if wanted.draws:
        signals["sampled"] = {"num_draws": wanted.draws}
    return signals
