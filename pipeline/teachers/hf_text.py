"""The textual teacher on transformers: the readable reference, and the way without vLLM.

The same answers as ``vllm_text`` by the plainest means: a decoding loop over a left-padded batch,
and a forward pass a row for top-k and states. States are read by hooks, so that the last layer is
taken before the final norm, which ``output_hidden_states`` applies.

Shapes: B rows, P prompt tokens, T trace tokens, V vocabulary, D width, k kept logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from cache_schema.types import IntArray
from pipeline.teachers.base import Generated, Sampling, TokenSignals
from pipeline.teachers.chat import ChatTokenizer
from pipeline.teachers.describe import describe_model, load_config, resolve_dtype, text_shape
from pipeline.teachers.sampling import choose, stop_token_ids
from pipeline.teachers.signals import batches_of, check_fits, grouped, token_signals

DEFAULT_MAX_MODEL_LEN = 8192
"""Used where the model allows more."""

BATCH_TOKENS = 32_768
"""Prompt and new tokens of one batch of generation: bounds its cache of keys and values."""


class HfTextTeacher:
    """A textual teacher run by transformers, see ``pipeline.teachers.base.TextTeacher``."""

    def __init__(
        self,
        *,
        model: str,
        dtype: str = "auto",
        max_model_len: int | None = None,
        device: str = "auto",
    ) -> None:
        """Load the model.

        Args:
            model: a local directory in transformers' layout or a hub id.
            dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
            max_model_len: longest prompt + trace; by default the model's own, at most
                ``DEFAULT_MAX_MODEL_LEN``.
            device: ``auto`` (the first GPU, else the CPU) or a torch device.

        Raises:
            ModelError: no such model, no tokenizer, no chat template, an unknown dtype, or a
                ``max_model_len`` beyond the model's.
        """
        self._model = model
        self._shape = text_shape(load_config(model))
        self._chat = ChatTokenizer(model)
        self._dtype = resolve_dtype(dtype, self._shape)
        self._max_len = self._shape.max_len(max_model_len, DEFAULT_MAX_MODEL_LEN)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(device)
        lm: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, self._dtype))
        self._lm = lm.to(self._device).eval()
        self._stop = stop_token_ids(self._lm.generation_config, self._chat.tokenizer)

    @property
    def max_model_len(self) -> int:
        """Longest prompt + trace, in tokens."""
        return self._max_len

    def describe(self) -> dict[str, Any]:
        """Return what made the signals, see ``TextTeacher.describe``."""
        return {
            **describe_model(self._model, self._chat.tokenizer),
            "engine": "transformers",
            "engine_version": transformers.__version__,
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
        """Check the layers; the model is loaded already.

        Raises:
            UsageError: the model has no such layer.
        """
        self._shape.check_layers(layers)

    def generate(
        self, prompts: Sequence[IntArray], seeds: Sequence[int], sampling: Sampling
    ) -> list[list[Generated]]:
        """Continue each prompt ``sampling.num_traces`` times.

        Trace j of prompt i is drawn with seed ``seeds[i] + j``: it depends on neither the batch nor
        the order, up to the rounding of batched arithmetic. The draws differ from vLLM's.

        Raises:
            ModelError: a prompt + ``max_new_tokens`` is longer than ``max_model_len``.
        """
        check_fits(prompts, sampling.max_new_tokens, self._max_len)
        rows = [prompt for prompt in prompts for _ in range(sampling.num_traces)]
        row_seeds = [seed + index for seed in seeds for index in range(sampling.num_traces)]
        # Padding makes every row of a batch as long as its longest.
        longest = max((len(row) for row in rows), default=0) + sampling.max_new_tokens
        generated: list[Generated] = []
        for batch in batches_of([longest] * len(rows), BATCH_TOKENS):
            part = slice(batch.start, batch.stop)
            generated += self._decode_batch(rows[part], row_seeds[part], sampling)
        return grouped(generated, sampling.num_traces)

    def trace(
        self,
        prompts: Sequence[IntArray],
        seeds: Sequence[int],
        sampling: Sampling,
        top_k: int,
        layers: Sequence[int],
    ) -> list[list[tuple[Generated, TokenSignals]]]:
        """Generate, then score what was generated; see ``generate`` and ``score``."""
        generated = [trace for many in self.generate(prompts, seeds, sampling) for trace in many]
        rows = [prompt for prompt in prompts for _ in range(sampling.num_traces)]
        scored = self.score(rows, [trace.token_ids for trace in generated], top_k, layers)
        return grouped(list(zip(generated, scored, strict=True)), sampling.num_traces)

    @torch.inference_mode()
    def score(
        self,
        prompts: Sequence[IntArray],
        targets: Sequence[IntArray],
        top_k: int,
        layers: Sequence[int],
    ) -> list[TokenSignals]:
        """Read each prompt + target once, row by row, and report the target's signals.

        Raises:
            ModelError: a row is longer than ``max_model_len``.
            UsageError: ``top_k`` or a layer is outside the model.
        """
        self._shape.check_top_k(top_k)
        self._shape.check_layers(layers)
        rows = [np.concatenate(pair) for pair in zip(prompts, targets, strict=True)]
        check_fits(rows, 0, self._max_len)
        signals = []
        for row, target in zip(rows, targets, strict=True):
            ids = torch.from_numpy(row).to(self._device)
            with self._hooked(layers) as states:
                logits_TV = self._lm(input_ids=ids[None], logits_to_keep=len(target) + 1).logits[0]
            logprobs_TV = torch.log_softmax(logits_TV[:-1].float(), dim=-1)
            target_T1 = ids[len(row) - len(target) :, None]
            values, indices = logprobs_TV.topk(top_k, dim=-1)
            entry_ids = torch.cat([target_T1, indices], dim=1)
            entry_logprobs = torch.cat([logprobs_TV.gather(1, target_T1), values], dim=1)
            kept = {
                layer: _to_numpy(states[layer][0, len(row) - len(target) - 1 : -1])
                for layer in layers
            }
            signals.append(
                token_signals(target, entry_ids.cpu().numpy(), entry_logprobs.cpu().numpy(), kept)
            )
        return signals

    def close(self) -> None:
        """Free the model."""
        self._lm = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def _hooked(self, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
        """Collect the output of embeddings (0) and blocks (N), [B, S, D], while the block runs."""
        decoder = self._lm.get_decoder()
        states: dict[int, torch.Tensor] = {}
        handles = []
        for layer in layers:
            # Block 1 reads the embeddings as the model scaled them, if it does.
            module = decoder.layers[max(layer - 1, 0)]
            if layer == 0:
                handles.append(
                    module.register_forward_pre_hook(_keep_input(states, layer), with_kwargs=True)
                )
            else:
                handles.append(module.register_forward_hook(_keep_output(states, layer)))
        try:
            yield states
        finally:
            for handle in handles:
                handle.remove()

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
        traces: list[list[int]] = [[] for _ in rows]
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
            chosen = choose(out.logits[:, -1].float().cpu(), draws, sampling)
            for index, token in enumerate(chosen.tolist()):
                if not ended[index]:
                    traces[index].append(token)
                    ended[index] = token in self._stop
            if all(ended):
                break
            ids = chosen[:, None].to(self._device)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        return [
            Generated(
                token_ids=np.asarray(trace, np.int64), finish_reason="stop" if end else "length"
            )
            for trace, end in zip(traces, ended, strict=True)
        ]


def _keep_input(states: dict[int, torch.Tensor], layer: int) -> Any:
    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states[layer] = args[0] if args else kwargs["hidden_states"]

    return hook


def _keep_output(states: dict[int, torch.Tensor], layer: int) -> Any:
    def hook(_module: Any, _args: Any, output: Any) -> None:
        states[layer] = output[0] if isinstance(output, tuple) else output

    return hook


def _to_numpy(states: torch.Tensor) -> NDArray[np.generic]:
    states = states.cpu()
    if states.dtype == torch.bfloat16:
        states = states.view(torch.uint16)
    array: NDArray[np.generic] = states.numpy()
    return array
