"""Rows of several tasks in one plan."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data import Example
from train.steps.mixing import epoch_rows, mixed_plan, mixed_steps, shares_of
from train.steps.order import divide_step, plan_epoch
from train.tasks_recipe import MixRecipe


def rows_of(task: int, count: int) -> list[Example]:
    return [
        Example(sample_id=f"t{task}-{i}", trace_index=0, num_tokens=10 + i % 7, task=task)
        for i in range(count)
    ]


TASKS = [rows_of(0, 100), rows_of(1, 10)]
EQUAL = [1.0, 1.0]


def test_shares_follow_the_formula() -> None:
    temperature = shares_of([100, 25], EQUAL, MixRecipe(by="temperature", temperature=2.0))
    assert temperature == pytest.approx([10 / 15, 5 / 15])
    assert shares_of([100, 25], [1.0, 3.0], MixRecipe(by="weight")) == pytest.approx([0.25, 0.75])
    assert shares_of([75, 25], EQUAL, MixRecipe()) == pytest.approx([0.75, 0.25])
    same = shares_of([75, 25], EQUAL, MixRecipe(by="temperature"))
    assert same == pytest.approx([0.75, 0.25])


def test_by_size_every_row_comes_once_an_epoch() -> None:
    rows = epoch_rows(TASKS, EQUAL, MixRecipe(), seed=0, epoch=3)
    assert sorted(e.sample_id for e in rows) == sorted(e.sample_id for t in TASKS for e in t)


@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=4),
    temperature=st.floats(0.5, 10),
    seed=st.integers(0, 3),
)
def test_a_task_goes_through_its_rows_before_any_comes_again(
    sizes: list[int], temperature: float, seed: int
) -> None:
    tasks = [rows_of(number, size) for number, size in enumerate(sizes)]
    mix = MixRecipe(by="temperature", temperature=temperature)
    seen: list[Counter[str]] = [Counter() for _ in tasks]
    for epoch in range(5):
        for example in epoch_rows(tasks, [1.0] * len(tasks), mix, seed, epoch):
            seen[example.task][example.sample_id] += 1
        for counts, rows in zip(seen, tasks, strict=True):
            turns = [counts[e.sample_id] for e in rows]
            assert max(turns) - min(turns) <= 1


def test_weights_give_the_shares_of_rows() -> None:
    rows = epoch_rows(TASKS, [1.0, 4.0], MixRecipe(by="weight"), seed=0, epoch=0)
    assert Counter(e.task for e in rows) == {0: 22, 1: 88}


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    mix = MixRecipe(by="temperature", temperature=3.0)

    def epochs(seed: int) -> list[list[Example]]:
        return [epoch_rows(TASKS, EQUAL, mix, seed, epoch) for epoch in range(2)]

    assert epochs(0) == epochs(0)
    assert epochs(0)[0] != epochs(0)[1]
    assert epochs(0) != epochs(1)


def test_tasks_alternate_step_by_step() -> None:
    mix = MixRecipe(by="alternate")
    plan = list(itertools.islice(mixed_plan(TASKS, EQUAL, mix, 60, 0), 40))
    assert [{e.task for e in step} for step in plan] == [{number % 2} for number in range(40)]
    own = sum(len(plan_epoch(rows, 60, 0, epoch)) for rows in TASKS for epoch in range(2))
    steps = mixed_steps(TASKS, EQUAL, mix, 60, 0, 2)
    assert steps % 2 == 0
    assert own <= steps <= own + 1


def test_steps_of_the_plan_are_those_counted() -> None:
    mix = MixRecipe(by="weight")
    steps = mixed_steps(TASKS, [1.0, 4.0], mix, 60, 0, 2)
    rows = sum(len(epoch_rows(TASKS, [1.0, 4.0], mix, 0, epoch)) for epoch in range(2))
    plan = itertools.islice(mixed_plan(TASKS, [1.0, 4.0], mix, 60, 0), steps)
    assert sum(map(len, plan)) == rows


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_micro_batch_has_rows_of_one_task(ranks: int) -> None:
    step = TASKS[0][:9] + TASKS[1][:5]
    shares = [divide_step(step, rank, ranks, 40) for rank in range(ranks)]
    assert all(len({e.task for e in micro}) == 1 for share in shares for micro in share)
    assert Counter(e for share in shares for micro in share for e in micro) == Counter(step)
