"""The number of processes, and being killed, change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import terms_tape
import tiny_audio_lm
import torch
from forks import Forks
from tiny_tape import MakeTape
from train_runs import Launch, apart, held_out, same_weights, steps, train_apart, train_here

from audio_models.load import AudioLM, load_audio_lm
from cache_schema import open_tape
from train.data import scan
from train.heldout import split
from train.settings import DataRecipe
from train.steps.order import plan_epoch
from train.terms.settings import DIVERGENCES

SUM_ORDER = 1e-6
"""Sums of float32 in another order. Measured: 3e-7 of gradient norms, 7e-7 of weights' way."""

FLAGS = (
    "--max-steps", "8", "--lr", "1e-3", "--set", "checkpoints.every=3",
    "--set", "logging.gradient_norms_every=4",
)  # fmt: skip


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_change_no_loss_and_no_weight(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path, forks: Forks, ranks: int
) -> None:
    tape = make_tape()
    # steps of two to five rows: of four processes some have none, and none is waited for
    more = (*FLAGS, "--batch-tokens", "600", "--set", "loop.micro_tokens=150",
            "--set", "eval.every=4", "--set", "eval.fraction=0.3")  # fmt: skip
    one, many = (
        Launch(tape=tape, student=student_dir, out=tmp_path / name, more=more)
        for name in ("one", "many")
    )
    assert train_here(one).exit_code == 0
    ended, said = train_apart(forks, many, ranks)
    assert [process.value for process in ended] == [0] * ranks, said
    for alone, together in zip(
        steps(one.out) + held_out(one.out), steps(many.out) + held_out(many.out), strict=True
    ):
        assert together["tokens"] == alone["tokens"]
        assert together["loss"] == pytest.approx(alone["loss"], rel=SUM_ORDER)
        norm = pytest.approx(alone.get("grad_norm", 0.0), rel=5 * SUM_ORDER)
        assert together.get("grad_norm", 0.0) == norm
        for name, term in alone["terms"].items():
            assert together["terms"][name]["count"] == term["count"]
            value = pytest.approx(term["value"], rel=10 * SUM_ORDER, abs=SUM_ORDER)
            assert together["terms"][name]["value"] == value
    assert apart(one.out, many.out, student_dir) < 10 * SUM_ORDER


EVERY_TERM = [
    f"{side}_{measure}"
    for side in ("text", "acoustic")
    for measure in (*DIVERGENCES, "sampled", "lens", "hidden")
] + ["acoustic_response", "acoustic_hidden-b"]


def test_processes_change_no_term_of_any_kind(
    student: AudioLM, student_dir: Path, tmp_path: Path, forks: Forks
) -> None:
    other = tiny_audio_lm.save_omni(tmp_path / "teacher", seed=1)
    teacher = load_audio_lm(str(other), "float32", "cpu")
    tape = terms_tape.write(tmp_path / "tape", student, teacher, without=("s1",))
    sets = [f"terms.{name}.weight=0.1" for name in EVERY_TERM]
    sets += ["terms.acoustic_hidden-b.source=second", "terms.acoustic_hidden-b.distance=mse",
             "terms.text_hidden.distance=cka", "loop.micro_tokens=150"]  # fmt: skip
    more = ("--recipe", "sft", "--max-steps", "3", "--batch-tokens", "600", "--lr", "1e-3")
    more += tuple(item for one in sets for item in ("--set", one))
    one = Launch(tape=tape, student=student_dir, out=tmp_path / "one", more=more)
    result = train_here(one)
    assert result.exit_code == 0, result.output
    held = ("student.sharding=none", 2), ("student.sharding=none", 4), ("student.sharding=full", 2)
    for number, (sharding, ranks) in enumerate(held):
        many = Launch(
            tape=tape, student=student_dir, out=tmp_path / str(number),
            more=(*more, "--set", sharding),
        )  # fmt: skip
        ended, said = train_apart(forks, many, ranks)
        assert [process.value for process in ended] == [0] * ranks, said
        for alone, together in zip(steps(one.out), steps(many.out), strict=True):
            assert together["loss"] == pytest.approx(alone["loss"], rel=SUM_ORDER)
            assert set(alone["terms"]) == {"ce", *EVERY_TERM}
            for name, term in alone["terms"].items():
                assert together["terms"][name]["count"] == term["count"] > 0
                value = pytest.approx(term["value"], rel=10 * SUM_ORDER, abs=SUM_ORDER)
                assert together["terms"][name]["value"] == value
        assert apart(one.out, many.out, student_dir) < 10 * SUM_ORDER


