"""What a teacher is: digests of its weights and tokenizer, and its sizes; no engine needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AutoTokenizer

from audio_models.digest import model_digest
from cache_schema.errors import ModelError, UsageError, first_line
from cache_schema.fingerprint import check_model_path, tokenizer_digest

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class TextShape:
    """The language model's sizes.

    Attributes:
        num_layers: blocks; states exist for layers 0 (embeddings) to ``num_layers``.
        width: size of one hidden state.
        vocab_size: number of logits, padding included.
        max_positions: longest sequence the model was made for.
        cached_values: keys and values an engine caches for each token.
        dtype: what the weights are stored in, one of ``DTYPES``.
    """

    num_layers: int
    width: int
    vocab_size: int
    max_positions: int
    cached_values: int
    dtype: str

    def max_len(self, asked: int | None, default: int) -> int:
        """Return the longest prompt + trace: as asked for, else the model's within ``default``.

        One position of the model is kept free for the token that ends a scoring pass.

        Raises:
            ModelError: more is asked for than the model takes.
        """
        limit = self.max_positions - 1
        if asked is not None and not 1 <= asked <= limit:
            raise ModelError(f"max_model_len {asked}: the model takes 1 to {limit} tokens")
        return asked or min(default, limit)

    def cache_bytes(self, num_tokens: int, dtype: str) -> int:
        """Return the keys and values an engine caches for a sequence."""
        return self.cached_values * num_tokens * (4 if dtype == "float32" else 2)

    def check_top_k(self, top_k: int) -> None:
        """Refuse more logits than there are.

        Raises:
            UsageError: saying how many there are.
        """
        if not 0 <= top_k <= self.vocab_size:
            raise UsageError(f"top-k {top_k}: the model has {self.vocab_size} logits")

    def check_layers(self, layers: Sequence[int]) -> None:
        """Refuse layers the model has not.

        Raises:
            UsageError: saying which there are.
        """
        if layers and not 0 <= min(layers) <= max(layers) <= self.num_layers:
            raise UsageError(f"layers {list(layers)}: the model has layers 0 to {self.num_layers}")


def text_shape(config: Any) -> TextShape:
    """Return the sizes of the language model, the inner one of a multimodal configuration.

    Raises:
        ModelError: the configuration does not name a size.
    """
    text = config.get_text_config()
    dtype = str(getattr(text, "dtype", None) or getattr(config, "dtype", None) or "float32")
    width = _size(text, "hidden_size")
    heads = _size(text, "num_attention_heads")
    kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    head_width = int(getattr(text, "head_dim", None) or width // heads)
    return TextShape(
        num_layers=_size(text, "num_hidden_layers"),
        width=width,
        vocab_size=_size(text, "vocab_size"),
        max_positions=_size(text, "max_position_embeddings"),
        cached_values=2 * _size(text, "num_hidden_layers") * kv_heads * head_width,
        dtype=dtype.removeprefix("torch."),
    )


_ALSO_CALLED = {"max_position_embeddings": ("max_seq_len", "n_positions", "seq_length")}
"""Other names of a size where transformers does not translate them itself."""


def _size(config: Any, name: str) -> int:
    for called in (name, *_ALSO_CALLED.get(name, ())):
        value = getattr(config, called, None)
        if isinstance(value, int):
            return value
    raise ModelError(
        f"model {config.name_or_path!r} ({config.model_type}): its configuration has no {name!r}. "
        "Where the model has such a size, add it to config.json; one that has none (a state-space "
        "model has no attention heads) cannot be a teacher here"
    )


def resolve_dtype(dtype: str, shape: TextShape) -> str:
    """Return the dtype to compute in; ``auto`` is the dtype the weights are stored in.

    Engines read ``auto`` each in their own way, so it is settled here, once, and recorded.

    Raises:
        ModelError: the dtype is unknown.
    """
    resolved = shape.dtype if dtype == "auto" else dtype
    if resolved not in DTYPES:
        raise ModelError(f"dtype {resolved!r}: expected auto, {', '.join(DTYPES)}")
    return resolved


def load_tokenizer(model: str) -> Any:
    """Return the model's own tokenizer.

    Raises:
        ModelError: the model has none.
    """
    check_model_path(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model {model!r}: no usable tokenizer ({first_line(error)})") from error
    # Without files transformers makes one up: it knows the special tokens and nothing else.
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise ModelError(
            f"model {model!r}: no tokenizer; its directory needs the files that the tokenizer's "
            "save_pretrained writes"
        )
    return tokenizer


def require_chat_template(model: str, tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot render chat messages.

    Raises:
        ModelError: naming the model.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"model {model!r}: its tokenizer has no chat template, so it cannot be asked; "
            "use an instruction-tuned model, give a template (--set textual.chat=FILE.jinja), or "
            "--set textual.chat=none to put the prompt as it stands"
        )


def describe_model(model: str, tokenizer: Any) -> dict[str, Any]:
    """Return what identifies a model, whichever engine runs it: JSON values.

    Args:
        model: a local directory or hub id.
        tokenizer: its tokenizer.

    Returns:
        ``model`` (as given), ``model_digest``, ``tokenizer_digest``, ``chat_template_digest``.

    Raises:
        ModelError: the model does not exist or holds no weights.
    """
    check_model_path(model)
    template = _chat_template(tokenizer)
    return {
        "model": model,
        "model_digest": model_digest(model),
        "tokenizer_digest": tokenizer_digest(tokenizer),
        "chat_template_digest": hashlib.sha256(template.encode()).hexdigest(),
    }


def _chat_template(tokenizer: Any) -> str:
    """Return what turns a chat into ids: a template, or what mistral-common goes by."""
    encoder = getattr(getattr(tokenizer, "tokenizer", None), "instruct_tokenizer", None)
    if encoder is not None:
        audio = getattr(encoder, "audio_encoder", None)
        return repr((type(encoder).__name__, getattr(audio, "audio_config", None)))
    # Some tokenizers keep several named templates.
    return repr(getattr(tokenizer, "chat_template", None) or "")
