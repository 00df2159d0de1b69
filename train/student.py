"""The student: loaded, partly frozen, adapted; and saved the way it came."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from audio_models.families import Family
from audio_models.load import AudioLM, load_audio_lm
from cache_schema.errors import UsageError, nearest
from train.settings import StudentRecipe


def load_student(model: str, recipe: StudentRecipe) -> AudioLM:
    """Load the student in float32 on the CPU, frozen and adapted by the recipe.

    Raises:
        ModelError: it cannot be loaded.
        UsageError: a part to freeze or a layer to adapt does not exist.
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
    decoder = lm.model.get_decoder()
    targets = [
        name
        for name, module in lm.model.named_modules()
        if isinstance(module, nn.Linear)
        and name.rpartition(".")[2] in recipe.lora_targets
        and any(module is inner for inner in decoder.modules())
    ]
    if not targets:
        raise UsageError(
            f"student.lora_targets {list(recipe.lora_targets)}: the language model has no such "
            "linear layers"
        )
    config = LoraConfig(
        r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules=targets, lora_dropout=0.0
    )
    return get_peft_model(lm.model, config)


def save_student(lm: AudioLM, directory: Path, dtype: torch.dtype) -> None:
    """Write model and processor so that ``from_pretrained`` and ``AutoProcessor`` load them.

    Adapters are merged in. Written beside and renamed, so the directory is whole or absent.
    """
    model = lm.model.merge_and_unload() if hasattr(lm.model, "merge_and_unload") else lm.model
    model.eval()
    model.to(dtype)
    beside = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    lm.processor.save_pretrained(beside)
    shutil.rmtree(directory, ignore_errors=True)
    beside.rename(directory)
