"""The student: loaded, partly frozen, adapted; and saved the way it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from audio_models.families import Family
from audio_models.load import AudioLM, load_audio_lm
from cache_schema.errors import UsageError, nearest
from train.checkpoint import written_beside
from train.heads import save_heads
from train.settings import StudentRecipe


def load_student(model: str, recipe: StudentRecipe) -> AudioLM:
    """Load the student in float32 on the CPU, frozen and adapted by the recipe.

    Raises:
        ModelError: it cannot be loaded.
        UsageError: a part to freeze or a layer to adapt does not exist, or one is both.
    """
    lm = load_audio_lm(model, "float32", "cpu")
    freeze(lm.model, lm.family, recipe.freeze)
    if recipe.lora_rank:
        lm = replace(lm, model=_add_adapters(lm, recipe))
    if recipe.activation_checkpointing:
        lm.model.gradient_checkpointing_enable({"use_reentrant": False})
    return lm


def part_of(name: str, family: Family) -> str:
    """Return the part a parameter belongs to, by the longest matching prefix, else ``other``."""
    best, found = "", "other"
    for part, prefixes in family.parts.items():
        for prefix in prefixes:
            if name.startswith(prefix) and len(prefix) > len(best):
                best, found = prefix, part
    return found


def freeze(model: nn.Module, family: Family, parts: tuple[str, ...]) -> None:
    """Freeze the named parts, and what audio and text never reach.

    Raises:
        UsageError: the family has no such part.
    """
    check_parts("student.freeze", parts, family)
    for name, parameter in model.named_parameters():
        if name.startswith(family.silent_parts) or part_of(name, family) in parts:
            parameter.requires_grad_(False)


def check_parts(where: str, parts: Sequence[str], family: Family) -> None:
    """Refuse parts there are not.

    Raises:
        UsageError: naming the setting.
    """
    for part in parts:
        if part not in family.parts:
            known = ", ".join(family.parts) or "none: the family is not listed"
            raise UsageError(
                f"{where}: {part!r} is not a part of {family.name} (known: {known})"
                f"{nearest(part, family.parts)}"
            )


def _add_adapters(lm: AudioLM, recipe: StudentRecipe) -> Any:
    if "language_model" in recipe.freeze:
        raise UsageError(
            "student.lora_rank puts adapters into the language model, which student.freeze keeps "
            "as it is; leave one of the two out (adapters freeze everything else)"
        )
    inside = set(lm.model.get_decoder().modules())
    linear = {
        name: name.rpartition(".")[2]
        for name, module in lm.model.named_modules()
        if isinstance(module, nn.Linear) and module in inside
    }
    for wanted in recipe.lora_targets:
        if wanted not in linear.values():
            known = sorted(set(linear.values()))
            raise UsageError(
                f"student.lora_targets: the language model has no linear layers {wanted!r}"
                f"{nearest(wanted, known)} (it has: {', '.join(known) or 'none'})"
            )
    targets = [name for name, last in linear.items() if last in recipe.lora_targets]
    config = LoraConfig(
        r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules=targets, lora_dropout=0.0
    )
    return get_peft_model(lm.model, config)


def save_student(
    lm: AudioLM,
    directory: Path,
    dtype: torch.dtype,
    projectors: Mapping[str, nn.Module] | None = None,
) -> None:
    """Write model and processor so that ``from_pretrained`` and ``AutoProcessor`` load them.

    Adapters are merged in. Written beside and renamed, so the directory is whole or absent.

    Args:
        lm: the student; its model is another afterwards: merged, of that type.
        directory: where to.
        dtype: of the weights.
        projectors: new modules, of which the heads are written beside it (``train.heads``).

    Raises:
        OutputError: it cannot be written, as on a full disk.
    """
    model = lm.model.merge_and_unload() if hasattr(lm.model, "merge_and_unload") else lm.model
    model.eval()
    model.to(dtype)
    with written_beside(directory) as beside:
        model.save_pretrained(beside)
        lm.processor.save_pretrained(beside)
        save_heads(projectors or {}, beside)
