"""The user turn a model is asked: one recording, then text, as its family's chat has them."""

from __future__ import annotations

import base64
import io
from typing import Any

import jinja2
import numpy as np
import soundfile

from audio_models.front_end import FrontEnd
from cache_schema.errors import ModelError
from cache_schema.types import FloatArray


def chat_messages(text: str) -> list[dict[str, Any]]:
    """Return the conversation: one user turn, audio first, then text unless it is empty."""
    parts: list[dict[str, Any]] = [{"type": "audio"}]
    if text:
        parts.append({"type": "text", "text": text})
    return [{"role": "user", "content": parts}]


def chat_request(front: FrontEnd, text: str, audio: FloatArray) -> list[dict[str, Any]]:
    """Return the conversation with the recording in it, for families of ``chat_ids``.

    The recording travels as a WAV file of float32 samples in memory, which loses nothing.
    """
    file = io.BytesIO()
    soundfile.write(file, audio, front.sample_rate_hz, format="WAV", subtype="FLOAT")
    messages = chat_messages(text)
    # the prefix keeps it from being looked up as a path
    encoded = base64.b64encode(file.getvalue()).decode()
    messages[0]["content"][0]["base64"] = f"data:audio/wav;base64,{encoded}"
    return messages


def placeholder_of(front: FrontEnd) -> str:
    """Return the audio placeholder as text."""
    return str(front.tokenizer.convert_ids_to_tokens(front.audio_token_id))


def render_prompt(front: FrontEnd, text: str) -> str:
    """Return the chat prompt: one audio placeholder, generation prompt added.

    A family of ``chat_ids`` has none: its ids come with the recording's.

    Raises:
        ModelError: the chat template does not take the turn.
    """
    messages = chat_messages(text)
    if front.family.inline_audio:
        messages = [{"role": "user", "content": f"{placeholder_of(front)}{text}"}]
    return _rendered(front, messages)


def _rendered(front: FrontEnd, messages: list[dict[str, Any]]) -> str:
    try:
        prompt = front.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except (TypeError, jinja2.TemplateError) as error:
        takes = "one text with the placeholder in it" if front.family.inline_audio else "parts"
        raise ModelError(
            f"model {front.path!r}: its chat template fails on a turn given as {takes} ({error}); "
            "Family.inline_audio in audio_models/families.py says which of the two a family takes"
        ) from error
    return str(prompt)


def prompt_ids(front: FrontEnd, text: str) -> list[int]:
    """Return the ids of a prompt with its audio not yet spread: one placeholder stands for it."""
    if not front.family.chat_ids:
        return list(front.tokenizer(render_prompt(front, text))["input_ids"])
    silence = np.zeros(front.sample_rate_hz // 10, dtype=np.float32)
    ids = front.tokenizer.apply_chat_template(chat_request(front, text, silence), tokenize=True)
    first = ids["input_ids"].index(front.audio_token_id)
    rest = [index for index in ids["input_ids"][first:] if index != front.audio_token_id]
    return [*ids["input_ids"][: first + 1], *rest]


def text_prompt_ids(front: FrontEnd, text: str) -> list[int]:
    """Return the ids of a prompt that is text alone: one user turn, generation prompt added.

    Raises:
        ModelError: the chat template does not take the turn.
    """
    content: Any = text if front.family.inline_audio else [{"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    if front.family.chat_ids:
        encoded = front.tokenizer.apply_chat_template(messages, tokenize=True)
        return list(encoded["input_ids"])
    return list(front.tokenizer(_rendered(front, messages))["input_ids"])
