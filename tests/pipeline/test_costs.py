"""What ``pipeline estimate`` makes of a few measured rows, without measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import full_tape
import pytest
from sound_tape import targets_of

from cache_schema import open_tape
from cache_schema.errors import ProvenanceError
from cache_schema.writer import TapeWriter
from pipeline.costs.measure import Timing
from pipeline.costs.page import page_of_projection
from pipeline.costs.plan import Plan, plan_step, projection, step_values
from pipeline.costs.weigh import work_of
from pipeline.estimate import PROJECTED_SAMPLES, refuse_other_makers
from pipeline.recipe import DatasetRecipe, ExtractRecipe, TapeRecipe

REJECTED_ONLY = 4
"""The sample of ``full_tape`` none of whose traces was kept."""


def planned(root: Path, rows: Sequence[int], timed: int) -> Plan:
    timing = Timing(
        start_s=1.0,
        timed_s=6.0,
        timed=timed,
        handled=len(rows),
        commit_s=0.0,
        batch=timed,
        cold=False,
        host_bytes=1,
        gpu_bytes=None,
    )
    recipe = ExtractRecipe(dataset=DatasetRecipe(path="rows.jsonl"), tape=TapeRecipe(out=str(root)))
    return plan_step(recipe, "textual", 100, rows, timing, open_tape(root))


def tape_of(root: Path, rows: Sequence[int]) -> Path:
    return full_tape.make(root, rows, groups=("samples", "descriptions", "textual"))


def test_rejected_traces_are_work(tmp_path: Path) -> None:
    tape = open_tape(tape_of(tmp_path / "tape", range(5)))
    work = work_of("textual", tape, range(5))
    kept = [len(targets_of(index)) for index in range(REJECTED_ONLY)]
    assert [work[0], work[2]] == [kept[0], kept[2]], "no trace was rejected"
    assert work[1] > kept[1]
    assert work[REJECTED_ONLY] > 0


@pytest.mark.parametrize("rows", [[REJECTED_ONLY], [REJECTED_ONLY, REJECTED_ONLY + 5]])
def test_no_measured_trace_was_kept(tmp_path: Path, rows: list[int]) -> None:
    root = tape_of(tmp_path / "tape", [REJECTED_ONLY])
    plan = planned(root, rows, timed=1)
    assert plan.per_sample_s == 6.0
    assert (plan.spread is None) == (len(rows) == 1)
    assert step_values(plan, 100)["seconds"]["estimate"] == pytest.approx(1 + plan.samples * 6.0)


def test_the_timed_rows_are_the_last_ones_handled(tmp_path: Path) -> None:
    """Sample 4 has rejected traces only, and is the last of two timed."""
    root = tape_of(tmp_path / "tape", range(5))
    work = work_of("textual", open_tape(root), range(5))
    plan = planned(root, range(5), timed=2)
    rows = 5 + 5 + 3 * 4 + 5  # samples, descriptions; trace, topk and lens; rejected
    assert plan.table_rows == rows / 5
    assert plan.per_sample_s == pytest.approx(3.0 * work.mean() / work[3:].mean())


def test_another_listener_is_refused_as_by_the_step(tmp_path: Path) -> None:
    groups = ("samples", "descriptions", "heard_transcript")
    old = open_tape(full_tape.make(tmp_path / "old", groups=groups))
    same = open_tape(full_tape.make(tmp_path / "same", [0, 1], groups=groups))
    refuse_other_makers(old, same, ["ingest", "textualize"])

    full_tape.make(tmp_path / "other", [0, 1], groups=groups[:2])
    ear = replace(full_tape.makers("hot")["heard_transcript"], identity={"model_digest": "new"})
    with TapeWriter(tmp_path / "other", ear) as writer:
        full_tape.add(writer, "heard_transcript", 0)
    other = open_tape(tmp_path / "other")
    refuse_other_makers(old, other, ["ingest"])
    with pytest.raises(ProvenanceError, match=r"'heard_transcript' was recorded differently"):
        refuse_other_makers(old, other, ["ingest", "textualize"])


@pytest.mark.parametrize(("workers", "portions"), [(1, 1954), (7, 280), (64, 31), (5000, 1)])
def test_workers_take_whole_portions_and_start_each(
    tmp_path: Path, workers: int, portions: int
) -> None:
    """A million samples in portions of 512, on any number of machines."""
    timing = Timing(
        start_s=30, timed_s=2, timed=1, handled=3, commit_s=0.25, batch=1, cold=False,
        host_bytes=0, gpu_bytes=None,
    )  # fmt: skip
    plan = replace(planned(tape_of(tmp_path, range(3)), range(3), 3), timing=timing)
    plan = replace(plan, population=3, samples=3, recorded=3, per_sample_s=2.0, per_shard=512)
    row = projection({"textual": plan}, 0.0, 3, 1_000_000, (workers,), 512)
    samples = min(portions * 512, 1_000_000)
    assert row["on"] == [
        {
            "workers": workers,
            "seconds": pytest.approx(30 + 2 * samples + 0.25 * portions),
            "bytes_per_s": pytest.approx(row["bytes"] / row["on"][0]["seconds"]),
        }
    ]
    assert f" on {workers:,} (--worker auto); " in page_of_projection(row)


def test_hours_and_bytes_of_a_million_and_a_hundred_million(tmp_path: Path) -> None:
    """On 32 machines: the work divided, and each step's start-up and last portion beside it."""
    timing = Timing(
        start_s=60, timed_s=2, timed=1, handled=3, commit_s=0.25, batch=1, cold=False,
        host_bytes=0, gpu_bytes=None,
    )  # fmt: skip
    plan = replace(planned(tape_of(tmp_path, range(3)), range(3), 3), timing=timing)
    plan = replace(plan, population=3, samples=3, recorded=3, per_sample_s=2.0, per_shard=512)
    plans = {"textual": plan, "acoustic": replace(plan, per_sample_s=0.5)}
    million, most = (projection(plans, 100.0, 3, n, (32,), 512) for n in PROJECTED_SAMPLES)
    assert (million["samples"], most["samples"]) == (10**6, 10**8)
    assert most["bytes"] == pytest.approx(100 * million["bytes"], rel=1e-4)
    for row in (million, most):
        work_s = 2.5 * row["samples"] + 2 * 0.25 * row["samples"] / 512
        assert row["seconds"] == pytest.approx(work_s + 2 * 60, rel=1e-5)
        [on] = row["on"]
        last_s = 2.5 * 512 + 2 * 0.25
        assert work_s / 32 <= on["seconds"] - 2 * 60 <= work_s / 32 + last_s
        assert on["bytes_per_s"] == pytest.approx(row["bytes"] / on["seconds"])
    assert "2,171.2 h on 32" in page_of_projection(most)
    assert page_of_projection(million).startswith("  1,000,000 samples like these: ")
