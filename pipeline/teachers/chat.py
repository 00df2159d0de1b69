"""Text to token ids and back, the model's own way: what both textual engines share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cache_schema.types import IntArray
from pipeline.teachers.describe import load_tokenizer, require_chat_template


class ChatTokenizer:
    """A tokenizer with a chat template."""

    def __init__(self, model: str) -> None:
        """Load the model's tokenizer.

        Raises:
            ModelError: it has none, or no chat template.
        """
        self.tokenizer = load_tokenizer(model)
        require_chat_template(model, self.tokenizer)

    def encode(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        """Render chat messages with the model's template, generation prompt added; int64 [P]."""
        text = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        # The template has written every special token itself.
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return np.asarray(ids, np.int64)

    def decode(self, token_ids: IntArray) -> str:
        """Return the text of a trace, special tokens left out."""
        return str(self.tokenizer.decode(token_ids.tolist(), skip_special_tokens=True))
