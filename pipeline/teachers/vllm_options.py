"""How the vLLM engine is started: what it may take, and where it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

CPU_CACHE_BYTES = 4 << 30
"""Most memory for cached keys and values on a CPU; vLLM's own choice is most of the machine."""


def quiet() -> None:
    """Keep vLLM from logging and from reporting usage, unless the user says otherwise.

    Call before vLLM is imported; the processes it starts inherit it.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def memory_options(*, on_cpu: bool, gpu_memory_utilization: float) -> dict[str, Any]:
    """Return how much memory the engine takes."""
    if not on_cpu:
        return {"gpu_memory_utilization": gpu_memory_utilization}
    if "VLLM_CPU_KVCACHE_SPACE" in os.environ:
        return {}
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"kv_cache_memory_bytes": min(CPU_CACHE_BYTES, machine_bytes // 4)}


def run_in_this_process() -> None:
    """Make vLLM's CPU engine run in our process, unless the user says otherwise.

    Each of vLLM's processes imports it anew, so one process instead of three starts in less than
    half the time. Threads are as many as vLLM's worker would have: OpenMP's spin, and one more than
    there are idle cores made a tiny model ten times slower.
    """
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # Its binding of threads to cores would bind ours too.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - 1))


def states_options(layers: Sequence[int]) -> dict[str, Any]:
    """Return what makes the engine's worker report these layers."""
    if not layers:
        return {}
    return {
        "worker_cls": "pipeline.teachers.vllm_states.StatesWorker",
        "additional_config": {"recorded_layers": list(layers)},
    }
