from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from tiny_tape import MakeTape
from train_runs import Launch, train_here

from train import trackers
from train.metrics import read_held_out, read_metrics


def test_a_tracker_that_is_not_installed_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trackers._INSTALLED, "wandb", lambda: False)
    run = Launch(
        tape=tmp_path / "none", student=tmp_path / "none", out=tmp_path / "run",
        more=("--set", 'logging.trackers=["wandb"]'),
    )  # fmt: skip
    result = train_here(run)
    assert result.exit_code == 2
    assert "logging.trackers: 'wandb' is not installed; pip install wandb" in result.output
    wrong = ("--set", 'logging.trackers=["tensorbord"]')
    result = train_here(Launch(tape=run.tape, student=run.student, out=run.out, more=wrong))
    assert result.exit_code == 2
    assert "trackers: 'tensorbord': one of" in result.output


def test_tensorboard_has_what_metrics_have(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = import_module("tensorboard.backend.event_processing.event_accumulator")
    more = (
        "--max-steps", "6", "--batch-tokens", "400", "--set", 'logging.trackers=["tensorboard"]',
        "--set", "eval.every=3", "--set", "eval.fraction=0.3", "--set", "checkpoints.every=2",
        "--set", "logging.gradient_norms_every=3",
    )  # fmt: skip
    run = Launch(tape=make_tape(), student=student_dir, out=tmp_path / "run", more=more)
    with monkeypatch.context() as patch:
        record = trackers.Accelerator.log

        def log_and_stop(self: object, values: object, step: int) -> None:
            record(self, values, step=step)
            if step == 5:
                raise KeyboardInterrupt

        patch.setattr(trackers.Accelerator, "log", log_and_stop)
        assert train_here(run).exit_code == 130
    result = train_here(run)
    assert result.exit_code == 0, result.output
    events = accumulator.EventAccumulator(str(run.out / "trackers" / trackers.PROJECT))
    events.Reload()
    lines = read_metrics(run.out / "metrics.jsonl")
    for tag, expected in (
        ("train/loss", [(line["step"], line["loss"]) for line in lines]),
        ("train/lr", [(line["step"], line["lr"]) for line in lines]),
        ("train/ce/value", [(line["step"], line["terms"]["ce"]["value"]) for line in lines]),
        ("train/ce/count", [(line["step"], line["terms"]["ce"]["count"]) for line in lines]),
        ("train/ce/weight", [(line["step"], line["terms"]["ce"]["weight"]) for line in lines]),
        (
            "train/ce/gradient_norm",
            [(s, lines[s - 1]["terms"]["ce"]["gradient_norm"]) for s in (1, 4)],
        ),
        (
            "held_out/loss",
            [(o["step"], o["loss"]) for o in read_held_out(run.out / "metrics.jsonl")],
        ),
    ):
        # the step that was done again is there once
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in found] == [step for step, _ in expected], tag
        values = [value for _, value in found]
        assert values == pytest.approx([value for _, value in expected], rel=1e-5), tag


def test_sections_are_flat_and_plain() -> None:
    values = {"a": {"b": 1, "c": ("x", "y"), "d": None}, "e": True}
    assert trackers.flat(values) == {"a.b": 1, "a.c": "('x', 'y')", "e": True}
