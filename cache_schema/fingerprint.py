"""Identity by content: hashes of files, of tokenizers and of what made a signal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from cache_schema.errors import ModelError

_READ_BYTES = 8 << 20


class Tokenizer(Protocol):
    """What a tokenizer must answer to be identified."""

    all_special_ids: list[int]

    def get_vocab(self) -> dict[str, int]:
        """Return token -> id, added tokens included."""


def fingerprint(values: Mapping[str, Any]) -> str:
    """Return the sha256 of a mapping of JSON values, independent of key order."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def digest_files(paths: Iterable[Path]) -> str:
    """Return one sha256 over names and contents of files, in name order."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Return the sha256 of what token ids mean: every string with its id, and the special ids.

    Two tokenizers of equal digest give every id the same string; file formats do not matter.
    """
    vocabulary = sorted((index, token) for token, index in tokenizer.get_vocab().items())
    values = {"vocabulary": vocabulary, "special_ids": sorted(set(tokenizer.all_special_ids))}
    nameless = _nameless(tokenizer, {index for index, _ in vocabulary})
    return fingerprint({**values, "bytes": nameless} if nameless else values)


def _nameless(tokenizer: Any, named: set[int]) -> list[tuple[int, str]]:
    """Return the bytes, in hex, of ids that share their string with another.

    The tokenizers of mistral-common show every part of a character as U+FFFD, so that their
    vocabulary by strings leaves most of those ids out.
    """
    inner = getattr(getattr(tokenizer, "tokenizer", None), "instruct_tokenizer", None)
    pieces = getattr(getattr(inner, "tokenizer", None), "id_to_byte_piece", None)
    if pieces is None:
        return []
    return [(index, pieces(index).hex()) for index in range(len(tokenizer)) if index not in named]


def check_model_path(model: str) -> None:
    """Refuse a model that looks like a local path and is not there, or is not a model.

    Raises:
        ModelError: saying what was expected.
    """
    path = Path(model).expanduser()
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"model {model!r}: the directory has no config.json; give a directory written by "
                "save_pretrained"
            )
    elif path.exists() or looks_local:
        raise ModelError(
            f"model {model!r} does not exist; give a directory in transformers' layout or a hub id"
        )
