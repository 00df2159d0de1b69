"""What a model's configuration says, without loading weights; no torch needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from cache_schema.errors import ModelError, first_line
from cache_schema.fingerprint import check_model_path


def load_config(model: str) -> Any:
    """Return the transformers configuration of a local directory or hub id.

    Raises:
        ModelError: the model does not exist, its configuration cannot be read, or a value in it is
            wrong.
    """
    check_model_path(model)
    try:
        return AutoConfig.from_pretrained(model)
    except StrictDataclassError as error:  # derives from none of those below
        reason = " ".join(str(error).split())
        raise ModelError(f"model {model!r}: its config.json is not valid: {reason}") from error
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model {model!r}: no readable configuration; give a directory in transformers' layout "
            f"or a hub id ({first_line(error)}){_not_here(model)}"
        ) from error


def _not_here(model: str) -> str:
    """Say of a name that may be a folder's, and was taken for a hub id, that no such folder is."""
    folder = Path(model)
    nearly = folder.parent != Path() and folder.parent.is_dir() and not folder.exists()
    return f"; there is no folder {model} here" * nearly


def architecture_of(config: Any) -> str:
    """Return the class a configuration names, empty if it names none."""
    return str((getattr(config, "architectures", None) or [""])[0])