def test_some_processes_had_no_row(make_tape: MakeTape, student: object) -> None:
    """What the test above relies on."""
    examples, _ = scan(open_tape(make_tape()), student, DataRecipe(), ())
    trained, _ = split(examples, 0.3)
    rows = {len(step) for epoch in range(4) for step in plan_epoch(trained, 600, 0, epoch)}
    assert min(rows) < 4 <= max(rows)


def test_processes_that_see_other_rows_are_refused(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path, forks: Forks
) -> None:
    """A tape that grew between two processes' opening it: steps would be cut elsewhere."""
    tapes = [make_tape(num_samples=count).rename(tmp_path / str(count)) for count in (8, 9)]
    one, other = (Launch(tape=t, student=student_dir, out=tmp_path / "run") for t in tapes)
    ended, said = train_apart(forks, one, 2, others=other)
    assert [process.value for process in ended] == [1, 1], said
    assert "processes 0 and 1 do not see the same (rows 8, 9; rows_digest" in said
    assert "the tape grew meanwhile" in said
    assert not (tmp_path / "run" / "run.json").exists()


def test_processes_that_see_other_checkpoints_are_refused(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path, forks: Forks
) -> None:
    """Two machines whose folders of that name are not one."""
    killed = Launch(
        tape=make_tape(), student=student_dir, out=tmp_path / "run", more=FLAGS, kill_after=5
    )
    assert train_apart(forks, killed, 2)[0][0].status == -9
    here = replace(killed, kill_after=0)
    ended, said = train_apart(forks, here, 2, others=replace(here, out=tmp_path / "elsewhere"))
    assert [process.value for process in ended] == [1, 1], said
    assert "do not see the same (checkpoint 3, 'none'; done 3, 0" in said
    assert "it has to be shared by all" in said


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_in_the_middle_of_an_epoch_it_goes_on_bit_for_bit(
    make_tape: MakeTape, forgetful_dir: Path, tmp_path: Path, forks: Forks, ranks: int
) -> None:
    tape = make_tape()
    more = (*FLAGS, "--batch-tokens", "250", "--set", "eval.every=2", "--set", "eval.fraction=0.3")
    straight = Launch(tape=tape, student=forgetful_dir, out=tmp_path / "straight", more=more)
    killed = Launch(
        tape=tape, student=forgetful_dir, out=tmp_path / "killed", more=more, kill_after=5
    )
    assert [process.value for process in train_apart(forks, straight, ranks)[0]] == [0] * ranks
    last = max((straight.out / "checkpoints").iterdir())
    # a generator's state begins with its seed: no two processes drop out the same positions
    states = torch.load(last / "rng.pt", weights_only=True)
    assert [int(state["cpu"][0]) for state in states] == list(range(ranks))
    ended, _ = train_apart(forks, killed, ranks)
    assert ended[0].status == -9
    # no process goes on alone, and none waits for ever
    assert all(process.value != 0 for process in ended)
    assert len(steps(killed.out)) == 5
    again = Launch(
        tape=tape, student=forgetful_dir, out=tmp_path / "killed", more=(*more, "--resume")
    )
    ended, said = train_apart(forks, again, ranks)
    assert [process.value for process in ended] == [0] * ranks, said
    assert "continuing after step 3 of 8" in said
    assert steps(killed.out) == steps(straight.out)
    assert held_out(killed.out) == held_out(straight.out)
    assert same_weights(killed.out, straight.out)
