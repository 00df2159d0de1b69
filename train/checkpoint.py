"""Checkpoints: everything a run needs to go on as if it had never stopped.

Written into a hidden directory beside, then renamed: a checkpoint is whole or absent. Tensors are
read back as data only (``weights_only``), never as code. They are whole, so any number of processes
goes on from them, whether each holds the whole student or a part (``train.sharding``).
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cache_schema.codecs.files import sync_dir, sync_file
from cache_schema.errors import OutputError, first_line
from train.objective import Objective
from train.sharding import part_of_whole, parts_of_moments, whole_moments, whole_tensor

_NAME = re.compile(r"step-(\d{8})")


def checkpoint_name(step: int) -> str:
    """Return the name of a checkpoint's directory."""
    return f"step-{step:08d}"


def trained_tensors(module: Objective) -> dict[str, torch.Tensor]:
    """Return the parameters that are trained, by name; what is frozen comes with the student."""
    return {name: p.detach() for name, p in module.named_parameters() if name in module.trained}


def whole_state(
    module: Objective, optimizer: Any, here: bool
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the trained parameters and the optimizer's state, whole, on the CPU.

    Every process calls this; only where it is ``here`` do tensors have their elements.

    Args:
        module: student and projectors, unwrapped.
        optimizer: its moments belong to them.
        here: whether this process writes them.
    """
    tensors = {name: whole_tensor(each, here) for name, each in trained_tensors(module).items()}
    return tensors, whole_moments(optimizer.state_dict(), here)


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: dict[str, torch.Tensor],
    moments: dict[str, Any],
    state: dict[str, Any],
    rng_states: Sequence[dict[str, torch.Tensor]],
    keep: int,
    best_step: int = 0,
) -> None:
    """Write the checkpoint of ``step``; remove all but the last ``keep`` and the best.

    Args:
        folder: where checkpoints lie.
        step: steps done.
        tensors: the trained parameters.
        moments: the optimizer's state.
        state: JSON values to hand back on loading.
        rng_states: every process's random state, by rank.
        keep: checkpoints that stay.
        best_step: one that stays however old it is; 0 for none.

    Raises:
        OutputError: it cannot be written, as on a full disk; nothing of it is left there.
    """
    final = folder / checkpoint_name(step)
    with written_beside(final) as beside:
        save_file(tensors, beside / "weights.safetensors")
        torch.save(moments, beside / "optimizer.pt")
        torch.save(list(rng_states), beside / "rng.pt")
        (beside / "state.json").write_text(json.dumps({**state, "step": step}, indent=2) + "\n")
    for number, old in list_checkpoints(folder)[:-keep]:
        if number != best_step:
            shutil.rmtree(old)


@contextlib.contextmanager
def written_beside(final: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes ``final`` when it is whole.

    Raises:
        OutputError: it cannot be written; nothing of it is left.
    """
    beside = final.with_name(f".{final.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        yield beside
        for file in beside.rglob("*"):
            if file.is_file():
                sync_file(file)
        sync_dir(beside)
        shutil.rmtree(final, ignore_errors=True)
        beside.rename(final)
        sync_dir(final.parent)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch and safetensors have theirs
        shutil.rmtree(beside, ignore_errors=True)
        raise OutputError(
            f"{final}: cannot be written ({first_line(error)}). Make room and run the "
            "same command again: it goes on from the last checkpoint"
        ) from error


def rng_state() -> dict[str, torch.Tensor]:
    """Return this process's random state."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng(state: dict[str, torch.Tensor]) -> None:
    """Put a random state of ``rng_state`` back."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, directory) of every whole checkpoint, ascending."""
    found = []
    for path in folder.glob("step-*"):
        match = _NAME.fullmatch(path.name)
        if match and (path / "state.json").is_file():
            found.append((int(match.group(1)), path))
    return sorted(found)


def load_checkpoint(
    path: Path, module: Objective, optimizer: torch.optim.Optimizer, rank: int
) -> dict[str, Any]:
    """Put a checkpoint's weights, moments and random state back; return its state.

    With more processes than it was written with, the new ones keep their fresh random state.

    Raises:
        OutputError: the checkpoint is of a student with other trained parameters, or damaged.
    """
    try:
        load_weights(path, module)
        # mapped: a process may hold a small part of it
        moments = torch.load(path / "optimizer.pt", weights_only=True, mmap=True)
        optimizer.load_state_dict(parts_of_moments(moments, optimizer))
        rng_states = torch.load(path / "rng.pt", weights_only=True)
        if rank < len(rng_states):
            restore_rng(rng_states[rank])
        return dict(json.loads((path / "state.json").read_text()))
    except OutputError:
        raise
    except Exception as error:  # those of torch and safetensors have no common base
        raise OutputError(
            f"{path}: damaged ({first_line(error)}). Remove this folder to go on from the "
            "checkpoint before it, or give another --out"
        ) from error


def load_weights(path: Path, module: Objective) -> None:
    """Put a checkpoint's weights back, and nothing else.

    Raises:
        OutputError: the checkpoint is of a student with other trained parameters.
    """
    current = trained_tensors(module)
    with torch.no_grad(), safe_open(path / "weights.safetensors", "pt") as saved:
        differing = sorted(current.keys() ^ set(saved.keys()))
        if differing:
            raise OutputError(
                f"{path}: trained parameters differ from the student's, first {differing[0]!r}; "
                "give another --out"
            )
        for name, tensor in current.items():
            tensor.copy_(part_of_whole(saved.get_tensor(name), tensor))
