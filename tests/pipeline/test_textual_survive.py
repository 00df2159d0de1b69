"""Engines that die: bad samples are found and left out, however they lie; a broken engine is named.

Simulated: samples are names, and an attempt is what the engine does with them.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from cache_schema.errors import ModelError
from pipeline.prompts import load_prompt
from pipeline.teachers.base import EngineDiedError, Wanted
from pipeline.textual_recipe import TextualRecipe
from pipeline.traces.draft import Task
from pipeline.traces.outcome import Outcome
from pipeline.traces.survive import Survivor


class Engine:
    """An engine that dies of some samples, and of everything from its ``last_start`` on."""

    def __init__(self, killers: Collection[int], last_start: float = float("inf")) -> None:
        self.killers, self.last_start = killers, last_start
        self.starts = self.deaths = 0
        self.running = False

    def start(self, wanted: Wanted) -> None:
        assert not self.running
        self.starts += 1
        self.running = True

    def close(self) -> None:
        self.running = False

    def encode(self, messages: Any) -> str:
        return str(messages[0]["content"])

    def trace(self, *_: Any) -> None:
        self.read(())

    def read(self, samples: Sequence[int]) -> None:
        assert self.running
        if self.starts >= self.last_start or not self.killers.isdisjoint(samples):
            self.deaths += 1
            raise EngineDiedError("gone")

    def attempt(self, rows: Sequence[Any], size: int = 3) -> Iterator[list[Outcome]]:
        """Read rows a few at a time, as a batch is whose signals are many."""
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            self.read([int(row.sample_id) for row in part])
            yield [Outcome(row=row) for row in part]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.traces.survive.PAUSES_S", (0.0, 0.0))


def run(engine: Any, count: int, batch: int) -> tuple[list[int], list[int]]:
    """Return who was recorded, and who was left out."""
    task = Task(
        recipe=TextualRecipe(), seed=0, prompt=load_prompt("plain.v1"), teacher=engine,
        wanted=Wanted(), token_bytes=1,
    )  # fmt: skip
    rows: list[Any] = [SimpleNamespace(sample_id=str(number)) for number in range(count)]
    survivor, recorded, lost = Survivor(task), [], []
    for start in range(0, count, batch):
        for outcomes in survivor.each(rows[start : start + batch], engine.attempt):
            for outcome in outcomes:
                (lost if outcome.failure else recorded).append(int(outcome.row.sample_id))
    return recorded, lost


@pytest.mark.parametrize("first", [0, 1, 100, 127, 254, 255, 298])
@pytest.mark.parametrize("batch", [1, 2, 3, 256])
def test_two_killers_side_by_side(batch: int, first: int) -> None:
    engine = Engine({first, first + 1})
    recorded, lost = run(engine, 300, batch)
    assert sorted(lost) == [first, first + 1]
    assert sorted(recorded) == [number for number in range(300) if number not in lost]
    assert engine.deaths <= 4 + 2 * batch.bit_length()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch", [1, 7, 256])
def test_a_percent_of_killers(seed: int, batch: int) -> None:
    killers = set(random.Random(seed).sample(range(1024), 10))
    engine = Engine(killers)
    recorded, lost = run(engine, 1024, batch)
    assert sorted(lost) == sorted(killers)
    assert sorted(recorded) == [number for number in range(1024) if number not in killers]
    assert engine.deaths <= 10 * (2 + batch.bit_length())


@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("last_start", [1, 2, 3])
def test_a_broken_engine_is_not_the_samples_fault(batch: int, last_start: int) -> None:
    engine = Engine({5}, last_start)
    with pytest.raises(ModelError, match=r"died \d+ times in a row") as caught:
        run(engine, 64, batch)
    assert not isinstance(caught.value, EngineDiedError)
    assert engine.deaths <= 8


def test_an_engine_that_survives_only_trifles() -> None:
    class Sturdy(Engine):
        def trace(self, *_: Any) -> None:
            assert self.running

    engine = Sturdy(range(64))  # type: ignore[arg-type]
    engine.killers = set(range(64))
    with pytest.raises(ModelError, match="first 5 samples"):
        run(engine, 64, 64)
    assert engine.deaths == 1 + 5 * 2
