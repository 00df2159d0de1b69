"""Runs of a student in shards, and what they are compared with."""

from __future__ import annotations

import pytest
from forks import Forks
from train_runs import Launch, apart, held_out, steps, train_apart

SUM_ORDER = 1e-6
"""Sums of float32 in another order. Measured: 6e-8 of losses, 9e-7 of weights' way."""

SHARDED = ("--set", "student.sharding=full")


def alike(one: Launch, other: Launch, within: float = SUM_ORDER) -> None:
    """Compare two runs: every line, every term, the weights."""
    lines = zip(
        steps(one.out) + held_out(one.out), steps(other.out) + held_out(other.out), strict=True
    )
    for whole, shards in lines:
        assert shards["tokens"] == whole["tokens"]
        assert shards["loss"] == pytest.approx(whole["loss"], rel=within)
        norm = pytest.approx(whole.get("grad_norm", 0.0), rel=5 * within)
        assert shards.get("grad_norm", 0.0) == norm
        for name, term in whole["terms"].items():
            found = shards["terms"][name]
            assert found["count"] == term["count"]
            assert found["value"] == pytest.approx(term["value"], rel=10 * within, abs=within)
            assert ("gradient_norm" in found) == ("gradient_norm" in term)
            norm = pytest.approx(term.get("gradient_norm", 0.0), rel=10 * within, abs=within)
            assert found.get("gradient_norm", 0.0) == norm
    assert apart(one.out, other.out, one.student) < 10 * within


def together(forks: Forks, launch: Launch, ranks: int) -> str:
    ended, said = train_apart(forks, launch, ranks)
    assert [process.value for process in ended] == [0] * ranks, said
    return said
