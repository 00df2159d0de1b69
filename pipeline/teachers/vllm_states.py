"""Runs inside vLLM: a worker that hands the hidden states of wanted positions to our process.

vLLM's models can return the input of chosen blocks beside their output (its EAGLE-3 interface),
compiled and captured in CUDA graphs with the rest of the forward pass. vLLM itself asks for them
only when it speculates: its ``extract_hidden_states`` method drafts a token a step to get at them,
keeps the states of every token in the paged cache for a KV connector to fetch, and samples through
a rejection sampler. Generation at temperature 1 with 80 M parameters and 32 k tokens, CPU time a
token: plain 2.3 ms, with that method 4.8 ms, the same with its drafts thrown away 3.0 ms. This
worker asks for the states without speculating, and copies the wanted rows at the end of a step.

A request asks with ``extra_args["states"] = {"row": r, "first": p, "end": q}`` and gets positions
``p`` to ``q`` (exclusive) as they are computed. Chunked prefill and preemption need no special
case: a span is a span, and a recomputed position is sent again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
from vllm.model_executor.models.interfaces import supports_eagle3
from vllm.platforms import current_platform
from vllm.v1.core.sched.output import SchedulerOutput

from pipeline.teachers.states_channel import StatesSender

PlatformWorker: Any
if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker

LAYERS_KEY = "recorded_layers"
"""Key of ``additional_config`` with our layer numbers, which may be none; being part of vLLM's
configuration, it also keeps compiled graphs of other layers apart."""

REQUEST_KEY = "states"
"""Key of a request's ``extra_args``."""


@dataclass(frozen=True)
class Wanted:
    """The positions ``first`` to ``end`` (exclusive) of a request, known to us as ``row``."""

    row: int
    first: int
    end: int


@dataclass(frozen=True)
class Span:
    """Wanted positions of one step: where they lie in the batch, and whose they are."""

    row: int
    position: int
    count: int
    at: int


class StatesWorker(PlatformWorker):  # type: ignore[misc]
    """vLLM's worker of this platform, which also sends hidden states."""

    def load_model(self, **options: Any) -> None:
        """Load the model and, before it is compiled, ask it for the layers."""
        super().load_model(**options)
        self._wanted: dict[str, Wanted] = {}
        self._sender: StatesSender | None = None
        self._layers = tuple(self.vllm_config.additional_config[LAYERS_KEY])
        model: Any = self.model_runner.get_model()
        self._refusal = ""
        if self._layers and not supports_eagle3(model):
            self._refusal = type(model).__name__
        elif self._layers:
            # Their numbering is ours: 0 is the embedding output, N what leaves block N.
            model.set_aux_hidden_state_layers(self._layers)
            self.model_runner.use_aux_hidden_state_outputs = True

    def open_states(self, address: str, key: str, receiver_pid: int) -> str:
        """Connect to the receiver; called once over ``LLM.collective_rpc``.

        Returns:
            The name of the model's class if it cannot report hidden states, else nothing.
        """
        if get_tensor_model_parallel_rank() == 0:  # every rank holds the same states
            self._sender = StatesSender(address, key, receiver_pid)
        return self._refusal

    def execute_model(self, scheduler_output: SchedulerOutput) -> Any:
        """Run the forward pass; remember what it was asked to compute."""
        for request_id in scheduler_output.finished_req_ids:
            self._wanted.pop(request_id, None)
        for new in scheduler_output.scheduled_new_reqs:
            extra = new.sampling_params.extra_args if new.sampling_params else None
            if extra and REQUEST_KEY in extra:
                self._wanted[new.req_id] = Wanted(**extra[REQUEST_KEY])
        self._scheduled = scheduler_output
        return super().execute_model(scheduler_output)

    @torch.inference_mode()
    def sample_tokens(self, grammar_output: Any) -> Any:
        """Sample, then send the states of the pass that was sampled from."""
        spans: list[Span] = []
        state = self.model_runner.execute_model_state
        if state is not None and self._sender is not None:
            # vLLM has two model runners; they keep the batch in different places.
            batch = getattr(state, "input_batch", None) or self.model_runner.input_batch
            spans = self._spans(batch.req_ids)
        output = super().sample_tokens(grammar_output)
        if spans and self._sender is not None:
            layers = state.aux_hidden_states
            if len(layers) != len(self._layers):
                raise RuntimeError(
                    f"the model reported {len(layers)} of the layers it was asked for"
                )
            _send(self._sender, spans, layers)
        return output

    def _spans(self, request_ids: list[str]) -> list[Span]:
        """Return the wanted positions of this step; the batch is flat, in the order of the ids."""
        scheduled = self._scheduled
        computed = {new.req_id: new.num_computed_tokens for new in scheduled.scheduled_new_reqs}
        cached = scheduled.scheduled_cached_reqs
        computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        spans, at = [], 0
        for request_id in request_ids:
            num_tokens = scheduled.num_scheduled_tokens[request_id]
            wanted = self._wanted.get(request_id)
            if wanted is not None:
                start = computed[request_id]
                first = max(start, wanted.first)
                count = min(start + num_tokens, wanted.end) - first
                if count > 0:
                    spans.append(Span(wanted.row, first, count, at + first - start))
            at += num_tokens
        return spans


def _send(sender: StatesSender, spans: list[Span], layers: list[torch.Tensor]) -> None:
    """Copy the spans' rows of every layer, [batch tokens, D] each, to the host and send them."""
    rows = np.concatenate([np.arange(span.at, span.at + span.count) for span in spans])
    index = torch.from_numpy(rows).to(layers[0].device)
    states = torch.stack([layer[index] for layer in layers], dim=1).cpu()
    if states.dtype == torch.bfloat16:
        states = states.view(torch.uint16)
    header = np.array([(span.row, span.position, span.count) for span in spans], np.int64)
    sender.send(header, states.numpy())
