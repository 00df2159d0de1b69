"""The textual teacher on vLLM: traces, top-k and hidden states in one pass, or of given traces.

``trace`` generates and records as it goes: each step's raw log-probabilities at temperature 1, and
the states that ``vllm_states.StatesWorker`` sends. To generate first and read the finished traces
in a second, prefill-only pass costs nearly a second generation wherever a batch is bound by
arithmetic; ``score`` does that for traces that are given.

CPU time against plain generation (x86, batch 32, 48 to 96 tokens a trace, top 64, 3 layers):
1.05 to 1.17 with 80 M parameters and 32 k tokens; 1.5 to 1.8 with 1 M and 1 k, where the engine's
own steps dominate. With a second pass instead: 2.1 and 1.6.

Shapes: P prompt tokens, T trace tokens, k kept logits, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import ModelError
from cache_schema.types import IntArray
from pipeline.teachers import vllm_options as options
from pipeline.teachers.base import Generated, Sampling, TokenSignals
from pipeline.teachers.chat import ChatTokenizer
from pipeline.teachers.describe import describe_model, load_config, resolve_dtype, text_shape
from pipeline.teachers.signals import batches_of, check_fits, grouped, token_signals
from pipeline.teachers.states_channel import StatesReceiver
from pipeline.teachers.vllm_requests import (
    Request,
    continuations,
    entries_of,
    generated_of,
    readings,
)

options.quiet()

DEFAULT_MAX_MODEL_LEN = 8192
"""Used where the model allows more: the engine must hold the cache of one whole sequence."""

SCORE_BATCH_TOKENS = 16_384
"""Tokens scored at a time; vLLM's log-probabilities take about 5 kB of memory a token at k = 64."""


