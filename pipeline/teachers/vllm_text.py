"""The textual teacher on vLLM: traces and all their signals in one pass, or those of given traces.

``trace`` generates and records as it goes: ``vllm_worker.SignalsWorker`` reads each step's logits
and states, and sends what is wanted of them. ``score`` reads given traces, prefill only; to
generate first and score in a second pass would nearly be a second generation.

Speed against plain generation, same prompts, seeds and traces (``tests/benchmarks/textual.py``, 2
CPU cores; 117 M parameters, 32 k tokens | 2 M, 1 k): top-64 0.98 to 1.01 | 0.91; with 4 layers 0.95
to 0.99 | 0.97; that in two passes 0.57 | 0.74; top-64 with the lens of 4 layers 0.59 to 0.70 |
0.68, for its unembeddings are that much arithmetic.

Shapes: P prompt tokens, T trace tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from cache_schema.commands.console import say
from cache_schema.errors import ModelError
from cache_schema.types import FloatArray, IntArray
from pipeline.teachers import vllm_options as options
from pipeline.teachers.base import EngineDiedError, Generated, Sampling, TokenSignals, Wanted
from pipeline.teachers.batching import batches_of, check_fits, grouped
from pipeline.teachers.channel import Receiver
from pipeline.teachers.owner import own_engine
from pipeline.teachers.records import Records, as_settings, record_dtype, signals_of
from pipeline.teachers.text_model import TextModel
from pipeline.teachers.vllm_requests import (
    Request,
    continuations,
    generated_of,
    logprobs_of,
    readings,
)
from pipeline.teachers.vllm_watch import wake_on_death
from pipeline.textual_recipe import TextualRecipe

options.quiet()

SCORE_BATCH_TOKENS = 16_384
"""Tokens scored at a time: their records are held."""

_MAX_TOLD = 600
"""Characters shown of why vLLM did not start: some errors list every class there is."""


class VllmTextTeacher(TextModel):
    """A textual teacher served by vLLM, see ``pipeline.teachers.base.TextTeacher``.

    The engine starts when first needed, and again when other signals are wanted than it was started
    for, which ``start`` avoids.
    """

    def __init__(self, recipe: TextualRecipe, seed: int) -> None:
        """Read the model's configuration and tokenizer; no engine yet.

        Args:
            recipe: names the model and how it runs.
            seed: the engine's seed; each request has one of its own beside it.

        Raises:
            ModelError: the model cannot be used (see ``TextModel``), or vLLM is not installed.
            UsageError: the recipe has engine settings that vLLM has not.
        """
        super().__init__(recipe)
        options.vllm_version()
        self._settings = dict(recipe.vllm)
        if self._settings:
            options.check_settings(self._settings)
        self._seed = seed
        self._llm: Any = None
        self._wanted = Wanted(top_k=0)
        self._receiver: Receiver | None = None

    def describe(self) -> dict[str, Any]:
        """Return what made the signals, see ``TextTeacher.describe``."""
        changing = options.changing_values(self._settings)
        return self.described("vllm", options.vllm_version(), changing)

    def start(self, wanted: Wanted) -> None:
        """Start an engine that can report these signals.

        Raises:
            ModelError: vLLM cannot run the model, or cannot report its states.
            UsageError: the model has no such layer, or fewer logits.
        """
        self.check(wanted)
        if self._llm is not None and wanted == self._wanted:
            return
        self.close()
        self._wanted = wanted
        refused = self._open(eager=False)
        if refused.startswith("compiled"):
            say(
                f"vLLM's {refused.partition(' ')[2]} only where it is not compiled: it "
                "runs uncompiled, so more slowly"
            )
            refused = self._open(eager=True)
        if refused:
            raise ModelError(f"hidden states of {self.model!r}: {refused}")

    def generate(
        self, prompts: Sequence[IntArray], seeds: Sequence[int], sampling: Sampling
    ) -> list[list[Generated]]:
        """Continue each prompt ``sampling.num_traces`` times; see ``TextTeacher``.

        Raises:
            EngineDiedError: vLLM failed on them.
            ModelError: a prompt + ``max_new_tokens`` is longer than ``max_model_len``.
        """
        check_fits(prompts, sampling.max_new_tokens, self.max_model_len)
        if self._llm is None:
            self.start(self._wanted)
        outputs = self._run(continuations(prompts, seeds, sampling, None))
        return grouped([generated_of(out.outputs[0]) for out in outputs], sampling.num_traces)

    def trace(
        self,
        prompts: Sequence[IntArray],
        seeds: Sequence[int],
        sampling: Sampling,
        wanted: Wanted,
    ) -> list[list[tuple[Generated, TokenSignals]]]:
        """Generate, and report the signals of what was generated, in one pass.

        Raises:
            EngineDiedError: vLLM failed on them.
            ModelError: a prompt + ``max_new_tokens`` is longer than ``max_model_len``, or the
                engine cannot report these signals.
            UsageError: the model has no such layer, or fewer logits.
        """
        check_fits(prompts, sampling.max_new_tokens, self.max_model_len)
        self.start(wanted)
        traced: list[tuple[Generated, TokenSignals]] = []
        requests = continuations(prompts, seeds, sampling, self._receiver)
        for request, output in zip(requests, self._run(requests), strict=True):
            (completion,) = output.outputs
            generated = generated_of(completion)
            ids = generated.token_ids
            records = self._take(request, len(ids))
            traced.append((generated, signals_of(records, ids, logprobs_of(completion), wanted)))
        return grouped(traced, sampling.num_traces)

    def score(
        self,
        prompts: Sequence[IntArray],
        targets: Sequence[IntArray],
        seeds: Sequence[int],
        wanted: Wanted,
    ) -> list[TokenSignals]:
        """Read each prompt + target once and report the target's signals.

        Raises:
            EngineDiedError: vLLM failed on them.
            ModelError: a row is longer than ``max_model_len``, the engine's echo of the ids differs
                from what was sent, or the engine cannot report these signals.
            UsageError: the model has no such layer, or fewer logits.
        """
        rows = [np.concatenate(pair) for pair in zip(prompts, targets, strict=True)]
        check_fits(rows, 0, self.max_model_len)
        self.start(wanted)
        assert self._receiver is not None
        signals = []
        for batch in batches_of([len(row) for row in rows], SCORE_BATCH_TOKENS):
            part = slice(batch.start, batch.stop)
            requests = readings(prompts[part], targets[part], seeds[part], self._receiver)
            self._run(requests)
            for request, target in zip(requests, targets[part], strict=True):
                records = self._take(request, len(target))
                assert records is not None
                logprobs: FloatArray = np.ascontiguousarray(records["target_logprob"])
                signals.append(signals_of(records, target, logprobs, wanted))
        return signals

    def close(self) -> None:
        """Stop the engine and free its memory."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None

    def _run(self, requests: Sequence[Request]) -> list[Any]:
        """Send token ids to vLLM and compare its echo."""
        from vllm import SamplingParams

        params = [
            SamplingParams(detokenize=False, flat_logprobs=True, **request.params)
            for request in requests
        ]
        prompts = [{"prompt_token_ids": request.token_ids} for request in requests]
        try:
            outputs: list[Any] = self._llm.generate(prompts, params, use_tqdm=False)
        except Exception as error:
            self.close()
            raise EngineDiedError(f"vLLM failed on {self.model!r}: {error}") from error
        for request, output in zip(requests, outputs, strict=True):
            if output.prompt_token_ids != request.token_ids:
                raise ModelError("vLLM read other token ids than it was sent")
        return outputs

    def _take(self, request: Request, num_tokens: int) -> Records | None:
        if request.row is None or self._receiver is None:
            return None
        return self._receiver.take(request.row, num_tokens)

    def _open(self, *, eager: bool) -> str:
        """Start an engine and connect to its worker; return why it has no states, if it has none.

        Raises:
            ModelError: vLLM cannot run the model.
        """
        self._llm = self._start_engine(eager=eager)
        wake_on_death(self._llm.llm_engine.engine_core)
        self._receiver = Receiver(record_dtype(self._wanted, self.shape.width, self.dtype))
        refusals = self._llm.collective_rpc("open_signals", args=self._receiver.contact)
        refused = next((text for text in refusals if text), "")
        if refused:
            self.close()
        return str(refused)

    def _start_engine(self, *, eager: bool) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # third parties' deprecated calls, made on loading
            from vllm import LLM
            from vllm.platforms import current_platform

            on_cpu = bool(current_platform.is_cpu())
            own_engine()
            if on_cpu:
                options.place_cpu_engine(self._settings)
            settings: dict[str, Any] = {
                "dtype": self.dtype,
                "seed": self._seed,
                **options.length_options(self.max_model_len),
                **options.compile_options(on_cpu=on_cpu),
                **options.memory_options(
                    on_cpu=on_cpu,
                    # One token to end a scoring pass; the cache grows by blocks of up to 128.
                    sequence_bytes=self.shape.cache_bytes(self.max_model_len + 129, self.dtype),
                ),
                **options.worker_options(as_settings(self._wanted, self.shape.width, self.dtype)),
                **self._settings,
                **({"enforce_eager": True} if eager else {}),
            }
            try:
                return LLM(self.model, **settings)
            except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
                told = str(error)
                told = told if len(told) <= _MAX_TOLD else f"{told[:_MAX_TOLD]} ..."
                raise ModelError(
                    f"vLLM could not start {self.model!r}: {told}\n"
                    "`--engine transformers` runs any causal language model, more slowly"
                ) from error
