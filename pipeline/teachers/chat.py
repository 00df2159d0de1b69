"""Text to token ids and back, the model's own way: what both textual engines share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from transformers import GenerationConfig

from audio_models.config import load_config
from cache_schema.errors import ModelError, UsageError
from cache_schema.types import IntArray
from pipeline.teachers.describe import load_tokenizer, require_chat_template

_MARK = "\N{PILCROW SIGN}given trace\N{PILCROW SIGN}"
"""Stands for a trace while the end of a turn is looked for behind it."""


class ChatTokenizer:
    """A tokenizer and how it renders messages.

    Attributes:
        tokenizer: transformers'.
        stop_ids: every id that ends a trace: the tokenizer's and the generation configuration's.
        end_id: the one put behind a given trace: what ends a turn in the chat template.
    """

    def __init__(self, model: str, chat: str, template_args: Mapping[str, Any], date: str) -> None:
        """Load the model's tokenizer.

        Args:
            model: directory or hub id.
            chat: ``model`` (its own template), ``none`` (messages as they stand, behind what the
                tokenizer begins every text with), or the path of a Jinja template.
            template_args: what the template is told besides.
            date: what a template that asks for today is told, as ``2026-01-31``: prompts of one run
                would differ after midnight, and between runs.

        Raises:
            ModelError: there is no tokenizer, no chat template, or no token that ends a turn.
            UsageError: the template cannot be read, or arguments are given without one.
        """
        self.tokenizer = load_tokenizer(model)
        self._plain = chat == "none"
        # What the template is told hides what transformers offers every template by that name.
        midnight = datetime.fromisoformat(date)
        self._template_args = {"strftime_now": midnight.strftime, **template_args}
        if self._plain and template_args:
            raise UsageError("textual.template_args: chat 'none' has no template to tell them to")
        if chat not in ("model", "none"):
            self.tokenizer.chat_template = _read_template(chat)
        if not self._plain:
            require_chat_template(model, self.tokenizer)
        self.stop_ids = _stop_ids(model, self.tokenizer)
        self.end_id = self._end_of_turn(model)
        ends = {*self.stop_ids, self.tokenizer.pad_token_id, self.tokenizer.bos_token_id}
        self._unsaid = np.array(sorted(ends - {None}), np.int64)

    def encode(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        """Render chat messages, generation prompt added; int64 [P].

        Raises:
            UsageError: the template refuses the messages.
        """
        if self._plain:
            text = "\n".join(message["content"] for message in messages)
            return np.asarray(self.tokenizer(text)["input_ids"], np.int64)
        return self._ids(self._render(messages, add_generation_prompt=True))

    def encode_trace(self, text: str) -> IntArray:
        """Return the ids of a given trace, the token that ends a turn added; int64 [T]."""
        return np.append(self._ids(text), self.end_id)

    def decode(self, token_ids: IntArray) -> str:
        """Return the text of a trace without the tokens that begin, end or pad a text.

        Other special tokens are part of what was said: some models' tags of thoughts and of answers
        are special tokens.
        """
        said = token_ids[~np.isin(token_ids, self._unsaid)]
        return str(self.tokenizer.decode(said.tolist(), skip_special_tokens=False))

    def _ids(self, text: str) -> IntArray:
        # A template has written every special token itself.
        return np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)

    def _render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        import jinja2

        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages),
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **self._template_args,
                )
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise UsageError(
                f"the chat template refuses the prompt: {error}; see textual.chat and "
                "textual.template_args"
            ) from error

    def _end_of_turn(self, model: str) -> int:
        """Return what stands behind an answer: the first stop token there, else the tokenizer's."""
        if not self._plain:
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
            try:
                rest = self._render(turns, add_generation_prompt=False).rpartition(_MARK)[2]
            except UsageError:  # a template for prompts only
                rest = ""
            behind = [index for index in self._ids(rest).tolist() if index in self.stop_ids]
            if behind:
                return int(behind[0])
        if self.tokenizer.eos_token_id is not None:
            return int(self.tokenizer.eos_token_id)
        if self.stop_ids:
            return min(self.stop_ids)
        raise ModelError(f"model {model!r}: neither it nor its tokenizer names a token that ends")


def _read_template(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"textual.chat {path!r}: expected model, none or the path of a Jinja template ({error})"
        ) from error


def _stop_ids(model: str, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a trace: the tokenizer's and the generation configuration's.

    Without a generation configuration the model's own stands for it, as both engines have it.
    """
    try:
        generation = GenerationConfig.from_pretrained(model)
    except OSError:  # it has none
        generation = GenerationConfig.from_model_config(load_config(model))
    configured = generation.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None)
