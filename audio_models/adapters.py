"""Adapters that a checkpoint keeps beside its weights."""

from __future__ import annotations

from typing import Any

from transformers.utils.hub import cached_file


def merge_adapter(network: Any, model: str, folder: str) -> Any:
    """Merge the LoRA adapter in ``folder`` of a checkpoint into the network's weights.

    Args:
        network: the model the adapter belongs to.
        model: its directory or hub id.
        folder: where the adapter is, beside the weights.

    Returns:
        The network; as it was if there is no such folder (a student that was saved has none).
    """
    described = cached_file(
        model,
        "adapter_config.json",
        subfolder=folder,
        _raise_exceptions_for_missing_entries=False,
    )
    if described is None:
        return network
    from peft import PeftModel  # slow to import, and few checkpoints have adapters

    return PeftModel.from_pretrained(network, model, subfolder=folder).merge_and_unload()
