"""The textual teacher on vLLM: plain generation, then one prefill pass over prompt + trace.

Generation asks vLLM for nothing but tokens. Scoring sends prompt + trace as a prompt, which takes one
forward pass: ``prompt_logprobs`` are the raw log-probabilities at temperature 1, and the states of the
chosen layers come through our own connector (``vllm_states``). What is read off is therefore the
distribution that predicts each trace token, whatever sampling made the trace.

The engine runs in a process of its own (vLLM's default): inside ours, its threads fight with our
interpreter's, and a tiny model on two cores generated ten times slower.

Shapes: P prompt tokens, T trace tokens, k kept logits, L layers, D width.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import ModelError, UsageError
from cache_schema.types import IntArray
from pipeline.teachers.base import Generated, Sampling, TokenSignals
from pipeline.teachers.describe import (
    describe_model,
    load_config,
    load_tokenizer,
    require_chat_template,
    resolve_dtype,
    text_shape,
)
from pipeline.teachers.states_channel import StatesReceiver

for _name, _value in (
    ("VLLM_LOGGING_LEVEL", "WARNING"),
    ("VLLM_NO_USAGE_STATS", "1"),
):
    os.environ.setdefault(_name, _value)  # read when vllm is imported, and by its child processes

DEFAULT_MAX_MODEL_LEN = 8192
"""Used where the model allows more: the engine must hold the cache of one whole sequence."""

SCORE_BATCH_TOKENS = 16_384
"""Tokens scored at a time; vLLM's log-probabilities take about 5 kB of host memory a token at k = 64."""

CPU_CACHE_BYTES = 4 << 30
"""Memory for cached keys, values and states on a CPU, where vLLM's own default is most of the machine."""

_NUMPY_DTYPES: dict[str, type[np.generic]] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
}


