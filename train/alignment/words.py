"""What tokens of a vocabulary are as bytes, and which tokens of two vocabularies are the same.

Tokens are compared by the bytes they stand for inside a text, so that " the" of a byte-level
vocabulary and of a SentencePiece one are one word. Special tokens stand for nothing in a text and
match none: an id means something only beside its tokenizer.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from cache_schema.errors import TokenizerMismatchError
from cache_schema.types import IntArray

NO_ID = -1
"""A token that the other vocabulary does not have."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space


def bytes_of_tokens(tokenizer: Any, name: str) -> list[bytes | None]:
    """Return what each id stands for inside a text; ``None`` for special and unused ones.

    Args:
        tokenizer: a fast tokenizer of transformers.
        name: whose, for the message.

    Raises:
        TokenizerMismatchError: its tokens are neither bytes (GPT-2, Llama 3, Qwen) nor
            SentencePiece's (Llama 2, Gemma, T5).
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = json.loads(backend.to_str())["decoder"] if backend is not None else None
    told = json.dumps(decoder, ensure_ascii=False)
    if '"ByteLevel"' in told:
        read = _of_byte_level
    elif _SPACE in told or '"Metaspace"' in told:
        read = _of_sentencepiece
    else:
        raise TokenizerMismatchError(
            f"{name}: its tokens cannot be read as bytes (expected a byte-level or a SentencePiece "
            "tokenizer with a tokenizer.json), so they cannot be compared with another vocabulary"
        )
    special = special_ids(tokenizer)
    found: list[bytes | None] = [None] * len(tokenizer)
    for token, index in tokenizer.get_vocab().items():
        if index not in special:
            found[index] = read(token)
    return found


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids that stand for nothing in a text, those without a role of their own too.

    ``all_special_ids`` has only those that have one (end, padding, ...) or are listed beside them.
    """
    added = tokenizer.added_tokens_decoder
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}


def _byte_alphabet() -> dict[str, int]:
    """Return the characters that byte-level vocabularies write bytes with (GPT-2)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    characters = [*map(chr, shown), *(chr(256 + place) for place in range(len(hidden)))]
    return dict(zip(characters, [*shown, *hidden], strict=True))


_ALPHABET = _byte_alphabet()


def _of_byte_level(token: str) -> bytes | None:
    if all(character in _ALPHABET for character in token):
        return bytes(_ALPHABET[character] for character in token)
    return token.encode()  # an added token is written as it is


def _of_sentencepiece(token: str) -> bytes | None:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(_SPACE, " ").encode()


def map_vocabulary(
    teacher: list[bytes | None], student: list[bytes | None], stops: dict[int, int]
) -> IntArray:
    """Return the student's id for each id of the teacher, ``NO_ID`` where there is none.

    No two words of the teacher get the same one; ids that end its turns may.

    Args:
        teacher: bytes of the teacher's tokens.
        student: bytes of the student's tokens.
        stops: the teacher's ids that end a turn -> the student's.
    """
    ids: dict[bytes, int] = {}
    for index, word in enumerate(student):
        if word:
            ids.setdefault(word, index)
    mapped = np.full(len(teacher), NO_ID, dtype=np.int64)
    for index, word in enumerate(teacher):
        if word is not None and word in ids:
            mapped[index] = ids.pop(word)
    for theirs, ours in stops.items():
        if theirs < len(mapped):
            mapped[theirs] = ours
    return mapped
