"""Answers on held-out samples while training: the student's own, and the run stays the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import Forks
from tiny_tape import MakeTape
from train_runs import Launch, held_out, same_weights, steps, train_apart, train_here

from audio_models.generate import Decoding
from audio_models.load import load_audio_lm
from cache_schema import TapeRow, open_tape
from cache_schema.answers.questions import is_correct
from cache_schema.errors import UsageError
from train.evaluate.benchmarks import BENCHMARKS, item_of
from train.evaluate.generate import Generator
from train.heldout import is_held_out
from train.metrics import read_held_out
from train.settings import EvalRecipe

StartRun = Callable[..., Launch]
ANSWERS = ("accuracy", "no_answer", "generate_s")
LEARNING = ("--max-steps", "60", "--lr", "0.01", "--batch-tokens", "4000")
"""Enough for the tiny student to learn the form of a trace, and some answers by heart."""


@pytest.fixture
def start(make_tape: MakeTape, forgetful_dir: Path, tmp_path: Path) -> StartRun:
    tape = make_tape(num_samples=24)

    def launch(name: str, *more: str, **faults: object) -> Launch:
        given = [part for key in more for part in (("--set", key) if "=" in key else (key,))]
        first = ("--max-steps", "6", "--batch-tokens", "400", "--set", "eval.fraction=0.3")
        return Launch(
            tape=tape, student=forgetful_dir, out=tmp_path / name, more=(*first, *given), **faults
        )

    return launch


def without_time(line: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in line.items() if key != "generate_s"}


def without_answers(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key not in ANSWERS} for line in lines]


def test_answers_are_those_of_the_student(start: StartRun) -> None:
    only_ce = ("terms.text_jsd.weight=0", "terms.text_hidden.weight=0")
    more = ("eval.every=60", "eval.generate=5", "eval.max_new_tokens=64")
    run = start("run", *LEARNING, *only_ce, *more)
    result = train_here(run)
    assert result.exit_code == 0, result.output
    (line,) = held_out(run.out)
    lm = load_audio_lm(str(run.out / "student"), "float32", "cpu")
    rows = [row for row in open_tape(run.tape) if is_held_out(row.sample_id, 0.3)]
    rows.sort(key=lambda row: hashlib.sha256(row.sample_id.encode()).hexdigest())
    asked = {row.sample_id: (item_of(row, BENCHMARKS["own"]), row) for row in rows[:5]}
    assert len(asked) == 5 < len(rows)
    # all at once, as they were made in smaller batches
    batches = Generator(lm, Decoding(max_new_tokens=64)).answer([*asked.values()])
    made = [response for batch in batches for response in batch]
    items = {sample_id: item for sample_id, (item, _) in asked.items()}
    right = [
        is_correct(r.answer, items[r.sample_id].answer, items[r.sample_id].choices) for r in made
    ]
    assert 0 < sum(right) < 5  # it says yes to some and no to others, by heart
    assert (line["accuracy"], line["no_answer"]) == (sum(right) / 5, 0.0)
    assert f"answers right {sum(right) / 5:.1%}, missing 0.0%" in result.output


def test_a_student_in_bfloat16_with_adapters_answers(start: StartRun) -> None:
    more = ("eval.every=2", "eval.generate=2", "eval.max_new_tokens=4", "student.lora_rank=2")
    run = start("run", *more, "student.autocast=bfloat16", "student.activation_checkpointing=true")
    result = train_here(run)
    assert result.exit_code == 0, result.output
    assert [line["no_answer"] for line in held_out(run.out)] == [1.0] * 3


def test_answering_changes_nothing_of_the_training(start: StartRun) -> None:
    plain = start("plain", "eval.every=2")
    asked = start("asked", "eval.every=2", "eval.generate=4", "eval.max_new_tokens=8")
    assert train_here(plain).exit_code == 0
    assert train_here(asked).exit_code == 0
    assert steps(asked.out) == steps(plain.out)
    assert same_weights(asked.out, plain.out)
    assert without_answers(held_out(asked.out)) == held_out(plain.out)
    assert all(line.keys() >= set(ANSWERS) for line in read_held_out(asked.out / "metrics.jsonl"))


def test_a_killed_run_goes_on_to_the_same_answers(start: StartRun, forks: Forks) -> None:
    more = ("eval.every=2", "eval.generate=4", "eval.max_new_tokens=8", "checkpoints.every=2")
    whole, killed = start("whole", *more), start("killed", *more, kill_after=5)
    assert train_here(whole).exit_code == 0
    (ended,), said = train_apart(forks, killed)
    assert ended.status == -9, said
    assert train_here(start("killed", *more)).exit_code == 0
    assert [without_time(line) for line in held_out(killed.out)] == [
        without_time(line) for line in held_out(whole.out)
    ]
    assert same_weights(killed.out, whole.out)


def test_processes_share_the_samples(start: StartRun, forks: Forks) -> None:
    more = ("eval.every=6", "eval.generate=5", "eval.max_new_tokens=8", "--lr", "0")
    zero = ("optim.projector_lr=0",)
    two, one = start("two", *more, *zero), start("one", *more, *zero)
    ended, said = train_apart(forks, two, ranks=2)
    assert [each.status for each in ended] == [0, 0], said
    assert train_here(one).exit_code == 0
    # the student is the same, so the answers are, whoever gives them
    for name in ("accuracy", "no_answer"):
        assert held_out(two.out)[-1][name] == held_out(one.out)[-1][name]


def test_a_student_in_shards_is_refused(start: StartRun, forks: Forks) -> None:
    run = start("run", "eval.every=2", "eval.generate=4", "student.sharding=full")
    ended, said = train_apart(forks, run, ranks=2)
    assert [each.value for each in ended] == [2, 2], said
    assert "a student in shards cannot answer while it trains" in said


def test_where_there_is_nothing_to_compare_with(
    start: StartRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TapeRow, "answer", property(lambda _row: ""))
    result = train_here(start("run", "eval.every=2", "eval.generate=4"))
    assert result.exit_code == 2
    assert "no held-out sample that is heard has a right answer" in result.output
    with pytest.raises((UsageError, ValueError), match="generate needs every above 0"):
        EvalRecipe(generate=4)
    with pytest.raises((UsageError, ValueError), match="max_new_tokens 0: expected 1 or more"):
        EvalRecipe(every=1, generate=4, max_new_tokens=0)