class VllmTextTeacher:
    """A textual teacher served by vLLM, see ``pipeline.teachers.base.TextTeacher``.

    The engine starts at the first ``generate`` or ``score`` and is started anew when ``score`` asks
    for layers it was not started with; ``start`` with the layers to come avoids that.
    """

    def __init__(
        self,
        *,
        model: str,
        dtype: str = "auto",
        max_model_len: int | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.9,
    ) -> None:
        """Read the model's configuration and tokenizer; no engine yet.

        Args:
            model: a local directory in transformers' layout or a hub id.
            dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
            max_model_len: longest prompt + trace; by default the model's own, at most
                ``DEFAULT_MAX_MODEL_LEN``.
            seed: the engine's seed; each request has one of its own beside it.
            gpu_memory_utilization: share of the GPU's memory the engine may take.

        Raises:
            ModelError: no such model, no tokenizer, no chat template, or a dtype unknown.
        """
        self._model = model
        self._shape = text_shape(load_config(model))
        self._tokenizer = load_tokenizer(model)
        require_chat_template(model, self._tokenizer)
        self._dtype = resolve_dtype(dtype, self._shape)
        # One position is spent on the token that ends a scoring pass.
        limit = self._shape.max_positions - 1
        self._max_len = min(max_model_len or DEFAULT_MAX_MODEL_LEN, limit)
        if max_model_len and max_model_len > limit:
            raise ModelError(
                f"max_model_len {max_model_len}: the model {model!r} takes {limit} tokens"
            )
        self._seed = seed
        self._gpu_memory_utilization = gpu_memory_utilization
        self._llm: Any = None
        self._layers: tuple[int, ...] = ()
        self._receiver: StatesReceiver | None = None
        self._next_row = 0

    @property
    def max_model_len(self) -> int:
        """Longest prompt + trace, in tokens."""
        return self._max_len

    def describe(self) -> dict[str, Any]:
        """Return what made the signals, see ``TextTeacher.describe``."""
        import vllm

        return {
            **describe_model(self._model, self._tokenizer),
            "engine": "vllm",
            "engine_version": vllm.__version__,
            "dtype": self._dtype,
            "num_layers": self._shape.num_layers,
            "width": self._shape.width,
            "vocab_size": self._shape.vocab_size,
        }

    def encode(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        """Render chat messages with the model's template, generation prompt added; int64 [P]."""
        text = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return np.asarray(ids, np.int64)

    def decode(self, token_ids: IntArray) -> str:
        """Return the text of a trace, special tokens left out."""
        return str(self._tokenizer.decode(token_ids.tolist(), skip_special_tokens=True))

    def generate(
        self, prompts: Sequence[IntArray], seeds: Sequence[int], sampling: Sampling
    ) -> list[list[Generated]]:
        """Continue each prompt ``sampling.num_traces`` times.

        Trace j of prompt i is drawn with seed ``seeds[i] + j``, so it depends on neither the batch
        nor the order (up to the rounding of batched arithmetic).

        Raises:
            ModelError: a prompt + ``max_new_tokens`` is longer than ``max_model_len``.
        """
        self._check_lengths([len(prompt) + sampling.max_new_tokens for prompt in prompts])
        self._ensure(())
        from vllm import SamplingParams

        requests, params = [], []
        for prompt, seed in zip(prompts, seeds, strict=True):
            for index in range(sampling.num_traces):
                requests.append({"prompt_token_ids": prompt.tolist()})
                params.append(
                    SamplingParams(
                        temperature=sampling.temperature,
                        top_p=sampling.top_p,
                        max_tokens=sampling.max_new_tokens,
                        seed=seed + index,
                        detokenize=False,
                    )
                )
        outputs = iter(self._llm.generate(requests, params, use_tqdm=False))
        return [[_generated(next(outputs)) for _ in range(sampling.num_traces)] for _ in prompts]

    def score(
        self,
        prompts: Sequence[IntArray],
        targets: Sequence[IntArray],
        top_k: int,
        layers: Sequence[int],
    ) -> list[TokenSignals]:
        """Read each prompt + target once and report the target's signals.

        The tail is 1 minus the summed probabilities of the k, in float64 from float32
        log-probabilities: its absolute error is about 1e-6, its relative error is large only where
        the tail itself is below that.

        Raises:
            ModelError: a row is longer than ``max_model_len``, the engine's echo of the ids differs
                from what was sent, or the model's class reports no hidden states.
            UsageError: ``top_k`` or a layer is outside the model.
        """
        self._check_lengths([len(p) + len(t) for p, t in zip(prompts, targets, strict=True)])
        self._check_request(top_k, layers)
        self._ensure(layers)
        signals: list[TokenSignals] = []
        for rows in _batches(prompts, targets):
            signals += self._score_batch(
                [prompts[row] for row in rows], [targets[row] for row in rows], top_k, layers
            )
        return signals

    def close(self) -> None:
        """Stop the engine's process and free its memory."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None

    def start(self, layers: Sequence[int]) -> None:
        """Start an engine that can report these layers (none: no cost for states at all)."""
        self._check_request(0, layers)
        self._ensure(layers)

    def _ensure(self, layers: Sequence[int]) -> None:
        if self._llm is not None and set(layers) <= set(self._layers):
            return
        self.close()
        self._layers = tuple(sorted(set(layers)))
        options: dict[str, Any] = {}
        if self._layers:
            self._receiver = StatesReceiver(
                len(self._layers), self._shape.width, np.dtype(_NUMPY_DTYPES[self._dtype])
            )
            options = _states_options(self._layers, self._receiver)
        self._llm = self._start_engine(options)

    def _start_engine(self, options: Mapping[str, Any]) -> Any:
        from vllm import LLM
        from vllm.platforms import current_platform

        machine: dict[str, Any] = {"gpu_memory_utilization": self._gpu_memory_utilization}
        if current_platform.is_cpu():
            # Compiling for a CPU took 115 s of C++ and made a small model slower, not faster.
            machine = {"enforce_eager": True}
            if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
                machine["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
        try:
            return LLM(
                self._model,
                dtype=self._dtype,
                max_model_len=self._max_len + 1,
                seed=self._seed,
                max_logprobs=-1,
                logprobs_mode="raw_logprobs",
                # A cached prefix is not computed, so it would report neither logits nor states.
                enable_prefix_caching=False,
                disable_log_stats=True,
                **machine,
                **options,
            )
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"vLLM could not start {self._model!r}: {error}\n"
                "Its own message is above. `--engine transformers` runs any model, more slowly."
            ) from error

    def _check_lengths(self, lengths: Sequence[int]) -> None:
        if lengths and max(lengths) > self._max_len:
            raise ModelError(
                f"{max(lengths)} tokens of prompt and trace; {self._model!r} was started for "
                f"{self._max_len} (max_model_len)"
            )

    def _check_request(self, top_k: int, layers: Sequence[int]) -> None:
        if not 0 <= top_k <= self._shape.vocab_size:
            raise UsageError(f"top-k {top_k}: the model has {self._shape.vocab_size} logits")
        if layers and not 0 <= min(layers) <= max(layers) <= self._shape.num_layers:
            raise UsageError(
                f"layers {list(layers)}: the model has layers 0 to {self._shape.num_layers}"
            )

    def _score_batch(
        self,
        prompts: Sequence[IntArray],
        targets: Sequence[IntArray],
        top_k: int,
        layers: Sequence[int],
    ) -> list[TokenSignals]:
        from vllm import SamplingParams

        first_row = self._next_row
        self._next_row += len(prompts)
        requests, params = [], []
        for index, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
            first, count = len(prompt) - 1, len(target)
            extra: dict[str, Any] = {}
            if layers and self._receiver is not None:
                row = first_row + index
                self._receiver.expect(row, first, count)
                extra["kv_transfer_params"] = {"row": row, "first": first, "end": first + count}
            requests.append({"prompt_token_ids": [*prompt.tolist(), *target.tolist()]})
            params.append(
                SamplingParams(
                    temperature=0.0,
                    max_tokens=1,
                    prompt_logprobs=top_k,
                    flat_logprobs=True,
                    detokenize=False,
                    extra_args=extra,
                )
            )
        outputs = self._llm.generate(requests, params, use_tqdm=False)
        signals = []
        for index, (target, request, output) in enumerate(
            zip(targets, requests, outputs, strict=True)
        ):
            if output.prompt_token_ids != request["prompt_token_ids"]:
                raise ModelError("vLLM scored other token ids than it was sent")
            states = self._take_states(first_row + index, layers)
            signals.append(_signals(output.prompt_logprobs, target, top_k, states))
        return signals

    def _take_states(self, row: int, layers: Sequence[int]) -> Mapping[int, NDArray[np.generic]]:
        if not layers or self._receiver is None:
            return {}
        states = self._receiver.take(row)
        return {layer: states[:, self._layers.index(layer)] for layer in layers}


def _states_options(layers: Sequence[int], receiver: StatesReceiver) -> dict[str, Any]:
    return {
        "speculative_config": {
            "method": "extract_hidden_states",
            "num_speculative_tokens": 1,
            "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": list(layers)}},
        },
        "kv_transfer_config": {
            "kv_connector": "StatesConnector",
            "kv_connector_module_path": "pipeline.teachers.vllm_states",
            "kv_role": "kv_producer",
            "kv_connector_extra_config": receiver.contact,
        },
    }


def _generated(output: Any) -> Generated:
    (completion,) = output.outputs
    return Generated(
        token_ids=np.asarray(completion.token_ids, np.int64),
        finish_reason=str(completion.finish_reason),
    )


def _batches(prompts: Sequence[IntArray], targets: Sequence[IntArray]) -> Iterator[Sequence[int]]:
    """Split rows into runs of at most ``SCORE_BATCH_TOKENS`` tokens (or one longer row)."""
    rows: list[int] = []
    tokens = 0
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        length = len(prompt) + len(target)
        if rows and tokens + length > SCORE_BATCH_TOKENS:
            yield rows
            rows, tokens = [], 0
        rows.append(row)
        tokens += length
    if rows:
        yield rows


def _signals(
    flat: Any, target: IntArray, top_k: int, states: Mapping[int, NDArray[np.generic]]
) -> TokenSignals:
    """Cut the target's part out of a row's flat log-probabilities.

    Each position holds the token that was there, then the k most probable ones.
    """
    entries = len(target) * (top_k + 1)
    ids = np.asarray(flat.token_ids[-entries:], np.int64).reshape(len(target), top_k + 1)
    logprobs = np.asarray(flat.logprobs[-entries:], np.float32).reshape(ids.shape)
    if not np.array_equal(ids[:, 0], target):
        raise ModelError("vLLM's log-probabilities belong to other tokens than the trace's")
    kept = np.exp(logprobs[:, 1:].astype(np.float64)).sum(axis=1)
    return TokenSignals(
        target_ids=target,
        topk_ids=ids[:, 1:],
        topk_logprobs=logprobs[:, 1:],
        tail=np.clip(1.0 - kept, 0.0, 1.0).astype(np.float32),
        target_logprobs=logprobs[:, 0],
        states=states,
    )
