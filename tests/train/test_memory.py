"""What does not fit: smaller passes at the same step, on every process alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forks import Forks
from tiny_tape import MakeTape
from train_runs import Launch, held_out, same_weights, steps, train_apart, train_here

from audio_models.memory import is_out_of_memory
from train.memory import largest_that_fits

StartRun = Callable[..., Launch]


@pytest.fixture
def start(make_tape: MakeTape, forgetful_dir: Path, tmp_path: Path) -> StartRun:
    tape = make_tape()
    # rows are 101 to 115 tokens long; with this seed the first step has five
    flags = ("--max-steps", "4", "--batch-tokens", "600", "--lr", "1e-3", "--seed", "1")

    def launch(name: str, *more: str, **faults: object) -> Launch:
        return Launch(
            tape=tape, student=forgetful_dir, out=tmp_path / name, more=(*flags, *more), **faults
        )

    return launch


def micro(tokens: int) -> tuple[str, str]:
    return "--set", f"loop.micro_tokens={tokens}"


def test_random_numbers_show(start: StartRun, student_dir: Path) -> None:
    """What tests of equal runs here rely on: the student they train has dropout."""
    forgetful = start("forgetful", "--max-steps", "1")
    plain = replace(start("plain", "--max-steps", "1"), student=student_dir)
    assert train_here(forgetful).exit_code == 0
    assert train_here(plain).exit_code == 0
    assert steps(forgetful.out)[0]["loss"] != pytest.approx(steps(plain.out)[0]["loss"], rel=1e-4)


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_that_ran_out_of_memory_is_the_same_step(start: StartRun, backward: bool) -> None:
    short = start("short", *micro(500), memory=240, backward=backward)
    result = train_here(short)
    assert result.exit_code == 0, result.output
    assert result.output.count("step 1: out of memory with ") == 1
    assert "The step starts again; its rows stay the same" in result.output
    lines = steps(short.out)
    assert {line["micro_tokens"] for line in lines} == {lines[0]["micro_tokens"]}
    assert lines[0]["micro_tokens"] <= 250
    # from the beginning with what fits: the very same run, so nothing of the first try was kept
    plain = start("plain", *micro(lines[0]["micro_tokens"]))
    assert train_here(plain).exit_code == 0
    assert steps(plain.out) == lines
    assert same_weights(plain.out, short.out)
    report = (short.out / "report.md").read_text()
    assert f"micro-batches: at most {lines[0]['micro_tokens']} tokens" in report


def test_what_was_added_up_before_is_dropped(start: StartRun, student_dir: Path) -> None:
    """The first micro-batch of a step fits, a later one does not: it holds more padded tokens."""
    wide = replace(start("wide", *micro(330)), student=student_dir)
    assert train_here(wide).exit_code == 0
    short = replace(start("short", *micro(330), memory=300), student=student_dir)
    result = train_here(short)
    assert result.exit_code == 0, result.output
    assert "step 1: out of memory with 3 rows" in result.output
    for one, other in zip(steps(wide.out), steps(short.out), strict=True):
        # sums in another order; what the first try had left would count twice
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)


def test_one_process_that_ran_out_makes_all_of_them_begin_again(
    start: StartRun, forks: Forks
) -> None:
    # the first process has memory enough and would be done with its share
    short = start("short", *micro(250), memory=120, short=[1])
    ended, said = train_apart(forks, short, 2)
    assert [process.value for process in ended] == [0, 0], said
    assert said.count("out of memory") == 1
    assert "on process 1; at most" in said
    lines = steps(short.out)
    plain = start("plain", *micro(lines[0]["micro_tokens"]))
    ended, said = train_apart(forks, plain, 2)
    assert [process.value for process in ended] == [0, 0], said
    assert steps(plain.out) == lines
    assert same_weights(plain.out, short.out)


def test_the_size_is_found_again_after_a_stop(start: StartRun, forks: Forks) -> None:
    more = (*micro(500), "--set", "checkpoints.every=2")
    stopped = start("stopped", *more, memory=240, kill_after=3)
    ended, _ = train_apart(forks, stopped)
    assert ended[0].status == -9
    # with memory enough now: what was found is kept, or the rest would be summed in another order
    result = train_here(start("stopped", *more))
    assert result.exit_code == 0, result.output
    straight = start("straight", *more, memory=240)
    assert train_here(straight).exit_code == 0
    assert steps(stopped.out) == steps(straight.out)
    assert same_weights(stopped.out, straight.out)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_row_that_does_not_fit_alone_is_an_error(
    start: StartRun, forks: Forks, ranks: int
) -> None:
    ended, said = train_apart(forks, start("run", memory=50, short=[ranks - 1]), ranks)
    assert [process.value for process in ended] == [1] * ranks, said
    assert "step 1: out of memory with a single row of " in said
    assert "student.activation_checkpointing=true" in said
    assert "data.max_tokens=" in said
    assert "Traceback" not in said


def test_an_evaluation_that_ran_out_of_memory_begins_again(
    start: StartRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--set", "eval.every=4", "--set", "eval.fraction=0.5")
    plain = start("plain", *micro(100), *more)
    assert train_here(plain).exit_code == 0
    monkeypatch.setattr("train.loop.Feed.go_on_with", lambda feed, tokens: None)
    short = start("short", *micro(400), *more, memory=150)
    result = train_here(short)
    assert result.exit_code == 0, result.output
    assert held_out(short.out)[0]["loss"] == pytest.approx(held_out(plain.out)[0]["loss"], rel=1e-4)


def test_the_size_is_found(start: StartRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA: from the longest row by doubling, to what fits."""
    monkeypatch.setattr("train.steps.microsize.SEARCHED_DEVICES", ("cpu",))
    found = start("found", "--batch-tokens", "auto", "--set", "loop.batch_tokens=600", memory=240)
    result = train_here(found)
    assert result.exit_code == 0, result.output
    assert "tokens with padding in one pass, the largest tried that fits" in result.output
    assert "out of memory" not in result.output
    tokens = steps(found.out)[0]["micro_tokens"]
    assert 120 <= tokens <= 240
    # the search leaves no trace: no gradient, no random number
    plain = start("plain", *micro(tokens))
    assert train_here(plain).exit_code == 0
    assert steps(plain.out) == steps(found.out)
    nothing = train_here(start("nothing", *micro(0), memory=50))
    assert nothing.exit_code == 1
    assert "out of memory with a single row of " in nothing.output


