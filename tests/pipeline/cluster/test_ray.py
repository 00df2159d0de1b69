"""The real command on Ray, here: a driver and one of two actors killed, the tape of one worker."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
import torch
from tiny_stage_one import save_dataset
from typer.testing import CliRunner
from whole_tape import leftovers

import pipeline.cluster.on_ray
from cache_schema import open_tape
from cache_schema.compare.tapes import compare
from cache_schema.errors import UsageError
from cache_schema.validate.tape import validate
from pipeline.cli import app
from pipeline.cluster.on_ray import Outcome, StepActor
from pipeline.recipe import DatasetRecipe, ExtractRecipe, TapeRecipe

NO_PATIENCE = """
import pipeline.cluster.on_ray
from pipeline.cli import app
pipeline.cluster.on_ray.ROOM_S = 0
app()
"""


@pytest.fixture(autouse=True)
def _at_our_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's processes are otherwise the last to get a core from the tests beside them."""
    monkeypatch.setenv("RAY_worker_niceness", "0")


def uncounted(title: str, total: int) -> nullcontext[Callable[[int], None]]:
    return nullcontext(lambda _: None)


def arguments(dataset: Path, text_teacher: Path, out: Path) -> list[str | Path]:
    """One prompt at a time, so that no value depends on how rows are shared out."""
    return [
        "extract-teachers", "--dataset", dataset, "--text-teacher", text_teacher, "--out", out,
        "--engine", "transformers", "--text-layers", "all", "--top-k", "8",
        "--max-new-tokens", "100", "--set", "textual.batch_samples=1",
        "--set", "textual.dtype=float32",
        "--set", "tape.shard_samples=2",
    ]  # fmt: skip


def at_work(root: Path) -> Iterator[int]:
    """Processes that hold a lease of the textual step."""
    for file in (root / ".leases" / "textual").glob("[0-9]*/*.0"):
        if not file.with_name(f"{file.name}.done").exists():
            yield json.loads(file.read_text())["pid"]


def record_alone(arguments: list[str | Path]) -> None:
    """One worker in this process, with the one thread that Ray leaves an actor of one CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for step in ("ingest", "textualize", "textual"):
            done = CliRunner().invoke(app, [*map(str, arguments), "--only", step])
            assert done.exit_code == 0, done.output
    finally:
        torch.set_num_threads(threads)


def actors(pid: int) -> list[psutil.Process]:
    """The processes of a driver's actors."""
    return [
        process
        for process in psutil.Process(pid).children(recursive=True)
        if "StepActor" in " ".join(process.cmdline())
    ]


def kill_driver_at_work(command: list[str], root: Path) -> None:
    """Start the command; as soon as rows are on the tape kill its process alone: actors end too."""
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until_s = time.monotonic() + 240
    while not list((root / "manifest").glob("*.jsonl")):
        assert time.monotonic() < until_s
        assert running.poll() is None
        time.sleep(0.005)
    started = actors(running.pid)
    assert started
    running.kill()
    running.wait()
    until_s = time.monotonic() + 100
    while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in started):
        assert time.monotonic() < until_s
        time.sleep(0.05)


@pytest.mark.timeout(600)
def test_the_driver_and_an_actor_are_killed(
    dataset: Path, text_teacher: Path, tmp_path: Path
) -> None:
    alone, root = tmp_path / "alone", tmp_path / "tape"
    command = [sys.executable, "-m", "pipeline", *map(str, arguments(dataset, text_teacher, root))]
    command += ["--cluster", "ray", "--set", "cluster.actors=2"]
    kill_driver_at_work(command, root)
    assert list((root / ".leases").glob("ray-*"))
    log = tmp_path / "log"
    with log.open("wb") as told:
        running = subprocess.Popen(command, stdout=told, stderr=told)
        killed = 0
        until_s = time.monotonic() + 200
        while running.poll() is None:
            assert time.monotonic() < until_s, log.read_text()
            shards = list((root / "shards" / "textual").glob("[0-9]*/*/shard.json"))
            if shards and not killed:
                killed = next(at_work(root), 0)
                if killed:
                    os.kill(killed, signal.SIGKILL)
            time.sleep(0.005)
    said = log.read_text()
    assert running.returncode == 0, said
    assert killed, said
    assert "textual: an actor was lost, another is started (1 of 8)" in said
    assert "textual on 2 actors" in said
    record_alone(arguments(dataset, text_teacher, alone))
    difference = compare(open_tape(root), open_tape(alone), uncounted)
    assert difference.equal, difference
    assert leftovers(root) == []
    assert validate(root, uncounted, deep=True).problems == []
    assert open_tape(root).catalog.index.duplicates == 0


@pytest.mark.timeout(120)
def test_a_refusal_is_named_and_ends_the_run(tmp_path: Path) -> None:
    dataset = save_dataset(tmp_path / "dataset", 2)
    for clip in dataset.parent.glob("clip-*"):
        clip.write_bytes(b"not audio")
    flags = ["--dataset", dataset, "--out", tmp_path / "tape"]
    actors = len(os.sched_getaffinity(0)) + 1
    flags += ["--cluster", "ray", "--set", f"cluster.actors={actors}"]
    done = subprocess.run(
        [sys.executable, "-c", NO_PATIENCE, "ingest", *map(str, flags)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert re.search(rf"actors of {actors} have started; the others wait for room", done.stderr)
    assert "error: ingest: process" in done.stderr
    assert "2 of 2 samples failed, more than the" in done.stderr


def recipe(out: Path, **values: object) -> ExtractRecipe:
    tape, dataset = TapeRecipe(out=str(out)), DatasetRecipe(path="rows.jsonl")
    return ExtractRecipe(dataset=dataset, tape=tape, **values)  # type: ignore[arg-type]


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"needs Ray.*pip install 'teachertape\[cluster\]'"):
        pipeline.cluster.on_ray.run_on_ray(recipe(tmp_path / "tape"), "ingest")
    assert not (tmp_path / "tape").exists()


def test_a_worker_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave out --worker"):
        pipeline.cluster.on_ray.run_on_ray(recipe(tmp_path / "tape", worker="1/2"), "ingest")


def test_a_node_without_the_tape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not begin a tape of its own on its own disk."""
    monkeypatch.chdir(tmp_path)
    mark = str(tmp_path / "tape" / ".leases" / "ray-1")
    ended = StepActor().run("ingest", "", str(tmp_path), mark, debug=False)
    assert isinstance(ended, Outcome)
    assert "is not the same folder" in ended.error
    assert str(tmp_path / "tape") in ended.error
    assert not (tmp_path / "tape").exists()
