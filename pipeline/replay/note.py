"""The recipe of a source, kept in its group's notes: what it takes to run the teacher again.

Notes may differ between runs and count nowhere. What made the signals is said by the identity; the
recipe is only how to come to the same identity again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cache_schema.errors import UsageError
from cache_schema.maker import GroupInfo
from pipeline.recipe import ExtractRecipe

RECIPE_NOTE = "recipe"
SECTIONS = ("textual", "acoustic")
"""Sections of the recipe that say who makes a source; also the kinds of sources."""

HARMLESS = frozenset(
    {
        "block_size", "cpu_offload_gb", "disable_custom_all_reduce", "enable_expert_parallel",
        "enforce_eager", "gpu_memory_utilization", "kv_cache_dtype", "kv_cache_memory_bytes",
        "max_num_batched_tokens", "max_num_seqs", "optimization_level", "quantization",
        "tensor_parallel_size",
    }
)  # fmt: skip
"""Engine settings taken from a tape. A tape may be anyone's, and of vLLM's other settings some
name code to be run, so those are taken from the user alone."""


def recipe_note(recipe: ExtractRecipe, section: str) -> dict[str, Any]:
    """Return the note of a source.

    Args:
        recipe: of the run.
        section: ``textual`` or ``acoustic``.
    """
    values = {key: v for key, v in asdict(getattr(recipe, section)).items() if v is not None}
    return {RECIPE_NOTE: {section: values, "seed": recipe.seed}}


def noted_recipe(info: GroupInfo, confirmed: frozenset[str]) -> dict[str, Any] | None:
    """Return the recipe in a group's notes, ``None`` if there is none.

    Args:
        info: the group.
        confirmed: engine settings that the user gives anew.

    Raises:
        UsageError: it is of another form, or has engine settings that may run code.
    """
    note = info.notes.get(RECIPE_NOTE)
    if note is None:
        return None
    section = note.get(info.kind) if isinstance(note, Mapping) else None
    if not isinstance(section, Mapping) or type(note.get("seed")) is not int:
        raise UsageError(
            f"source {info.group!r}: its note {RECIPE_NOTE!r} is no recipe; give the one it was "
            "recorded with (--recipe R.toml)"
        )
    engine = section.get("vllm") or {}
    unsafe = sorted(set(engine) - HARMLESS - confirmed) if isinstance(engine, Mapping) else []
    if unsafe:
        shown = ", ".join(f"textual.vllm.{name}={engine[name]!r}" for name in unsafe)
        raise UsageError(
            f"source {info.group!r} was recorded with {shown}. A tape may be anyone's and such a "
            "setting may run code, so it is not taken from the tape; if you trust it, give it "
            "yourself (--set), or the whole recipe (--recipe R.toml)"
        )
    return {info.kind: dict(section), "seed": note["seed"]}
