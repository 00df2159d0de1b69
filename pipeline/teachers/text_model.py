"""What both textual engines know of a model before they load it: its sizes, its words, its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from audio_models.config import load_config
from cache_schema.types import IntArray
from pipeline.teachers.base import Wanted
from pipeline.teachers.chat import ChatTokenizer
from pipeline.teachers.describe import describe_model, resolve_dtype, text_shape
from pipeline.textual_recipe import TextualRecipe

DEFAULT_MAX_MODEL_LEN = 8192
"""Used where the model allows more: an engine must hold the cache of one whole sequence."""


class TextModel:
    """A causal language model: the half of ``TextTeacher`` that needs no weights.

    Attributes:
        model: directory or hub id.
        shape: its sizes.
        chat: its tokenizer.
        dtype: what it computes in.
        max_model_len: tokens of prompt and trace together that the engine takes.
    """

    def __init__(self, recipe: TextualRecipe) -> None:
        """Read the model's configuration and tokenizer.

        Raises:
            ModelError: no such model, no tokenizer, no chat template, an unknown dtype, or a
                ``max_model_len`` beyond the model's.
        """
        self.model = recipe.teacher
        self.shape = text_shape(load_config(self.model))
        self.chat = ChatTokenizer(self.model, recipe.chat, recipe.template_args, recipe.date)
        self.dtype = resolve_dtype(recipe.dtype, self.shape)
        self.max_model_len = self.shape.max_len(recipe.max_model_len, DEFAULT_MAX_MODEL_LEN)
        self._template_args = dict(recipe.template_args)

    def described(self, engine: str, version: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return what made the signals, see ``TextTeacher.describe``."""
        return {
            **describe_model(self.model, self.chat.tokenizer),
            "template_args": self._template_args,
            "stop_ids": sorted(self.chat.stop_ids),
            "engine": engine,
            "engine_version": version,
            "engine_settings": dict(settings),
            "dtype": self.dtype,
            "num_layers": self.shape.num_layers,
            "width": self.shape.width,
            "vocab_size": self.shape.vocab_size,
        }

    def encode(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        """Render chat messages with the chat template, generation prompt added; int64 [P]."""
        return self.chat.encode(messages)

    def encode_trace(self, text: str) -> IntArray:
        """Return the ids of a given trace, the token that ends a turn added; int64 [T]."""
        return self.chat.encode_trace(text)

    def decode(self, token_ids: IntArray) -> str:
        """Return the text of a trace, see ``ChatTokenizer.decode``."""
        return self.chat.decode(token_ids)

    def check(self, wanted: Wanted) -> None:
        """Refuse signals the model has not.

        Raises:
            UsageError: there is no such layer, or there are fewer logits.
        """
        self.shape.check_top_k(wanted.top_k)
        if wanted.lens:
            self.shape.check_top_k(wanted.lens_top_k)
        self.shape.check_layers([*wanted.layers, *wanted.lens])
