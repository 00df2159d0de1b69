"""TensorBoard, trackio and Weights & Biases, beside ``metrics.jsonl``, through Accelerate."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available, is_trackio_available, is_wandb_available

from cache_schema.errors import UsageError
from train.metrics import Track
from train.recipe import TrainRecipe
from train.rundir import RunDir, run_id

PROJECT = "teachertape"

_INSTALLED = {
    "tensorboard": is_tensorboard_available,
    "trackio": is_trackio_available,
    "wandb": is_wandb_available,
}


def require_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that is not installed.

    Raises:
        UsageError: naming it.
    """
    for name in names:
        if not _INSTALLED[name]():
            raise UsageError(
                f"logging.trackers: {name!r} is not installed; pip install {name}, or leave it out "
                "(metrics.jsonl has every value either way)"
            )


@contextlib.contextmanager
def tracking(
    accelerator: Accelerator, recipe: TrainRecipe, directory: RunDir, done: int
) -> Iterator[Track]:
    """Open the recipe's trackers, on the first process; yield the function that hands them values.

    A continued run continues in them: TensorBoard drops the steps that are done again, the others
    go on in the run of the same name.
    """
    name, identity = directory.root.resolve().name, run_id(directory)
    accelerator.init_trackers(
        PROJECT,
        config=flat(dataclasses.asdict(recipe)),
        init_kwargs={
            "tensorboard": {"purge_step": done + 1},
            "trackio": {"name": f"{name}-{identity[:8]}", "resume": "allow"},
            "wandb": {
                "name": name,
                "id": identity[:32],
                "resume": "allow",
                "dir": str(directory.root),
            },
        },
    )

    def track(values: dict[str, float], step: int) -> None:
        accelerator.log(values, step=step)

    try:
        yield track
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, bool | float | int | str]:
    """Return nested sections under dotted names; what is no number or truth value is text."""
    found: dict[str, bool | float | int | str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{key}."))
        elif value is not None:
            plain = isinstance(value, bool | int | float | str)
            found[f"{prefix}{key}"] = value if plain else str(value)
    return found
