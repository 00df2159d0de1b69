"""``kill -9`` at any point of stage one: the same command continues, nothing is lost or doubled.

The real steps run in forked children that are killed 50 times, most of them at a counted touch
of the tape's files (which reaches every kind of write), the others after a random time. Then the
command itself, with vLLM, is killed as a process group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import fast_stage_one
import numpy as np
import pytest
from fast_stage_one import NOT_FINITE, NOTHING_SAID, SHARD_SAMPLES, UNREADABLE
from forks import Forks
from tiny_stage_one import extraction
from typer.testing import CliRunner
from whole_tape import everything, fast_folder, leftovers

from cache_schema import open_tape
from cache_schema.types import Hidden, TopK
from pipeline.cli import app

NUM_ROWS = 22
CHAINS = (
    # seed, kills, profile, whether the acoustic teacher runs too
    (0, 10, "hot", False),
    (1, 10, "archive", False),
    (2, 10, "lossy2x", False),
    (3, 14, "archive", True),
    (4, 14, "hot", True),
)
KILLS_A_TAPE = 5
STRIDE = 0.35
"""A run lives for at most this part of a whole one, so that every tape is killed several times."""

LATE = 0.9
"""Where the acoustic teacher runs, a tape's first kill comes after this part: in the last step."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the chains share: the dataset, the acoustic teacher, and uninterrupted runs."""

    folder: Path
    dataset: str
    acoustic_teacher: str

    def arguments(self, name: str, profile: str, acoustic: bool) -> tuple[str, ...]:
        teacher = self.acoustic_teacher if acoustic else ""
        return self.dataset, str(self.folder / name), teacher, profile, f"{self.folder}/{name}.log"


@pytest.fixture(scope="module")
def bench(acoustic_teacher: Path) -> Iterator[Bench]:
    with fast_folder() as folder:
        dataset = fast_stage_one.save_rows(folder / "dataset", NUM_ROWS)
        yield Bench(folder=folder, dataset=str(dataset), acoustic_teacher=str(acoustic_teacher))


def values_of(root: Path) -> dict[str, Any]:
    """Everything on a tape that must not depend on when it was killed."""
    found = everything(open_tape(root))
    for group in found["groups"].values():
        del group["notes"]  # they hold the time
    for row in found["rows"].values():
        for name in [name for name in row if name.startswith("acoustic")]:
            row[name] = sorted(row[name]) if isinstance(row[name], dict) else ""
    for row in open_tape(root):
        found["rows"][row.sample_id]["rejected"] = [repr(trace) for trace in row.rejected]
    return found


def heard(root: Path) -> dict[str, np.ndarray]:
    """What the acoustic teacher recorded; its batches, so its last bits, depend on the kills."""
    values: dict[str, np.ndarray] = {}
    for row in open_tape(root):
        for name in row.signals:
            signal_ = row[name] if name.startswith("acoustic/") else None
            if isinstance(signal_, Hidden):
                values[f"{row.sample_id} states"] = signal_.states
            elif isinstance(signal_, TopK):
                values[f"{row.sample_id} top-k"] = np.exp(signal_.logprobs)
    return values


def assert_sound(root: Path) -> None:
    """Whatever has been committed is whole, once and readable."""
    if not (root / "dataset.json").exists():
        return
    tape = open_tape(root)
    assert tape.catalog.index.duplicates == 0
    everything(tape)
    for group, shards in tape.shards.items():
        recorded = [shard.record.samples for shard in shards]
        assert sum(recorded) == len(tape.recorded(group))
        assert all(count == SHARD_SAMPLES for count in recorded[:-1]), group


def assert_finished(root: Path, reference: Path) -> None:
    assert_sound(root)
    assert leftovers(root) == []
    assert values_of(root) == values_of(reference)
    quarantined = Counter(q.sample_id for q in open_tape(root).quarantined)
    assert quarantined == {f"r{i}": 1 for i in (UNREADABLE, NOTHING_SAID, NOT_FINITE)}
    now, then = heard(root), heard(reference)
    assert now.keys() == then.keys()
    for name, values in then.items():
        np.testing.assert_allclose(now[name], values, rtol=2**-6, atol=1e-3, err_msg=name)


def asked_again(diary: Path, known: set[str]) -> int:
    """Count the prompts of the last run that had been asked before; add all to ``known``."""
    lines = diary.read_text().splitlines()
    asked = [line for line in lines if line.startswith("asked")]
    diary.write_text("")
    again = sum(line in known for line in asked)
    known |= set(asked)
    return again


def last_step(diary: Path) -> str:
    lines = diary.read_text().splitlines() if diary.exists() else []
    return next((line for line in reversed(lines) if line.startswith("step")), "before any")


