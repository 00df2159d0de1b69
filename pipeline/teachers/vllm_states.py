"""Runs inside vLLM: hands the hidden states of wanted positions to our process, step by step.

vLLM's ``extract_hidden_states`` method writes the chosen layers of every scheduled token into a paged
cache; a KV connector may read it at the end of each step, while the step's blocks still belong to their
requests. vLLM's own example connector writes files through pinned memory and CUDA streams, and so
fails on a CPU; this one copies with ``.cpu()``, works on both, and leaves nothing on disk.

The scheduler's half turns each step's schedule into spans of positions; the worker's half gathers and
sends them. Chunked prefill and preemption need no special case: a span is a span, and a recomputed
position is sent again.

A request asks for states with ``extra_args["kv_transfer_params"] = {"row": r, "first": p, "end": q}``
and gets positions ``p`` to ``q`` (exclusive).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from vllm.config import VllmConfig, get_layers_from_vllm_config
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
from vllm.model_executor.models.extract_hidden_states import CacheOnlyAttentionLayer
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import HiddenStateCacheSpec, KVCacheConfig

from pipeline.teachers.states_channel import StatesSender


@dataclass
class WantedRow:
    """A request whose states are wanted: positions ``first`` to ``end``, and where they are cached."""

    row: int
    first: int
    end: int
    block_ids: list[int]


@dataclass
class StatesMetadata(KVConnectorMetadata):
    """One step's spans: (row, first position, count, cache blocks of the request)."""

    spans: list[tuple[int, int, int, list[int]]] = field(default_factory=list)


class StatesConnector(KVConnectorBase_V1, SupportsHMA):
    """A store-only connector: nothing is ever loaded from it."""

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        groups = kv_cache_config.kv_cache_groups
        of_states = [
            index
            for index, group in enumerate(groups)
            if isinstance(group.kv_cache_spec, HiddenStateCacheSpec)
        ]
        if not of_states and len(groups) == 1:  # a page shared with the attention layers
            of_states = [0]
        if len(of_states) != 1:
            raise ValueError(f"{len(of_states)} cache groups of hidden states, expected one")
        self._group = of_states[0]
        self._wanted: dict[str, WantedRow] = {}
        self._layer: CacheOnlyAttentionLayer | None = None
        self._sender: StatesSender | None = None

    # ---- in the scheduler ----

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> StatesMetadata:
        """Say which positions of which rows this step computes."""
        for request_id in scheduler_output.finished_req_ids:
            self._wanted.pop(request_id, None)
        computed: dict[str, int] = {}
        for new in scheduler_output.scheduled_new_reqs:
            extra = new.sampling_params.extra_args if new.sampling_params else None
            asked = (extra or {}).get("kv_transfer_params")
            if asked:
                blocks = list(new.block_ids[self._group])
                self._wanted[new.req_id] = WantedRow(block_ids=blocks, **asked)
                computed[new.req_id] = new.num_computed_tokens
        cached = scheduler_output.scheduled_cached_reqs
        for request_id, new_blocks, num_computed in zip(
            cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True
        ):
            if request_id not in self._wanted:
                continue
            wanted = self._wanted[request_id]
            if request_id in cached.resumed_req_ids:
                wanted.block_ids = []
            if new_blocks is not None:
                wanted.block_ids = wanted.block_ids + list(new_blocks[self._group])
            computed[request_id] = num_computed
        metadata = StatesMetadata()
        for request_id, num_computed in computed.items():
            wanted = self._wanted[request_id]
            scheduled = scheduler_output.num_scheduled_tokens[request_id]
            first = max(num_computed, wanted.first)
            count = min(num_computed + scheduled, wanted.end) - first
            if count > 0:
                metadata.spans.append((wanted.row, first, count, wanted.block_ids))
        return metadata

    def get_num_new_matched_tokens(self, *_: Any) -> tuple[int, bool]:
        """Offer nothing to load."""
        return 0, False

    def update_state_after_alloc(self, *_: Any) -> None:
        """Take no note of blocks here: the schedule names them."""

    def request_finished(self, *_: Any) -> tuple[bool, None]:
        """Let the blocks go: their states were sent in the step that computed them."""
        return False, None

    def request_finished_all_groups(self, *_: Any) -> tuple[bool, None]:
        """Let the blocks go, see ``request_finished``."""
        return False, None

    # ---- in the worker ----

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Find the cache of hidden states; only the first tensor-parallel rank sends."""
        if get_tensor_model_parallel_rank() != 0:
            return
        layers = get_layers_from_vllm_config(
            self._vllm_config, CacheOnlyAttentionLayer, list(kv_caches)
        )
        (self._layer,) = layers.values()
        contact = self._kv_transfer_config.kv_connector_extra_config
        self._sender = StatesSender(contact["address"], contact["key"])

    def wait_for_save(self) -> None:
        """Send this step's spans; vLLM calls it after the states were cached."""
        metadata = self._connector_metadata
        if self._layer is None or self._sender is None:
            return
        if not isinstance(metadata, StatesMetadata) or not metadata.spans:
            return
        # [num_blocks, L, block_size, D] whatever the physical layout.
        cache = self._layer.kv_cache
        block_size = cache.shape[2]
        blocks, offsets = [], []
        for _, first, count, block_ids in metadata.spans:
            positions = np.arange(first, first + count)
            blocks.append(np.asarray(block_ids)[positions // block_size])
            offsets.append(positions % block_size)
        block = torch.from_numpy(np.concatenate(blocks)).to(cache.device)
        offset = torch.from_numpy(np.concatenate(offsets)).to(cache.device)
        states = cache[block, :, offset].cpu()
        if states.dtype == torch.bfloat16:
            states = states.view(torch.uint16)
        spans = np.array([span[:3] for span in metadata.spans], np.int64)
        self._sender.send(spans, states.numpy())

    def start_load_kv(self, *_: Any, **__: Any) -> None:
        """Load nothing."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Load nothing."""

    def save_kv_layer(self, *_: Any, **__: Any) -> None:
        """Save nothing here: the layers are cached together and sent in ``wait_for_save``."""
