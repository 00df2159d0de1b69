from __future__ import annotations

import math

import pytest

from train.schedule import learning_rate_factor
from train.settings import SCHEDULES, OptimRecipe

TOTAL, WARMUP = 100, 10


def factor(schedule: str, step: int, **more: float) -> float:
    settings = {"warmup_fraction": 0.1, "final_lr_fraction": 0.1, "decay_fraction": 0.2, **more}
    return learning_rate_factor(OptimRecipe(schedule=schedule, **settings), step, TOTAL)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_warms_up_and_ends_where_it_should(schedule: str) -> None:
    assert [factor(schedule, step) for step in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])
    assert factor(schedule, TOTAL) == pytest.approx(1.0 if schedule == "constant" else 0.1)
    after = [factor(schedule, step) for step in range(WARMUP, TOTAL + 1)]
    assert after == sorted(after, reverse=True)
    cold = [factor(schedule, step, warmup_fraction=0.0) for step in range(1, TOTAL + 1)]
    assert cold[-1] == pytest.approx(after[-1])
    assert learning_rate_factor(OptimRecipe(schedule=schedule), 1, 1) == 1.0


def test_formulas_in_the_middle() -> None:
    # 45 of the 90 steps after the warm-up
    assert factor("cosine", 55) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert factor("cosine", 40) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 3)) / 2)
    assert factor("linear", 55) == pytest.approx(0.55)
    assert factor("linear", 40) == pytest.approx(0.1 + 0.9 * 2 / 3)
    assert factor("constant", 55) == 1.0
    # the last 18 of the 90 decay
    assert [factor("wsd", step) for step in (11, 55, 82)] == [1.0, 1.0, 1.0]
    assert factor("wsd", 91) == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(0.5)))
    assert factor("wsd", 91, decay_fraction=1.0) == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(0.9)))


@pytest.mark.parametrize(
    "wrong", [{"schedule": "cosin"}, {"decay_fraction": 0.0}, {"decay_fraction": 1.5}]
)
def test_what_is_no_schedule(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OptimRecipe(**wrong)  # type: ignore[arg-type]
