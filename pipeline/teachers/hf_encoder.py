"""An encoder-only text model (BERT, RoBERTa, ModernBERT, ...) as a textual source, on transformers.

It reads the description and has states of its tokens; it writes no trace and has no distribution
over a next token. Wav-BERT (arXiv 2109.09161) distils speech encoders from such states.

Shapes: B rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoModel
from transformers.utils import logging

from audio_models.blocks import Blocks
from audio_models.config import load_config
from audio_models.moved import moved
from cache_schema.codecs import bfloat16
from cache_schema.commands.console import say
from cache_schema.errors import ModelError, first_line
from cache_schema.types import IntArray
from pipeline.teachers.describe import (
    TextShape,
    describe_model,
    load_tokenizer,
    resolve_dtype,
    text_shape,
)
from pipeline.teachers.encoder_only import check_textual
from pipeline.textual_recipe import TextualRecipe

BATCH_TOKENS = 16_384
"""Tokens of one forward pass, padding included."""

States = dict[int, NDArray[Any]]


class HfEncoder:
    """An encoder-only text model."""

    def __init__(self, recipe: TextualRecipe, device: str = "auto") -> None:
        """Load the model.

        Args:
            recipe: ``teacher``, ``dtype`` and ``max_model_len`` are used.
            device: ``auto`` (the first GPU, else the CPU) or a torch device.

        Raises:
            ModelError: no such model, no tokenizer, no encoder-only text model, weights missing, an
                unknown dtype, a ``max_model_len`` beyond the model's, or a family whose states
                cannot be read.
            UsageError: a setting is given that an encoder has no use for.
        """
        self._recipe, self._model_name = recipe, recipe.teacher
        check_textual(recipe)
        config = load_config(recipe.teacher)
        self.shape: TextShape = text_shape(config)
        self._tokenizer = load_tokenizer(recipe.teacher)
        self.dtype = resolve_dtype(recipe.dtype, self.shape)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(device)
        self._model: Any = _load(recipe.teacher, self.dtype).to(self._device).eval()
        asked = recipe.max_model_len
        self.max_tokens = _max_tokens(asked, self.shape, self._tokenizer, self._model)
        # The model's own id comes first: RoBERTa counts positions by it.
        pad_ids = (config.pad_token_id, self._tokenizer.pad_token_id, 0)
        self._pad_id = next(pad for pad in pad_ids if pad is not None)
        self._blocks = Blocks(self._model, self.shape.num_layers)
        probe = self.encode("one two three")[: self.max_tokens]
        try:
            self._blocks.check(torch.from_numpy(probe[None]).to(self._device))
        except RuntimeError as error:
            raise ModelError(
                f"model {recipe.teacher!r} cannot compute in {self.dtype} on {device} "
                f"({first_line(error)}); try --set textual.dtype=float32"
            ) from error
        self._may_pad = self._ignores_padding(probe)

    def describe(self) -> dict[str, Any]:
        """Return what made the signals, see ``describe_encoder``."""
        return describe_encoder(self._recipe)

    def encode(self, text: str) -> IntArray:
        """Return the ids of a text, the tokenizer's special tokens included.

        Returns:
            int64 [T], never cut; empty if the text has no token of its own.
        """
        encoded = self._tokenizer(text, return_special_tokens_mask=True, verbose=False)
        ids = np.asarray(encoded["input_ids"], np.int64)
        return ids[:0] if all(encoded["special_tokens_mask"]) else ids

    def read(
        self, rows: Sequence[IntArray], layers: Sequence[int]
    ) -> Iterator[tuple[int, States | None]]:
        """Read texts in batches of similar length, padding masked; hold one forward pass's states.

        Args:
            rows: int64 [T] ids of each text, 1 to ``max_tokens``.
            layers: layers to return, 0 (embedding output) to the number of blocks.

        Returns:
            Pass by pass, the place of each text in ``rows`` and layer -> [T, D] in the model's
            dtype, bfloat16 as uint16 bits; ``None`` where memory runs out on that text alone. The
            texts of a pass share their memory, so let go of one before asking for the next.

        Raises:
            UsageError: the model has no such layer.
        """
        self.shape.check_layers(layers)
        return self._passes(rows, layers)

    def close(self) -> None:
        """Free the model."""
        self._model = self._blocks = None  # type: ignore[assignment]
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _batch_size(self, lengths: Sequence[int]) -> int:
        """Return how many of the ascending lengths make up the next batch; at least 1."""
        longest = lengths[-1] if self._may_pad else lengths[0]
        fit = (
            length <= longest and count * length <= BATCH_TOKENS
            for count, length in enumerate(lengths, 1)
        )
        return max(1, sum(takewhile(bool, fit)))

    def _ignores_padding(self, probe: IntArray) -> bool:
        """Return whether a text has the same states beside a longer one as alone."""
        longer = np.resize(probe, min(2 * len(probe), self.max_tokens))
        layers = range(self.shape.num_layers + 1)
        ((alone,), (beside, _)) = (
            self._read_batch(rows, layers) for rows in ([probe], [probe, longer])
        )
        for layer in layers:
            one, other = (
                torch.from_numpy(bfloat16.decode(states[layer])) for states in (alone, beside)
            )
            if moved(one, other, getattr(torch, self.dtype)):
                say(
                    f"textual: {self._model_name} looks at padding, so only descriptions of equal "
                    "length are read together"
                )
                return False
        return True

    def _passes(
        self, rows: Sequence[IntArray], layers: Sequence[int]
    ) -> Iterator[tuple[int, States | None]]:
        by_length = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        while by_length:
            size = self._batch_size([len(rows[row]) for row in by_length])
            yield from self._halving(by_length[:size], rows, layers)
            by_length = by_length[size:]

    def _halving(
        self, batch: Sequence[int], rows: Sequence[IntArray], layers: Sequence[int]
    ) -> Iterator[tuple[int, States | None]]:
        """Read a batch, halved where memory runs out."""
        try:
            read: list[States] | None = self._read_batch([rows[row] for row in batch], layers)
        except (torch.OutOfMemoryError, MemoryError):
            read = None
        if read is not None:
            for row in batch:
                yield row, read.pop(0)
            return
        torch.cuda.empty_cache()  # outside the handler, which holds on to the memory
        if len(batch) == 1:
            yield batch[0], None
            return
        say(f"textual: out of memory with {len(batch)} descriptions a batch, halving")
        middle = len(batch) // 2
        yield from self._halving(batch[:middle], rows, layers)
        yield from self._halving(batch[middle:], rows, layers)

    @torch.inference_mode()
    def _read_batch(self, rows: Sequence[IntArray], layers: Sequence[int]) -> list[States]:
        ids_BT = np.full((len(rows), max(map(len, rows))), self._pad_id, np.int64)
        mask_BT = np.zeros_like(ids_BT)
        for index, row in enumerate(rows):
            ids_BT[index, : len(row)] = row
            mask_BT[index, : len(row)] = 1
        with self._blocks.read(layers) as states:
            self._model(
                input_ids=torch.from_numpy(ids_BT).to(self._device),
                attention_mask=torch.from_numpy(mask_BT).to(self._device),
            )
        arrays = {layer: _to_numpy(states_BTD) for layer, states_BTD in states.items()}
        return [
            {layer: array[index, : len(row)] for layer, array in arrays.items()}
            for index, row in enumerate(rows)
        ]


def describe_encoder(recipe: TextualRecipe) -> dict[str, Any]:
    """Return what makes an encoder's signals, see ``TextTeacher.describe``; loads no weights.

    Raises:
        ModelError: no such model, no tokenizer, no encoder-only text model or an unknown dtype.
        UsageError: a setting is given that an encoder has no use for.
    """
    check_textual(recipe)
    shape = text_shape(load_config(recipe.teacher))
    return {
        **describe_model(recipe.teacher, load_tokenizer(recipe.teacher)),
        "engine": "encoder",
        "engine_version": transformers.__version__,
        "engine_settings": {},
        "dtype": resolve_dtype(recipe.dtype, shape),
        "num_layers": shape.num_layers,
        "width": shape.width,
        "vocab_size": shape.vocab_size,
    }


def _load(model: str, dtype: str) -> Any:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its report names the head and the pooler, neither of them read
    try:
        loaded, report = AutoModel.from_pretrained(
            model, dtype=getattr(torch, dtype), output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model {model!r}: transformers cannot load it ({first_line(error)})"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    # A pooler reads the states; none of them depends on it.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ModelError(
            f"model {model!r}: its files lack {len(missing)} weights, such as {missing[0]}; random "
            "ones would be recorded in their place"
        )
    return loaded


def _max_tokens(asked: int | None, shape: TextShape, tokenizer: Any, model: Any) -> int:
    """Return the longest text, special tokens included: as asked for, else all the model takes."""
    limit = min(shape.max_positions, tokenizer.model_max_length)
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            limit = min(limit, len(module.weight) - padding - 1)  # RoBERTa's begin after it
    if asked is not None and not 1 <= asked <= limit:
        raise ModelError(f"max_model_len {asked}: the model takes 1 to {limit} tokens")
    return int(asked or limit)


def _to_numpy(states: torch.Tensor) -> NDArray[Any]:
    states = states.cpu()
    bits = states.view(torch.uint16) if states.dtype == torch.bfloat16 else states
    array: NDArray[Any] = bits.numpy()
    return array
