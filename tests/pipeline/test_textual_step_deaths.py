"""The textual step when engines die: one sample's fault, everybody's, and what is kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from fast_stage_one import ArithmeticTeacher
from textual_bench import NAMES, Bench, fates, yes_on

from cache_schema import open_tape
from cache_schema.errors import ModelError
from pipeline.teachers.base import EngineDiedError, Wanted


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("victim", ["ann", "dan", "gus"])
def test_one_sample_that_kills_the_engine(
    bench: Bench, capsys: pytest.CaptureFixture[str], victim: str, size: int
) -> None:
    tape = bench.run(kills=[f"I am {victim}."], batch_samples=size)
    (failed,) = tape.quarantined
    assert (failed.sample_id, failed.reason) == (victim, "engine died")
    assert tape.recorded("textual") == set(NAMES) - {victim}
    said = capsys.readouterr().err
    deaths = said.count("the engine died")
    assert 2 <= deaths <= 6
    assert len(bench.said("started")) == deaths + 1, "it is started, again after each death"
    assert f"on sample '{victim}' (the engine is gone); trying it once more" in said
    assert f"on sample '{victim}' (the engine is gone); it is left out" in said


def test_two_of_them(bench: Bench) -> None:
    tape = bench.run(kills=["I am ann.", "I am gus."], batch_samples=7)
    assert {(q.sample_id, q.reason) for q in tape.quarantined} == {
        ("ann", "engine died"), ("gus", "engine died"),
    }  # fmt: skip


def test_the_values_do_not_depend_on_deaths(bench: Bench, tmp_path: Path) -> None:
    died = bench.run(kills=["I am dan."], traces=2, batch_samples=7)
    values = {row.sample_id: repr(row.traces) for row in died}
    shutil.rmtree(bench.out)
    shutil.copytree(Path(bench._described.tape.out), bench.out)
    whole = bench.run(traces=2, batch_samples=2)
    assert all(values[name] == repr(whole[name].traces) for name in NAMES if name != "dan")


def test_a_broken_engine_ends_the_step(bench: Bench) -> None:
    with pytest.raises(ModelError, match="died 5 times in a row, last on what it should") as caught:
        bench.run(kills=[""], batch_samples=7)
    assert not isinstance(caught.value, EngineDiedError)
    assert bench.said("started") == ["started"] * 5
    assert open_tape(bench.out).quarantined == []
    assert bench.run().quarantined == [], "the same command continues"


def test_an_engine_that_only_survives_trifles_ends_the_step(bench: Bench) -> None:
    with pytest.raises(ModelError, match="on each of the first 5 samples, last on 'eve'"):
        bench.run(kills=["I am"], batch_samples=7)
    assert open_tape(bench.out).quarantined == [], "no sample is to blame"


def test_an_engine_that_does_not_start_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where the memory of the process that died is not free yet."""
    start, starts = ArithmeticTeacher.start, iter([True, False, False])

    def slowly(self: ArithmeticTeacher, wanted: Wanted) -> None:
        if not next(starts, True):
            raise ModelError("no memory yet")
        start(self, wanted)

    monkeypatch.setattr(ArithmeticTeacher, "start", slowly)
    tape = bench.run(kills=["I am ben."], batch_samples=2)
    assert [failed.sample_id for failed in tape.quarantined] == ["ben"]
    assert capsys.readouterr().err.count("does not work (no memory yet); trying it again") == 2
    shutil.rmtree(bench.out)
    shutil.copytree(Path(bench._described.tape.out), bench.out)
    starts = iter([False])
    with pytest.raises(ModelError, match=r"^no memory yet$"):
        bench.run()


def test_what_succeeded_before_an_engine_broke_is_on_the_tape(bench: Bench) -> None:
    """And what was bad is quarantined, so that the next run does not die of it again."""
    kills = ["I am cat."]

    def writes(prompt: str, seed: int) -> tuple[str, str]:
        if "I am dan." in prompt:
            kills.append("")
        return "<think>a</think>yes", "stop"

    with pytest.raises(ModelError, match="What succeeded is on the tape"):
        bench.run(writes, kills, batch_samples=1)
    tape = open_tape(bench.out)
    assert tape.recorded("textual") == {"ann", "ben", "dan"}
    assert [failed.sample_id for failed in tape.quarantined] == ["cat"]
    asked = len(bench.said("asked"))
    assert bench.run().recorded("textual") == set(NAMES) - {"cat"}
    assert len(bench.said("asked")) == asked + 3


def test_an_engine_that_dies_while_scoring(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the batch is on the tape twice, and nothing is lost."""
    left = [1]
    score = ArithmeticTeacher.score

    def once(self: ArithmeticTeacher, *arguments: Any) -> Any:
        if left.pop() if left else 0:
            self._dead = True
            raise EngineDiedError("out of memory")
        return score(self, *arguments)

    monkeypatch.setattr(ArithmeticTeacher, "score", once)
    tape = bench.run(yes_on(ann=0, eve=1), traces=2, select="first-correct")
    assert [fates(tape, name)[0] for name in ("ann", "eve")] == [[("free", 0)], [("free", 1)]]
    assert sum(len(row.traces) + len(row.rejected) for row in tape) == 2 * len(NAMES)
    assert tape.catalog.index.duplicates == 0