def test_where_it_is_not_searched_it_is_a_default(start: StartRun) -> None:
    run = start("run", "--batch-tokens", "auto", "--set", "loop.batch_tokens=600")
    result = train_here(run)
    assert result.exit_code == 0, result.output
    assert "micro-batches: at most 8192 tokens with padding in one pass, the default" in (
        result.output
    )
    assert steps(run.out)[0]["micro_tokens"] == 8192


def test_tokens_of_a_batch_are_a_number_or_auto(start: StartRun) -> None:
    for wrong in ("all", "0", "-5"):
        result = train_here(start("run", "--batch-tokens", wrong))
        assert result.exit_code == 2, result.output
        assert "batch" in result.output


def test_where_smaller_passes_do_not_help_it_has_a_name(
    start: StartRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.optim.AdamW, "step", refuse)
    result = train_here(start("run"))
    assert result.exit_code == 1
    assert "step 1, in the optimizer: out of memory." in result.output
    assert "student.lora_rank, student.freeze" in result.output


def test_sizes_are_doubled_until_one_does_not_fit() -> None:
    for memory, found in ((5, 0), (10, 10), (39, 20), (79, 40), (1000, 90)):
        tried: list[int] = []

        def fits(size: int, memory: int = memory, tried: list[int] = tried) -> bool:
            tried.append(size)
            return size <= memory

        assert largest_that_fits(fits, 10, 90) == found
        assert tried == [10, 20, 40, 80, 90][: len(tried)]


def test_what_is_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert is_out_of_memory(error.value)
    for said in ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED", "Invalid buffer size: 9 GiB"):
        assert is_out_of_memory(RuntimeError(said))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
