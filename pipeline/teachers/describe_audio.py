"""What an acoustic encoder is: digests of its weights and of its front end; no weights loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from audio_models.digest import model_digest
from audio_models.encoders.bundles import PREFIX, front_end_settings, weights_file
from cache_schema.errors import ModelError
from cache_schema.fingerprint import digest_files, fingerprint

FRONT_END_FILES = ("preprocessor_config.json", "processor_config.json")
"""Where transformers keeps the settings of a feature extractor; a model has one or both."""


def describe_audio_encoder(model: str) -> dict[str, Any]:
    """Return what identifies an acoustic encoder, audio classifier or audio tower: JSON values.

    Args:
        model: a local directory, a hub id, or ``torchaudio:NAME``.

    Returns:
        ``model`` (as given); ``model_digest`` (``sha256:...`` over config and weights of a
        directory, or of a pipeline's weights file; ``commit:...`` of a hub model);
        ``front_end_digest`` (``sha256:...`` over the feature extractor's files, or over the
        pipeline's rate, normalisation and convolutions; the same commit of a hub model).

    Raises:
        ModelError: nothing there, no weights, or no settings of a feature extractor.
    """
    if model.startswith(PREFIX):
        return {
            "model": model,
            "model_digest": f"sha256:{_sha256(weights_file(model))}",
            "front_end_digest": f"sha256:{fingerprint(front_end_settings(model))}",
        }
    digest = model_digest(model)
    return {
        "model": model,
        "model_digest": digest,
        "front_end_digest": _front_end_digest(model, digest),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _front_end_digest(model: str, digest: str) -> str:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return digest  # the commit names all files of a hub model
    files = [folder / name for name in FRONT_END_FILES if (folder / name).is_file()]
    if not files:
        raise ModelError(
            f"model {model!r}: no feature extractor; its directory needs {FRONT_END_FILES[0]}, "
            "which save_pretrained of the extractor writes"
        )
    return f"sha256:{digest_files(files)}"
