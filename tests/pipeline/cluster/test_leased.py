"""Leased portions: workers in any number, killed, stopped or late, leave the tape of one worker."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import fast_stage_one
import pytest
from fast_stage_one import SHARD_SAMPLES
from forks import Forks
from leased_stage_one import EXPIRES_S
from whole_tape import fast_folder, leftovers

from cache_schema import open_tape
from cache_schema.compare.tapes import compare
from cache_schema.validate.findings import Findings
from cache_schema.validate.tape import validate

NUM_ROWS = 22
PAUSE_S = 0.05
PORTION = SHARD_SAMPLES
"""Rows that are leased at a time."""


@dataclass(kw_only=True)
class Bench:
    """The dataset, and the tape of a single worker that leases nothing."""

    folder: Path
    dataset: str
    acoustic_teacher: str
    forks: Forks
    count: int = field(default=0)

    def new(self) -> Path:
        self.count += 1
        return self.folder / f"tape-{self.count}"

    def diary(self, root: Path) -> Path:
        return self.folder / f"{root.name}.log"

    def start(
        self, root: Path, *, pause_s: float = 0, worker: str = "auto", function: str = "work",
        hears: bool = False,
    ) -> tuple[int, str]:  # fmt: skip
        teacher = self.acoustic_teacher if hears else ""
        called = f"leased_stage_one:{function}"
        diary = str(self.diary(root))
        return self.forks.start(called, self.dataset, str(root), teacher, worker, diary, pause_s)

    def end(self, *children: tuple[int, str]) -> None:
        for child in children:
            ended = self.forks.wait(child)
            assert ended.status == 0, ended.trace


@pytest.fixture(scope="module")
def bench(acoustic_teacher: Path) -> Iterator[Bench]:
    with fast_folder() as folder, Forks("leased_stage_one") as forks:
        dataset = fast_stage_one.save_rows(folder / "dataset", NUM_ROWS)
        yield Bench(
            folder=folder,
            dataset=str(dataset),
            acoustic_teacher=str(acoustic_teacher),
            forks=forks,
        )


@pytest.fixture(scope="module")
def alone(bench: Bench) -> Path:
    """One worker, all rows at once, textual teacher only."""
    root = bench.new()
    bench.end(bench.start(root, worker="0/1"))
    return root


def uncounted(title: str, total: int) -> nullcontext[Callable[[int], None]]:
    return nullcontext(lambda _: None)


def assert_same(root: Path, reference: Path) -> Findings:
    """Equal in every value, nothing left behind, and sound; return what verify noted."""
    difference = compare(open_tape(root), open_tape(reference), uncounted)
    assert difference.equal, difference
    assert leftovers(root) == []
    findings = validate(root, uncounted, deep=True)
    assert findings.problems == []
    return findings


def until(found: Callable[[], object], within_s: float = 30) -> None:
    deadline_s = time.monotonic() + within_s
    while not found():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def recorded_count(root: Path) -> int:
    """Samples whose textual signals are on the tape."""
    return len(open_tape(root).recorded("textual")) if textual_shards(root) else 0


def asked(diary: Path) -> list[str]:
    return [line for line in diary.read_text().splitlines() if line.startswith("asked")]


def textual_shards(root: Path) -> list[Path]:
    return list((root / "shards" / "textual").glob("[0-9]*/*/shard.json"))


def in_a_portion(bench: Bench, root: Path, prompts: int = 2) -> Callable[[], bool]:
    """Whether the textual teacher was asked so much; portions are of four."""
    return lambda: bench.diary(root).exists() and len(asked(bench.diary(root))) >= prompts


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers(bench: Bench, alone: Path, workers: int) -> None:
    root = bench.new()
    bench.end(*[bench.start(root, pause_s=0.01) for _ in range(workers)])
    findings = assert_same(root, alone)
    assert findings.notes == []
    twice = [prompt for prompt, count in Counter(asked(bench.diary(root))).items() if count > 1]
    assert twice == []
    assert open_tape(root).catalog.index.duplicates == 0


def test_both_teachers(bench: Bench) -> None:
    one, two = bench.new(), bench.new()
    bench.end(bench.start(one, worker="0/1", hears=True))
    bench.end(bench.start(two, hears=True), bench.start(two, hears=True))
    assert_same(two, one)


def test_static_workers_still_divide_by_row(bench: Bench, alone: Path) -> None:
    root = bench.new()
    bench.end(*[bench.start(root, worker=f"{index}/3") for index in range(3)])
    assert_same(root, alone)
    assert not (root / ".leases").exists()


def test_a_killed_worker_is_taken_over(bench: Bench, alone: Path) -> None:
    """Its open shard is done again, and no more; the next run needs no waiting on one machine."""
    root = bench.new()
    first = bench.start(root, pause_s=PAUSE_S)
    until(in_a_portion(bench, root, SHARD_SAMPLES + 2))
    os.kill(first[0], signal.SIGKILL)
    assert bench.forks.wait(first).status == -signal.SIGKILL
    assert list((root / ".leases" / "textual" / "000").iterdir())
    bench.end(bench.start(root), bench.start(root))
    assert_same(root, alone)
    again = Counter(asked(bench.diary(root)))
    assert sum(count - 1 for count in again.values()) <= SHARD_SAMPLES
    assert not (root / ".leases").exists()


def test_killed_between_the_rename_and_the_line(bench: Bench, alone: Path) -> None:
    """The shard is in its place and not on the tape: it is removed, and its rows done again."""
    root = bench.new()
    first = bench.start(root, function="work_to_a_commit")
    assert bench.forks.wait(first).status == -signal.SIGKILL
    assert "orphan" in {problem.kind for problem in validate(root, uncounted).problems}
    bench.end(*[bench.start(root) for _ in range(2)])
    assert_same(root, alone)
    assert open_tape(root).catalog.index.duplicates == 0


def test_several_take_over_at_one_instant(bench: Bench, alone: Path) -> None:
    """Three are waiting for one portion when its worker is killed."""
    root = bench.new()
    first = bench.start(root, pause_s=3 * PAUSE_S)
    until(in_a_portion(bench, root))
    os.kill(first[0], signal.SIGSTOP)
    others = [bench.start(root) for _ in range(3)]
    until(lambda: recorded_count(root) >= NUM_ROWS - PORTION)
    os.kill(first[0], signal.SIGKILL)
    bench.forks.wait(first)
    bench.end(*others)
    bench.end(bench.start(root))  # the others may have ended before the stopped one was killed
    assert_same(root, alone)
    assert open_tape(root).catalog.index.duplicates == 0
    again = Counter(asked(bench.diary(root)))
    assert sum(count - 1 for count in again.values()) <= PORTION


def test_killed_again_and_again(bench: Bench, alone: Path) -> None:
    root = bench.new()
    for kill in range(6):
        pair = [bench.start(root, pause_s=0.02) for _ in range(2)]
        time.sleep(0.1 + 0.07 * kill)
        for child in pair:
            os.kill(child[0], signal.SIGKILL)
        assert {bench.forks.wait(child).status for child in pair} <= {0, -signal.SIGKILL}
        if (root / "dataset.json").exists():
            found = validate(root, uncounted).problems
            assert {problem.kind for problem in found} <= {"orphan", "cut line"}, found
    bench.end(bench.start(root))
    assert_same(root, alone)


def test_workers_come_and_go(bench: Bench, alone: Path) -> None:
    root = bench.new()
    first = bench.start(root, pause_s=PAUSE_S)
    until(in_a_portion(bench, root))
    late = [bench.start(root, pause_s=PAUSE_S) for _ in range(2)]
    until(in_a_portion(bench, root, 8))
    os.kill(first[0], signal.SIGKILL)
    bench.forks.wait(first)
    bench.end(*late, bench.start(root))
    assert_same(root, alone)
    assert len({path.parent.name.rpartition("-")[0] for path in textual_shards(root)}) >= 2


def test_a_stopped_worker_gives_up_what_another_took(bench: Bench, alone: Path) -> None:
    """Stopped in the middle of a portion for longer than its lease, then continued."""
    root = bench.new()
    stopped = bench.start(root, pause_s=PAUSE_S)
    until(in_a_portion(bench, root))
    os.kill(stopped[0], signal.SIGSTOP)
    try:
        began_s = time.monotonic()
        bench.end(bench.start(root))
        assert time.monotonic() - began_s >= EXPIRES_S
        assert compare(open_tape(root), open_tape(alone), uncounted).equal
    finally:
        os.kill(stopped[0], signal.SIGCONT)
    bench.end(stopped)
    assert_same(root, alone)
    assert open_tape(root).catalog.index.duplicates == 0


def test_two_that_commit_the_same_portion(bench: Bench, alone: Path) -> None:
    """Stopped between asking for its lease and the commit: what came first is read."""
    root = bench.new()
    stopped = bench.start(root, pause_s=PAUSE_S, function="work_blindly")
    until(in_a_portion(bench, root))
    os.kill(stopped[0], signal.SIGSTOP)
    try:
        bench.end(bench.start(root))
    finally:
        os.kill(stopped[0], signal.SIGCONT)
    bench.end(stopped)
    findings = assert_same(root, alone)
    assert [note.kind for note in findings.notes] == ["repeated"]
    assert open_tape(root).catalog.index.duplicates > 0
