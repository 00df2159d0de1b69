"""Adapters that a checkpoint keeps beside its weights."""

from __future__ import annotations

import logging
from typing import Any

from transformers.utils.hub import cached_file

log = logging.getLogger(__name__)


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
        log.warning("%s: no adapter in %s/, so its weights are taken as they are", model, folder)
        return network
    from peft import PeftModel  # slow to import, and few checkpoints have adapters

    return PeftModel.from_pretrained(network, model, subfolder=folder).merge_and_unload()


def merge_loaded(network: Any) -> None:
    """Merge adapters that ``from_pretrained`` found among the weights and put in place itself.

    What is left is the class as it is without adapters, so that it is trained and saved like one.
    """
    if not getattr(network, "_hf_peft_config_loaded", False):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers.conversion_mapping import get_model_conversion_mapping

    for name, module in list(network.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, module.get_base_layer())
    network._hf_peft_config_loaded = False
    del network.peft_config
    # loading the adapter left its own renamings there; saving would write names nobody can read
    network._weight_conversions = get_model_conversion_mapping(network)
