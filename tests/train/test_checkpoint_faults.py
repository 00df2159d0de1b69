"""Disks that fill up while a checkpoint or the student is written; damaged checkpoints."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_tape import MakeTape
from train_runs import Launch, same_weights, steps, train_here

FLAGS = ("--max-steps", "4", "--lr", "1e-3", "--batch-tokens", "400",
         "--set", "checkpoints.every=2", "--set", "logging.gradient_norms_every=0")  # fmt: skip


@contextlib.contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """Let no file grow beyond a size: writes then fail as on a full disk."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def size_of(path: Path) -> int:
    return path.stat().st_size


def test_what_does_not_fit_the_disk_is_named_and_gone(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    tape = make_tape()
    straight = Launch(tape=tape, student=student_dir, out=tmp_path / "straight", more=FLAGS)
    assert train_here(straight).exit_code == 0
    checkpoint = straight.out / "checkpoints" / "step-00000004"
    weights, moments = (size_of(checkpoint / n) for n in ("weights.safetensors", "optimizer.pt"))
    assert weights < moments
    full = Launch(tape=tape, student=student_dir, out=tmp_path / "full", more=FLAGS)
    for limit in (weights // 2, (weights + moments) // 2):
        with files_up_to(limit):
            result = train_here(full)
        assert result.exit_code == 1
        assert "step-00000002: cannot be written (" in result.output
        assert "Make room and run the same command again" in result.output
        assert "Traceback" not in result.output
        assert list((full.out / "checkpoints").iterdir()) == []
    assert train_here(full).exit_code == 0
    assert steps(full.out) == steps(straight.out)
    assert same_weights(full.out, straight.out)


def test_a_student_that_does_not_fit_the_disk_is_written_later(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Launch(tape=make_tape(), student=student_dir, out=tmp_path / "run", more=FLAGS)
    saving = "train.run.save_student"
    from train.student import save_student

    def on_a_full_disk(*arguments: object) -> None:
        with files_up_to(20_000):
            save_student(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(saving, on_a_full_disk)
        result = train_here(run)
    assert result.exit_code == 1
    assert "student: cannot be written (" in result.output
    assert not [path for path in run.out.iterdir() if "student" in path.name]
    result = train_here(run)
    assert result.exit_code == 0, result.output
    assert "continuing after step 4 of 4" in result.output
    assert len(steps(run.out)) == 4


@pytest.mark.parametrize("name", ["weights.safetensors", "rng.pt"])
def test_a_damaged_checkpoint_is_named(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path, name: str
) -> None:
    run = Launch(tape=make_tape(), student=student_dir, out=tmp_path / "run", more=FLAGS)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("train.run.finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert train_here(run).exit_code == 130
    file = run.out / "checkpoints" / "step-00000004" / name
    file.write_bytes(file.read_bytes()[: size_of(file) // 2])
    result = train_here(run)
    assert result.exit_code == 1
    assert "step-00000004: damaged (" in result.output
    assert "Remove this folder to go on from the checkpoint before it" in result.output
    for left in file.parent.iterdir():
        left.unlink()
    file.parent.rmdir()
    result = train_here(run)
    assert result.exit_code == 0, result.output
    assert "continuing after step 2 of 4" in result.output
