"""What the textual step holds in memory: signals of one batch, or of a part of it."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from fast_stage_one import ArithmeticTeacher
from textual_bench import NAMES, Bench, draw_of, yes_on

from pipeline.teachers.base import TokenSignals, Wanted
from pipeline.teachers.records import record_dtype


def living() -> int:
    """How many traces' signals are in memory; freed without waiting for a collection."""
    return sum(type(item) is TokenSignals for item in gc.get_objects())


@pytest.mark.parametrize("select", ["all", "best-logprob"])
def test_no_signals_of_another_batch_are_alive(bench: Bench, select: str) -> None:
    """States are most of the memory; gigabytes of them a batch are nothing unusual."""
    alive: list[int] = []

    def writes(prompt: str, seed: int) -> tuple[str, str]:
        if draw_of(prompt, seed) == 0:
            alive.append(living())
        return "<think>a</think>yes", "stop"

    bench.run(writes, traces=3, batch_samples=1, select=select)
    assert alive == [0] * len(NAMES)


@pytest.mark.parametrize(("rationales", "samples"), [("none", 3), ("wrong", 1)])
def test_a_batch_of_many_long_traces_is_traced_in_parts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, rationales: str, samples: int
) -> None:
    parts: list[tuple[int, int]] = []
    trace = ArithmeticTeacher.trace

    def counted(self: ArithmeticTeacher, prompts: Any, *arguments: Any) -> Any:
        parts.append((len(prompts), living()))
        return trace(self, prompts, *arguments)

    monkeypatch.setattr(ArithmeticTeacher, "trace", counted)
    of_token = record_dtype(
        Wanted(top_k=8, layers=(1, 2), lens=(1, 2), lens_top_k=4, draws=5), 16, "float32"
    ).itemsize
    monkeypatch.setattr("pipeline.traces.settle.HELD_BYTES", 3 * 2 * 100 * of_token)
    bench.run(
        yes_on(**dict.fromkeys(NAMES, 0)), traces=2, max_new_tokens=100, batch_samples=7,
        select="all", rationales=rationales,
    )  # fmt: skip
    free = [part for part in parts if part[1] == 0]
    assert sum(count for count, _ in free) == len(NAMES), "recorded before the next are traced"
    assert max(count for count, _ in parts) == samples


def test_only_chosen_traces_signals_wait_for_the_rest_of_the_batch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given traces are compared by what reading them says, so all are read, a few at a time."""
    alive: list[int] = []
    score = ArithmeticTeacher.score

    def counted(self: ArithmeticTeacher, *arguments: Any) -> Any:
        alive.append(living())
        return score(self, *arguments)

    monkeypatch.setattr(ArithmeticTeacher, "score", counted)
    of_token = record_dtype(
        Wanted(top_k=8, layers=(1, 2), lens=(1, 2), lens_top_k=4, draws=5), 16, "float32"
    ).itemsize
    tokens = len("<think>given</think>yes") + 1 + len("no") + 1
    monkeypatch.setattr("pipeline.traces.settle.HELD_BYTES", 3 * tokens * of_token)
    tape = bench.run(given="cot", select="best-logprob", judge="numeric", batch_samples=6)
    assert bench.said("scored") == ["scored 6", "scored 6"]
    assert alive == [0, 0], "what was chosen is on the tape before the rest is read"
    for row in map(tape.__getitem__, NAMES[:-1]):
        (kept,), (lost,) = row.traces, row.rejected
        means = [one.logprob / (1 + len(one.text)) for one in (kept, lost)]
        assert means[0] > means[1]
        assert lost.reason == "not chosen"
