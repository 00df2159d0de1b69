"""The textual teacher on transformers: the readable reference, and the way without vLLM.

The same answers as ``vllm_text`` by the plainest means: a decoding loop over a left-padded batch,
then forward passes over prompt and trace for the signals.

Shapes: B rows, P prompt tokens, T trace tokens, V vocabulary, D width, N positions of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM

from audio_models.forward import forward_with_states
from cache_schema.types import IntArray
from pipeline.teachers.base import EngineDiedError, Generated, Sampling, TokenSignals, Wanted
from pipeline.teachers.batching import batches_of, check_fits, grouped
from pipeline.teachers.offload import as_numpy
from pipeline.teachers.readout import uniforms
from pipeline.teachers.records import Records, record_dtype, signals_of
from pipeline.teachers.sampling import choose
from pipeline.teachers.text_model import TextModel
from pipeline.teachers.token_readout import read_tokens
from pipeline.textual_recipe import TextualRecipe

BATCH_TOKENS = 32_768
"""Prompt and new tokens of one batch of generation: bounds its cache of keys and values."""

SCORE_TOKENS = 8192
"""Tokens of one forward pass on a device; on a CPU a row goes alone, padding would cost it time."""


class HfTextTeacher(TextModel):
    """A textual teacher run by transformers, see ``pipeline.teachers.base.TextTeacher``."""

    def __init__(self, recipe: TextualRecipe, device: str = "auto") -> None:
        """Read the model's configuration and tokenizer; its weights when they are needed.

        Args:
            recipe: names the model.
            device: ``auto`` (the first GPU, else the CPU) or a torch device.

        Raises:
            ModelError: the model cannot be used (see ``TextModel``).
        """
        super().__init__(recipe)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(device)
        self._loaded: Any = None

    def describe(self) -> dict[str, Any]:
        """Return what made the signals, see ``TextTeacher.describe``."""
        return self.described("transformers", transformers.__version__, {})

    def start(self, wanted: Wanted) -> None:
        """Check what is wanted and load the model.

        Raises:
            EngineDiedError: there is no memory for it.
            UsageError: the model has no such layer, or fewer logits.
        """
        self.check(wanted)
        with self._one_death():
            assert self._lm is not None

    def generate(
        self, prompts: Sequence[IntArray], seeds: Sequence[int], sampling: Sampling
    ) -> list[list[Generated]]:
        """Continue each prompt ``sampling.num_traces`` times; the draws differ from vLLM's.

        Raises:
            EngineDiedError: memory ran out.
            ModelError: a prompt + ``max_new_tokens`` is longer than ``max_model_len``.
        """
        check_fits(prompts, sampling.max_new_tokens, self.max_model_len)
        rows = [prompt for prompt in prompts for _ in range(sampling.num_traces)]
        row_seeds = _trace_seeds(seeds, sampling.num_traces)
        # Padding makes every row of a batch as long as its longest.
        longest = max((len(row) for row in rows), default=0) + sampling.max_new_tokens
        generated: list[Generated] = []
        for batch in batches_of([longest] * len(rows), BATCH_TOKENS):
            part = slice(batch.start, batch.stop)
            with self._one_death():
                generated += self._decode_batch(rows[part], row_seeds[part], sampling)
        return grouped(generated, sampling.num_traces)

    def trace(
        self,
        prompts: Sequence[IntArray],
        seeds: Sequence[int],
        sampling: Sampling,
        wanted: Wanted,
    ) -> list[list[tuple[Generated, TokenSignals]]]:
        """Generate, then score what was generated; see ``generate`` and ``score``."""
        generated = [trace for many in self.generate(prompts, seeds, sampling) for trace in many]
        rows = [prompt for prompt in prompts for _ in range(sampling.num_traces)]
        targets = [trace.token_ids for trace in generated]
        scored = self.score(rows, targets, _trace_seeds(seeds, sampling.num_traces), wanted)
        return grouped(list(zip(generated, scored, strict=True)), sampling.num_traces)

    def score(
        self,
        prompts: Sequence[IntArray],
        targets: Sequence[IntArray],
        seeds: Sequence[int],
        wanted: Wanted,
    ) -> list[TokenSignals]:
        """Read each prompt + target once and report the target's signals.

        Raises:
            EngineDiedError: memory ran out.
            ModelError: a row is longer than ``max_model_len``.
            UsageError: the model has no such layer, or fewer logits.
        """
        self.check(wanted)
        rows = [np.concatenate(pair) for pair in zip(prompts, targets, strict=True)]
        check_fits(rows, 0, self.max_model_len)
        longest = max((len(row) for row in rows), default=0)
        most = longest if self._device.type == "cpu" else SCORE_TOKENS
        signals: list[TokenSignals] = []
        for batch in batches_of([longest] * len(rows), most):
            part = slice(batch.start, batch.stop)
            with self._one_death():
                records = self._read_batch(rows[part], targets[part], seeds[part], wanted)
            signals += [
                signals_of(found, target, np.ascontiguousarray(found["target_logprob"]), wanted)
                for found, target in zip(records, targets[part], strict=True)
            ]
        return signals

    def close(self) -> None:
        """Free the model."""
        self._loaded = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def _lm(self) -> Any:
        if self._loaded is None:
            dtype = getattr(torch, self.dtype)
            lm: Any = AutoModelForCausalLM.from_pretrained(self.model, dtype=dtype)
            self._loaded = lm.to(self._device).eval()
        return self._loaded

    @contextmanager
    def _one_death(self) -> Iterator[None]:
        """Give running out of memory the name the extraction loop knows."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            self.close()
            raise EngineDiedError(f"no memory for {self.model!r}: {error}") from error

    @torch.inference_mode()
    def _read_batch(
        self,
        rows: Sequence[IntArray],
        targets: Sequence[IntArray],
        seeds: Sequence[int],
        wanted: Wanted,
    ) -> list[Records]:
        """Run one forward pass, padded on the right: a row sees nothing of its padding."""
        width = max(len(row) for row in rows)
        ids_BP = np.zeros((len(rows), width), np.int64)
        mask_BP = np.zeros((len(rows), width), np.int64)
        for index, row in enumerate(rows):
            ids_BP[index, : len(row)] = row
            mask_BP[index, : len(row)] = 1
        predicting = [
            torch.arange(len(row) - len(target) - 1, len(row) - 1)
            for row, target in zip(rows, targets, strict=True)
        ]
        inputs = {
            "input_ids": torch.from_numpy(ids_BP).to(self._device),
            "attention_mask": torch.from_numpy(mask_BP).to(self._device),
        }
        layers = sorted({*wanted.layers, *wanted.lens})
        forward = forward_with_states(
            self._lm,
            inputs,
            layers,
            predicting,
            unembed_now=False,
            state_positions=predicting,
        )
        target_N = torch.from_numpy(np.concatenate(targets)).to(self._device)
        numbers = [uniforms(s, 0, len(t)) for s, t in zip(seeds, targets, strict=True)]
        uniforms_N = torch.from_numpy(np.concatenate(numbers)).to(self._device)
        records = np.empty(len(target_N), record_dtype(wanted, self.shape.width, self.dtype))
        if len(records):
            found = read_tokens(
                self._lm, forward.readout_ND, forward.states, target_N, uniforms_N, wanted
            )
            for name, tensor in found.items():
                records[name] = tensor.cpu().numpy()
            for index, layer in enumerate(wanted.layers):
                records["states"][:, index] = as_numpy(forward.states[layer].cpu())
        return np.split(records, np.cumsum([len(target) for target in targets])[:-1])

    @torch.inference_mode()
    def _decode_batch(
        self, rows: Sequence[IntArray], seeds: Sequence[int], sampling: Sampling
    ) -> list[Generated]:
        width = max(len(row) for row in rows)
        ids_BP = np.zeros((len(rows), width), np.int64)
        mask_BP = np.zeros((len(rows), width), np.int64)
        for index, row in enumerate(rows):
            ids_BP[index, width - len(row) :] = row
            mask_BP[index, width - len(row) :] = 1
        ids = torch.from_numpy(ids_BP).to(self._device)
        mask = torch.from_numpy(mask_BP).to(self._device)
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        seen = self._seen(rows) if sampling.repetition_penalty != 1.0 else None
        traces: list[list[int]] = [[] for _ in rows]
        totals = [0.0] * len(rows)
        ended = [False] * len(rows)
        cache = None
        for _ in range(sampling.max_new_tokens):
            positions = (mask.cumsum(dim=1) - 1).clamp_min(0)[:, -ids.shape[1] :]
            out = self._lm(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = out.past_key_values
            logits_BV = out.logits[:, -1].float().cpu()
            chosen = choose(logits_BV, seen, draws, sampling)
            logprobs = logits_BV.log_softmax(dim=-1).gather(1, chosen[:, None])[:, 0].tolist()
            for index, token in enumerate(chosen.tolist()):
                if not ended[index]:
                    traces[index].append(token)
                    totals[index] += logprobs[index]
                    ended[index] = token in self.chat.stop_ids
            if all(ended):
                break
            if seen is not None:
                seen.scatter_(1, chosen[:, None], True)
            ids = chosen[:, None].to(self._device)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        return [
            Generated(
                token_ids=np.asarray(trace, np.int64),
                finish_reason="stop" if end else "length",
                logprob=total,
            )
            for trace, end, total in zip(traces, ended, totals, strict=True)
        ]

    def _seen(self, rows: Sequence[IntArray]) -> Tensor:
        """Return which tokens each prompt has, bool [B, V]."""
        seen_BV = torch.zeros(len(rows), self.shape.vocab_size, dtype=torch.bool)
        for index, row in enumerate(rows):
            seen_BV[index, torch.from_numpy(row)] = True
        return seen_BV


def _trace_seeds(seeds: Sequence[int], num_traces: int) -> list[int]:
    return [seed + index for seed in seeds for index in range(num_traces)]