class VllmTextTeacher:
    """A textual teacher served by vLLM, see ``pipeline.teachers.base.TextTeacher``.

    The engine starts when first needed. It is started anew when layers are asked for that it was
    not started with, which ``start`` avoids.
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
            ModelError: no such model, no tokenizer, no chat template, an unknown dtype, or a
                ``max_model_len`` beyond the model's.
        """
        self._model = model
        self._shape = text_shape(load_config(model))
        self._chat = ChatTokenizer(model)
        self._dtype = resolve_dtype(dtype, self._shape)
        self._max_len = self._shape.max_len(max_model_len, DEFAULT_MAX_MODEL_LEN)
        self._seed = seed
        self._gpu_memory_utilization = gpu_memory_utilization
        self._llm: Any = None
        self._layers: tuple[int, ...] = ()
        self._receiver: StatesReceiver | None = None

    @property
    def max_model_len(self) -> int:
        """Longest prompt + trace, in tokens."""
        return self._max_len

    def describe(self) -> dict[str, Any]:
        """Return what made the signals, see ``TextTeacher.describe``."""
        return {
            **describe_model(self._model, self._chat.tokenizer),
            "engine": "vllm",
            "engine_version": options.vllm_version(),
            "dtype": self._dtype,
            "num_layers": self._shape.num_layers,
            "width": self._shape.width,
            "vocab_size": self._shape.vocab_size,
        }

    def encode(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        """Render chat messages with the model's template, generation prompt added; int64 [P]."""
        return self._chat.encode(messages)

    def decode(self, token_ids: IntArray) -> str:
        """Return the text of a trace, special tokens left out."""
        return self._chat.decode(token_ids)

    def start(self, layers: Sequence[int]) -> None:
        """Start an engine that can report these layers.

        Raises:
            ModelError: vLLM cannot run the model, or cannot report its hidden states.
            UsageError: the model has no such layer.
        """
        self._shape.check_layers(layers)
        if self._llm is not None and set(layers) <= set(self._layers):
            return
        self.close()
        self._layers = tuple(sorted(set(layers)))
        self._llm = self._start_engine()
        self._open_states()

    def generate(
        self, prompts: Sequence[IntArray], seeds: Sequence[int], sampling: Sampling
    ) -> list[list[Generated]]:
        """Continue each prompt ``sampling.num_traces`` times.

        Trace j of prompt i is drawn with seed ``seeds[i] + j``: it depends on neither the batch nor
        the order, up to the rounding of batched arithmetic.

        Raises:
            ModelError: a prompt + ``max_new_tokens`` is longer than ``max_model_len``.
        """
        check_fits(prompts, sampling.max_new_tokens, self._max_len)
        if self._llm is None:
            self.start(())
        outputs = self._run(continuations(prompts, seeds, sampling, None, None))
        return grouped([generated_of(out.outputs[0]) for out in outputs], sampling.num_traces)

    def trace(
        self,
        prompts: Sequence[IntArray],
        seeds: Sequence[int],
        sampling: Sampling,
        top_k: int,
        layers: Sequence[int],
    ) -> list[list[tuple[Generated, TokenSignals]]]:
        """Generate, and report the signals of what was generated, in one pass.

        Raises:
            ModelError: a prompt + ``max_new_tokens`` is longer than ``max_model_len``, or the
                model's class reports no hidden states.
            UsageError: ``top_k`` or a layer is outside the model.
        """
        self._shape.check_top_k(top_k)
        check_fits(prompts, sampling.max_new_tokens, self._max_len)
        receiver = self._ready(layers)
        requests = continuations(prompts, seeds, sampling, top_k, receiver)
        traced = []
        for request, output in zip(requests, self._run(requests), strict=True):
            (completion,) = output.outputs
            generated = generated_of(completion)
            target = generated.token_ids
            ids, logprobs = entries_of(completion.logprobs, len(target), top_k)
            states = self._take(request, len(target), layers)
            traced.append((generated, token_signals(target, ids, logprobs, states)))
        return grouped(traced, sampling.num_traces)

    def score(
        self,
        prompts: Sequence[IntArray],
        targets: Sequence[IntArray],
        top_k: int,
        layers: Sequence[int],
    ) -> list[TokenSignals]:
        """Read each prompt + target once and report the target's signals.

        Raises:
            ModelError: a row is longer than ``max_model_len``, the engine's echo of the ids differs
                from what was sent, or the model's class reports no hidden states.
            UsageError: ``top_k`` or a layer is outside the model.
        """
        self._shape.check_top_k(top_k)
        rows = [np.concatenate(pair) for pair in zip(prompts, targets, strict=True)]
        check_fits(rows, 0, self._max_len)
        receiver = self._ready(layers)
        signals = []
        for batch in batches_of([len(row) for row in rows], SCORE_BATCH_TOKENS):
            part = slice(batch.start, batch.stop)
            requests = readings(prompts[part], targets[part], top_k, receiver)
            outputs = self._run(requests)
            for request, output, target in zip(requests, outputs, targets[part], strict=True):
                ids, logprobs = entries_of(output.prompt_logprobs, len(target), top_k)
                states = self._take(request, len(target), layers)
                signals.append(token_signals(target, ids, logprobs, states))
        return signals

    def close(self) -> None:
        """Stop the engine and free its memory."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None

    def _ready(self, layers: Sequence[int]) -> StatesReceiver | None:
        """Start the engine if need be; return who receives these layers, if there are any."""
        self.start(layers)
        return self._receiver if layers else None

    def _run(self, requests: Sequence[Request]) -> list[Any]:
        """Send token ids to vLLM and compare its echo."""
        from vllm import SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError

        params = [
            SamplingParams(detokenize=False, flat_logprobs=True, **request.params)
            for request in requests
        ]
        prompts = [{"prompt_token_ids": request.token_ids} for request in requests]
        try:
            outputs: list[Any] = self._llm.generate(prompts, params, use_tqdm=False)
        except (RuntimeError, EngineDeadError) as error:
            raise ModelError(f"vLLM failed on {self._model!r}: {error}") from error
        for request, output in zip(requests, outputs, strict=True):
            if output.prompt_token_ids != request.token_ids:
                raise ModelError("vLLM read other token ids than it was sent")
        return outputs

    def _take(
        self, request: Request, num_tokens: int, layers: Sequence[int]
    ) -> dict[int, NDArray[np.generic]]:
        if request.row is None or self._receiver is None:
            return {}
        return self._receiver.take(request.row, num_tokens, layers)

    def _start_engine(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # third parties' deprecated calls, made on loading
            from vllm import LLM
            from vllm.platforms import current_platform

            on_cpu = bool(current_platform.is_cpu())
            if on_cpu:
                options.run_in_this_process()
            settings: dict[str, Any] = {
                "dtype": self._dtype,
                "seed": self._seed,
                **options.length_options(self._max_len),
                **options.compile_options(on_cpu=on_cpu),
                **options.memory_options(
                    on_cpu=on_cpu,
                    gpu_memory_utilization=self._gpu_memory_utilization,
                    # One token to end a scoring pass; the cache grows by blocks of up to 128.
                    sequence_bytes=self._shape.cache_bytes(self._max_len + 129, self._dtype),
                ),
                **options.worker_options(self._layers),
            }
            try:
                return LLM(self._model, **settings)
            except (RuntimeError, ValueError, NotImplementedError) as error:
                raise ModelError(
                    f"vLLM could not start {self._model!r}: {error}\n"
                    "`--engine transformers` runs any causal language model, more slowly"
                ) from error

    def _open_states(self) -> None:
        dtype = np.dtype(np.uint16 if self._dtype == "bfloat16" else self._dtype)
        self._receiver = StatesReceiver(self._layers, self._shape.width, dtype)
        (refused, *_) = self._llm.collective_rpc("open_states", args=self._receiver.contact)
        if refused:
            self.close()
            raise ModelError(
                f"vLLM's {refused} cannot report hidden states, so not those of {self._model!r}; "
                "use `--engine transformers`, or record no layers (`--text-layers none`)"
            )
