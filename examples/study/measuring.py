"""Right answers of a student, at its end and on the way there, by ``train evaluate``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open

from audio_models.generate import Decoding
from audio_models.load import load_audio_lm, read_dtype
from examples.quickstart.steps import FolderError
from train.checkpoint import list_checkpoints
from train.evaluate.run import evaluate
from train.evaluate.settings import Settings
from train.student import save_student

Verdicts = dict[str, int]
"""Sample id -> 1 right, 0 wrong; an answer that is missing is wrong."""

_RULE = "strict"
_MODEL_PREFIX = "model."


def verdicts_of(model: Path, data: Path, out: Path, max_new_tokens: int) -> Verdicts:
    """Evaluate a model on a tape, or read what was found before."""
    decoding = Decoding(max_new_tokens=max_new_tokens)
    evaluate(Settings(model=str(model), data=str(data), out=out, decoding=decoding))
    found = {}
    for line in (out / "verdicts.jsonl").read_text(encoding="utf-8").splitlines():
        verdict = json.loads(line)
        if verdict["rule"] == _RULE:
            found[verdict["sample_id"]] = int(verdict["value"])
    return found


def curve_of(
    run: Path, base: Path, data: Path, out: Path, max_new_tokens: int
) -> dict[int, Verdicts]:
    """Evaluate every checkpoint of a run.

    Returns:
        step -> verdicts.
    """
    found = {}
    for step, checkpoint in list_checkpoints(run / "checkpoints"):
        model = out / f"model-{step}"
        restore(checkpoint, base, model)
        found[step] = verdicts_of(model, data, out / f"step-{step}", max_new_tokens)
        shutil.rmtree(model)
    return found


def restore(checkpoint: Path, base: Path, out: Path) -> None:
    """Write the student of a checkpoint as a model.

    Raises:
        FolderError: the checkpoint is of another model.
    """
    lm = load_audio_lm(str(base), "float32", "cpu")
    with safe_open(checkpoint / "weights.safetensors", "pt") as saved:
        weights = {
            name.removeprefix(_MODEL_PREFIX): saved.get_tensor(name)
            for name in saved.keys()  # noqa: SIM118 - it is no dict
            if name.startswith(_MODEL_PREFIX)
        }
    other = lm.model.load_state_dict(weights, strict=False).unexpected_keys
    if other or not weights:
        raise FolderError(f"{checkpoint} is not of {base}: {(other or ['no weights'])[0]}")
    save_student(lm, out, read_dtype(str(base)))


def counts(verdicts: Mapping[str, int], groups: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return group -> (right, asked).

    Args:
        verdicts: of rows.
        groups: row -> its group.
    """
    found: dict[str, tuple[int, int]] = {}
    for name, value in verdicts.items():
        right, asked = found.get(groups[name], (0, 0))
        found[groups[name]] = (right + value, asked + 1)
    return found