def run_chain(forks: Forks, bench: Bench, chain: tuple[int, int, str, bool]) -> Counter[str]:
    """Kill runs of fresh tapes until enough were killed, each tape continued to its end."""
    seed, kills, profile, acoustic = chain
    rng = Random(seed)
    killed: Counter[str] = Counter()
    extract = "fast_stage_one:extract"
    reference = bench.arguments(f"whole-{seed}", profile, acoustic)
    done = forks.run(extract, *reference, 0)
    assert done.status == 0, done.trace
    number = 0
    while killed.total() < kills:
        number += 1
        arguments = bench.arguments(f"tape-{seed}-{number}", profile, acoustic)
        root, diary = Path(arguments[1]), Path(arguments[-1])
        known: set[str] = set()
        for run in range(KILLS_A_TAPE):
            late = acoustic and run == 0
            counted = late or killed.total() % 2 == 0
            parts = (LATE, 1.0) if late else (0.0, STRIDE)
            soonest, latest = (int(part * done.value) for part in parts)
            fatal = rng.randint(soonest + 1, latest) if counted else 0
            child = forks.start(extract, *arguments, fatal)
            if not counted:
                time.sleep(rng.uniform(0, STRIDE * done.seconds))
                with suppress(ProcessLookupError):
                    os.kill(child[0], signal.SIGKILL)
            ended = forks.wait(child)
            assert ended.status in (0, -signal.SIGKILL), ended.trace
            if ended.status == 0:
                break
            killed[last_step(diary)] += 1
            if diary.exists():
                assert asked_again(diary, known) <= SHARD_SAMPLES + 1, "a committed shard again"
            assert_sound(root)
        last = forks.run(extract, *arguments, 0)
        assert last.status == 0, last.trace
        assert asked_again(diary, known) <= SHARD_SAMPLES + 1
        assert_finished(root, Path(reference[1]))
    return killed


def test_killed_fifty_times(bench: Bench) -> None:
    def run(chains: Sequence[tuple[int, int, str, bool]]) -> Counter[str]:
        with Forks("fast_stage_one") as forks:
            return sum((run_chain(forks, bench, chain) for chain in chains), Counter[str]())

    with ThreadPoolExecutor(2) as pool:
        killed = sum(pool.map(run, (CHAINS[0::2], CHAINS[1::2])), Counter[str]())
    assert killed.total() >= 50
    for step in ("ingest", "textualize", "textual", "acoustic"):
        assert killed[f"step {step}"] >= 2, f"the kills miss a step: {killed}"


def test_a_finished_tape_gets_its_index(bench: Bench) -> None:
    """A run killed between its last shard and its index leaves nothing to do but that."""
    arguments = bench.arguments("finished", "hot", acoustic=False)
    root = Path(arguments[1])
    with Forks("fast_stage_one") as forks:
        assert forks.run("fast_stage_one:extract", *arguments, 0).status == 0
        index = next((root / "index").glob("*.arrow"))
        index.rename(index.with_name(".new"))
        assert forks.run("fast_stage_one:extract", *arguments, 0).status == 0
    assert leftovers(root) == []
    assert not open_tape(root).catalog.has_new_lines


VLLM_KILLS = ("at the start", "engine starts", "first shard", "first shard", "index")


def group_ended(pgid: int) -> bool:
    """Whether no process of a group is left (the dead that nobody has waited for aside)."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == pgid and fields[0] not in "ZX":
                return False
    return True


def kill_at(moment: str, command: list[str], root: Path, delay_s: float) -> int:
    """Run a command, kill its process group at a moment of the textual step; return its status."""

    def shards() -> int:
        return len(list((root / "shards" / "textual").glob("*/*/shard.json")))

    def lines() -> int:
        return sum(file.read_bytes().count(b"\n") for file in (root / "manifest").glob("*.jsonl"))

    had, had_lines = shards(), lines()
    running = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    started = time.monotonic()
    while running.poll() is None:
        lived_s = time.monotonic() - started
        if {
            "at the start": lived_s > delay_s,
            "engine starts": lived_s > 6 + 4 * delay_s,
            "first shard": shards() > had,
            "index": lines() > had_lines and shards() > had,
        }[moment]:
            break
        time.sleep(0.001)
    if moment == "first shard":
        time.sleep(delay_s / 20)
    with suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    status = running.wait()
    until = time.monotonic() + 30
    while not group_ended(running.pid):
        assert time.monotonic() < until, "a process of the killed group lives on"
        time.sleep(0.01)
    return status


@pytest.mark.parametrize("tape_dir", ["float32"], indirect=True)
def test_vllm_killed_five_times(
    tape_dir: Path, dataset: Path, text_teacher: Path, acoustic_teacher: Path
) -> None:
    """Greedy traces are equal; their signals too, within what other batches change."""
    rng = Random(0)
    with fast_folder() as folder:
        root = folder / "tape"
        arguments = extraction(dataset, text_teacher, acoustic_teacher, root, "float32")
        arguments += ["--set", "textual.batch_samples=2", "--set", "tape.shard_samples=2"]
        command = [sys.executable, "-m", "pipeline", *map(str, arguments), "--only"]
        for step in ("ingest", "textualize"):
            done = CliRunner().invoke(app, [*map(str, arguments), "--only", step])
            assert done.exit_code == 0, done.output
        statuses = []
        for moment in VLLM_KILLS:
            statuses.append(kill_at(moment, [*command, "textual"], root, rng.random()))
            assert open_tape(root).catalog.index.duplicates == 0
        assert statuses.count(-signal.SIGKILL) == len(VLLM_KILLS), statuses
        last = subprocess.run([*command, "textual"], check=False, capture_output=True, text=True)
        assert last.returncode == 0, last.stderr
        assert leftovers(root) == []
        tape, whole = open_tape(root), open_tape(tape_dir)
        assert tape.sample_ids == whole.sample_ids
        assert tape.catalog.index.duplicates == 0
        for row, expected in zip(tape, whole, strict=True):
            assert [trace.text for trace in row.traces] == [t.text for t in expected.traces]
            for name in ("textual/topk", "textual/hidden"):
                now, then = vars(row[name]), vars(expected[name])
                np.testing.assert_array_equal(now["target_ids"], then["target_ids"])
                values = "logprobs" if name == "textual/topk" else "states"
                np.testing.assert_allclose(now[values], then[values], rtol=1e-3, atol=1e-3)
