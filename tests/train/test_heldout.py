"""Rows held out of training: which, what is said of them, what follows from it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forks import Forks
from safetensors.torch import load_file
from tiny_tape import MakeTape
from train_runs import Launch, held_out, same_weights, steps, train_apart, train_here, weights

from cache_schema.errors import UsageError
from train.data import Example
from train.heldout import is_held_out, split
from train.metrics import read_metrics
from train.settings import EvalRecipe

EXAMPLES = [
    Example(sample_id=f"sample-{i // 2}", trace_index=i % 2, num_tokens=10) for i in range(4000)
]
StartRun = Callable[..., Launch]


@pytest.fixture
def start(make_tape: MakeTape, student_dir: Path, tmp_path: Path) -> StartRun:
    tape = make_tape()
    flags = ("--max-steps", "9", "--batch-tokens", "400", "--set", "eval.fraction=0.3")

    def launch(name: str, *more: str, **faults: object) -> Launch:
        given = [part for key in more for part in (("--set", key) if "=" in key else (key,))]
        return Launch(
            tape=tape, student=student_dir, out=tmp_path / name, more=(*flags, *given), **faults
        )

    return launch


def test_held_out_is_a_matter_of_the_id_alone() -> None:
    trained, held = split(EXAMPLES, 0.1)
    assert 0.08 < len(held) / len(EXAMPLES) < 0.12
    assert {e.sample_id for e in trained}.isdisjoint(e.sample_id for e in held)
    shuffled = list(EXAMPLES)
    random.Random(0).shuffle(shuffled)
    assert set(split(shuffled[:1000], 0.1)[1]) == set(held) & set(shuffled[:1000])
    # what is held out stays so where more is
    assert set(held) < set(split(EXAMPLES, 0.2)[1])
    # fixed for ever: a tape's held-out rows are those of the run before
    assert [is_held_out(f"s{i}", 0.3) for i in range(12)].count(True) == 4
    assert is_held_out("\udcff", 1.0)


def test_none_held_out_and_none_left_are_refused() -> None:
    few = [Example(sample_id=name, trace_index=0, num_tokens=1) for name in ("a", "b")]
    with pytest.raises(UsageError, match="of 2 rows: none is held out; raise it"):
        split(few, 1e-9)
    with pytest.raises(UsageError, match="of 2 rows: none is left to train on; lower it"):
        split(few, 1 - 1e-9)


def test_evaluations_are_lines_of_their_own(start: StartRun) -> None:
    run = start("run", "eval.every=4")
    result = train_here(run)
    assert result.exit_code == 0, result.output
    assert "rows: 12, of which 4 are held out" in result.output
    lines = held_out(run.out)
    assert [line["step"] for line in lines] == [4, 8, 9]
    for line in lines:
        assert set(line) == {"kind", "step", "loss", "terms", "tokens", "best"}
        terms = line["terms"].values()
        weighted = sum(term["value"] * term["weight"] for term in terms)
        assert line["loss"] == pytest.approx(weighted)
        assert {term["count"] for term in terms} == {
            term["count"] for term in lines[0]["terms"].values()
        }
    assert lines[0]["best"]
    assert result.output.count("held out after step ") == 3
    report = (run.out / "report.md").read_text()
    assert "- rows: 12, of which 4 are held out" in report
    assert f"| 4 | {lines[0]['loss']:.4f} | " in report
    # steps' lines are what they were
    assert [line["step"] for line in read_metrics(run.out / "metrics.jsonl")] == list(range(1, 10))


def test_evaluating_changes_nothing_of_the_training(start: StartRun) -> None:
    often, once = start("often", "eval.every=1"), start("once", "eval.every=100")
    assert train_here(often).exit_code == 0
    assert train_here(once).exit_code == 0
    assert steps(often.out) == steps(once.out)
    assert same_weights(often.out, once.out)
    assert held_out(often.out)[-1]["loss"] == held_out(once.out)[-1]["loss"]


def test_values_are_those_of_the_students_weights(start: StartRun) -> None:
    """With a rate of 0 the student stays as it is: evaluation and a step over the rows agree."""
    zero = ("--lr", "0", "optim.projector_lr=0", "--batch-tokens", "4000", "--max-steps", "1")
    run = start("run", *zero, "eval.every=1")
    assert train_here(run).exit_code == 0
    (line,), (step,) = held_out(run.out), steps(run.out)
    whole = start("whole", *zero)
    assert train_here(whole).exit_code == 0
    (both,) = steps(whole.out)
    for name, term in both["terms"].items():
        parts = [step["terms"][name], line["terms"][name]]
        assert sum(part["count"] for part in parts) == term["count"]
        mean = sum(part["value"] * part["count"] for part in parts) / term["count"]
        assert mean == pytest.approx(term["value"], rel=1e-5, abs=1e-6)


@pytest.fixture
def worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every evaluation but the second is bad."""
    losses = iter([5.0, 1.0, *range(2, 100)])
    from train import loop
    from train.heldout import HeldOut, evaluate

    def evaluate_badly(*arguments: object) -> HeldOut:
        found = evaluate(*arguments)  # type: ignore[arg-type]
        return HeldOut(**{**vars(found), "loss": float(next(losses))})

    monkeypatch.setattr(loop, "evaluate", evaluate_badly)


@pytest.mark.usefixtures("worse")
def test_it_stops_early_and_saves_the_best(start: StartRun) -> None:
    more = ("eval.every=1", "checkpoints.every=100", "checkpoints.keep=1")
    run = start("run", *more, "eval.patience=2", "eval.save=best")
    result = train_here(run)
    assert result.exit_code == 0, result.output
    assert "stopped after step 4 of 9: no lower loss" in result.output
    assert [line["best"] for line in held_out(run.out)] == [True, True, False, False]
    names = sorted(path.name for path in (run.out / "checkpoints").iterdir())
    assert names == ["step-00000002", "step-00000004"]
    report = (run.out / "report.md").read_text()
    assert "Lowest loss after step 2; the saved student is that of step 2." in report
    assert "steps: 4 of 9, stopped early" in report
    best = load_file(run.out / "checkpoints" / names[0] / "weights.safetensors")
    saved = weights(run.out)
    for name, tensor in best.items():
        if name.startswith("model."):
            assert torch.equal(tensor, saved[name.removeprefix("model.")]), name
    again = train_here(run)
    assert again.exit_code == 0
    assert "is finished" in again.output


def test_a_run_killed_after_its_best_goes_on_the_same(start: StartRun, forks: Forks) -> None:
    more = ("eval.every=2", "eval.save=best", "checkpoints.every=3", "--lr", "1e-3")
    straight, killed = start("straight", *more), start("killed", *more, kill_after=7)
    assert train_here(straight).exit_code == 0
    assert train_apart(forks, killed)[0][0].status == -9
    result = train_here(start("killed", *more, "--resume"))
    assert result.exit_code == 0, result.output
    assert "continuing after step 6 of 9" in result.output
    assert steps(killed.out) == steps(straight.out)
    assert held_out(killed.out) == held_out(straight.out)
    assert same_weights(killed.out, straight.out)


@pytest.mark.parametrize(
    "wrong",
    [
        {"patience": 2}, {"save": "best"}, {"save": "worst", "every": 1}, {"fraction": 0.0},
        {"fraction": 1.0}, {"every": -1},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EvalRecipe(**wrong)  # type: ignore[arg-type]
