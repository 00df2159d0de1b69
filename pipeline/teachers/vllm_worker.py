"""Runs inside vLLM: a worker that hands the signals of wanted positions to our process.

Once a step, beside sampling, it reads what the forward pass left: from the logits the k largest
with their tail and drawn tokens, from the states of chosen layers the states themselves and what
the model's own norm and unembedding make of them. So nothing of it passes through vLLM's own
log-probabilities, which are Python numbers one by one.

vLLM's ``extract_hidden_states`` method drafts a token a step to get at states, keeps those of every
token in the paged cache for a KV connector to fetch, and samples through a rejection sampler.
Generation at temperature 1 with 80 M parameters and 32 k tokens, CPU time a token: plain 2.3 ms,
with that method 4.8 ms, the same with its drafts thrown away 3.0 ms. This worker asks for the
states without speculating.

A request asks with ``extra_args["signals"] = {"row": r, "first": p, "end": q, "seed": s}`` and gets
positions ``p`` to ``q`` (exclusive) as they are computed. Chunked prefill and preemption need no
special case: a span is a span, and a recomputed position is sent again. Under tensor parallelism
every rank computes (unembedding is collective), and the first one sends.

Shapes: S tokens of a step, n wanted positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
from vllm.platforms import current_platform
from vllm.v1.core.sched.output import SchedulerOutput

from cache_schema.errors import ModelError
from pipeline.teachers.channel import Sender
from pipeline.teachers.outbox import Outbox
from pipeline.teachers.owner import end_with_owner
from pipeline.teachers.readout import CHUNK_ROWS, of_lens, of_logits, uniforms
from pipeline.teachers.records import REQUEST_KEY, SETTINGS_KEY, from_settings
from pipeline.teachers.vllm_taps import Taps

PlatformWorker: Any
if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


@dataclass(frozen=True)
class Asked:
    """The positions ``first`` to ``end`` (exclusive) of a request, known to us as ``row``.

    ``seed`` is that of drawn tokens; ``token_ids`` are those known beforehand.
    """

    row: int
    first: int
    end: int
    seed: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Span:
    """Asked positions of one step: where they begin in the batch, and whose they are."""

    asked: Asked
    position: int
    count: int
    at: int
    logits_row: int | None

    @property
    def next_ids(self) -> list[int]:
        """The token after each position, -1 where it is not known yet."""
        ids = self.asked.token_ids[self.position + 1 : self.position + 1 + self.count]
        return [*ids, *[-1] * (self.count - len(ids))]


class SignalsWorker(PlatformWorker):  # type: ignore[misc]
    """vLLM's worker of this platform, which also sends signals."""

    def load_model(self, **options: Any) -> None:
        """Load the model and, before it is compiled, attach to the layers."""
        end_with_owner()
        super().load_model(**options)
        self._asked: dict[str, Asked] = {}
        self._outbox: Outbox | None = None
        self._refusal = ""
        self._taps: Taps | None = None
        self._checked = False
        self._signals, self._record = from_settings(
            self.vllm_config.additional_config[SETTINGS_KEY]
        )
        layers = sorted({*self._signals.layers, *self._signals.lens})
        if layers:
            self._attach(layers)

    def _attach(self, layers: list[int]) -> None:
        model = self.model_runner.get_model()
        model_config = self.vllm_config.model_config
        num_layers = int(model_config.hf_text_config.num_hidden_layers)
        compiled = not model_config.enforce_eager
        name = type(model).__name__
        if compiled and 0 in layers:
            # whether block 1 adds to it in place depends on compiler, kernels and passes chosen
            self._refusal = f"compiled {name} reports the embedding output (layer 0)"
            return
        try:
            taps = Taps(model, layers, num_layers)
        except ModelError as error:
            self._refusal = f"{error}; use `--engine transformers`"
            return
        if taps.has_interface:
            self.model_runner.use_aux_hidden_state_outputs = True
        elif compiled:
            self._refusal = f"compiled {name} reports states"
            return
        self._taps = taps

    def open_signals(self, address: str, key: str) -> str:
        """Connect to the receiver; called once over ``LLM.collective_rpc``.

        Returns:
            Why the model cannot report its states, if it cannot.
        """
        if get_tensor_model_parallel_rank() == 0 and not self._refusal:
            sender = Sender(address, key)
            self._outbox = Outbox(sender, self._record, threaded=not current_platform.is_cpu())
        return self._refusal

    def execute_model(self, scheduler_output: SchedulerOutput) -> Any:
        """Run the forward pass; remember what it was asked to compute."""
        for request_id in scheduler_output.finished_req_ids:
            self._asked.pop(request_id, None)
        for new in scheduler_output.scheduled_new_reqs:
            extra = new.sampling_params.extra_args if new.sampling_params else None
            if extra and REQUEST_KEY in extra:
                known = tuple(new.prompt_token_ids or ())
                self._asked[new.req_id] = Asked(**extra[REQUEST_KEY], token_ids=known)
        self._scheduled = scheduler_output
        return super().execute_model(scheduler_output)

    @torch.inference_mode()
    def sample_tokens(self, grammar_output: Any) -> Any:
        """Read off the signals of the pass, then sample from it."""
        state = self.model_runner.execute_model_state
        if state is not None and self._asked:
            # vLLM has two model runners; they keep the batch in different places.
            batch = getattr(state, "input_batch", None) or self.model_runner.input_batch
            spans = self._spans(batch.req_ids)
            if spans:
                self._report(spans, state)
        return super().sample_tokens(grammar_output)

    def _spans(self, request_ids: list[str]) -> list[Span]:
        """Return the asked positions of this step; the batch is flat, in the order of the ids."""
        scheduled = self._scheduled
        computed = {new.req_id: new.num_computed_tokens for new in scheduled.scheduled_new_reqs}
        cached = scheduled.scheduled_cached_reqs
        computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        spans, at = [], 0
        for row, request_id in enumerate(request_ids):
            num_tokens = scheduled.num_scheduled_tokens[request_id]
            asked = self._asked.get(request_id)
            if asked is not None:
                start = computed[request_id]
                first = max(start, asked.first)
                count = min(start + num_tokens, asked.end) - first
                if count > 0:
                    # vLLM unembeds the last position of every request, in the same order.
                    only_last = count == 1 and first == start + num_tokens - 1
                    place = row if only_last else None
                    spans.append(Span(asked, first, count, at + first - start, place))
            at += num_tokens
        return spans

    def _report(self, spans: list[Span], state: Any) -> None:
        output_SD = state.hidden_states
        device = output_SD.device
        rows = np.concatenate([np.arange(span.at, span.at + span.count) for span in spans])
        rows_n = torch.from_numpy(rows).to(device)
        states: Mapping[int, Tensor] = {}
        if self._taps is not None:
            try:
                states = self._taps.states(state.aux_hidden_states)
            except ModelError as error:
                self._fail(str(error))
                return
            if not self._checked:
                problem = self._taps.problem(states, output_SD, rows_n)
                self._checked = problem is not None
                if problem:
                    self._fail(problem)
        fields: list[dict[str, Tensor]] = []
        layers = {*self._signals.layers, *self._signals.lens}
        kept = {layer: states[layer][rows_n] for layer in layers}
        uniforms_n = self._uniforms(spans, device)
        next_n = torch.tensor([i for span in spans for i in span.next_ids], device=device)
        whole_nV = self._sampled_logits(spans, state)
        for start in range(0, len(rows), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            logits_nV = None if whole_nV is None else whole_nV[part]
            if logits_nV is None:
                logits_nV = self._unembed(output_SD[rows_n[part]])
            found = self._of_states({layer: rows[part] for layer, rows in kept.items()})
            if logits_nV is not None:
                found |= of_logits(logits_nV, next_n[part], uniforms_n[part], self._signals)
            fields.append(found)
        if self._outbox is not None:
            header = np.array([(s.asked.row, s.position, s.count) for s in spans], np.int64)
            self._outbox.put(header, fields)

    def _fail(self, why: str) -> None:
        if self._outbox is not None:
            self._outbox.fail(why)

    def _uniforms(self, spans: list[Span], device: torch.device) -> Tensor:
        numbers = [
            uniforms(span.asked.seed, span.position - span.asked.first, span.count)
            for span in spans
        ]
        return torch.from_numpy(np.concatenate(numbers)).to(device)

    def _sampled_logits(self, spans: list[Span], state: Any) -> Tensor | None:
        """Return the logits that are there already, if they are those of the asked positions."""
        logits: Tensor | None = getattr(state, "logits", None)
        places = [span.logits_row for span in spans if span.logits_row is not None]
        if logits is None or len(places) != len(spans):
            return None
        return logits[torch.tensor(places, device=logits.device)]

    def _unembed(self, hidden_nD: Tensor) -> Tensor | None:
        """Return the logits; ``None`` where another rank gathers them."""
        logits: Tensor | None = self.model_runner.get_model().compute_logits(hidden_nD)
        return logits

    def _of_states(self, states: Mapping[int, Tensor]) -> dict[str, Tensor]:
        wanted, found = self._signals, {}
        if wanted.layers:
            found["states"] = torch.stack([states[layer] for layer in wanted.layers], dim=1)
        return found | of_lens(self._lens_logits(states), wanted.lens_top_k)

    def _lens_logits(self, states: Mapping[int, Tensor]) -> Iterator[Tensor]:
        for layer in self._signals.lens:
            assert self._taps is not None
            logits_nV = self._unembed(self._taps.decoder.norm(states[layer]))
            if logits_nV is not None:
                yield logits_nV
