"""What identifies the weights of a model, whichever stage runs it."""

from __future__ import annotations

from pathlib import Path

from cache_schema.errors import ModelError, first_line
from cache_schema.fingerprint import digest_files

WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.gguf")
"""Weight files of a local model directory; ``config.json`` is hashed beside them."""


def model_digest(model: str) -> str:
    """Return what identifies the weights.

    Returns:
        ``sha256:...`` over ``config.json`` and the weight files of a local directory (about a
        second a gigabyte), ``commit:...`` of a hub model.

    Raises:
        ModelError: a local directory holds no weights, or the hub has no such model.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        weights = [path for pattern in WEIGHT_PATTERNS for path in folder.glob(pattern)]
        if not weights:
            raise ModelError(
                f"model {model!r}: the directory holds no weights ({', '.join(WEIGHT_PATTERNS)})"
            )
        return f"sha256:{digest_files([folder / 'config.json', *weights])}"
    from huggingface_hub import hf_hub_download

    try:
        config = Path(hf_hub_download(model, "config.json"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model {model!r}: {first_line(error)}") from error
    return f"commit:{config.parent.name}"  # the cache keeps files under snapshots/<commit>/
