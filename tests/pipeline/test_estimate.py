"""``pipeline estimate`` against the tape it foretells, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_stage_one import save_dataset
from typer.testing import CliRunner, Result

from pipeline import estimate as module
from pipeline.cli import app
from pipeline.costs.measure import spread
from pipeline.costs.plan import half_width

ROWS, MEASURED = 24, 12
SETTINGS = (
    "--engine", "transformers", "--text-layers", "all", "--acoustic-layers", "0,1,2",
    "--top-k", "16", "--max-new-tokens", "12",
)  # fmt: skip


@pytest.fixture
def tmpdir_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made; whatever is left there is seen."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def run(*arguments: str | Path) -> Result:
    """Run the command in this process; the steps have their own."""
    return CliRunner().invoke(app, [*map(str, arguments)])


def estimate(*arguments: str | Path) -> dict[str, Any]:
    done = run("estimate", "--json", *arguments)
    assert done.exit_code == 0, done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def shape_of(values: Any) -> Any:
    """Keys of nested mappings; of a list, those of its first element."""
    if isinstance(values, dict):
        return {key: shape_of(value) for key, value in values.items()}
    return [shape_of(values[0])] if isinstance(values, list) and values else None


INTERVAL = dict.fromkeys(("estimate", "low", "high"))
STEP = {
    "samples": None, "start_s": None, "per_sample_s": None, "commit_s": None, "seconds": INTERVAL,
    "host_bytes": None, "gpu_bytes": None, "batch": {"measured": None, "run": None},
}  # fmt: skip


def test_all_steps_against_the_real_tape(
    tmp_path: Path, tmpdir_of_ours: Path, text_teacher: Path, acoustic_teacher: Path
) -> None:
    dataset = save_dataset(tmp_path / "data", ROWS)
    teachers = ("--text-teacher", text_teacher, "--acoustic-teacher", acoustic_teacher)
    flags = ("--dataset", dataset, *teachers, *SETTINGS, "--out", tmp_path / "tape")
    values = estimate("--measure", str(MEASURED), *flags)
    assert not (tmp_path / "tape").exists()
    assert list(tmpdir_of_ours.iterdir()) == []

    started_s = time.monotonic()
    real = run("extract-teachers", *flags)
    real_s = time.monotonic() - started_s
    assert real.exit_code == 0, real.stderr
    weight = sum(map(len, files_of(tmp_path / "tape").values()))
    told = values["bytes"]
    assert told["low"] <= weight <= told["high"]
    # Lengths rise evenly from 0.4 to 3.4 s; a row from each of 12 pairs is off by half a step.
    assert told["estimate"] == pytest.approx(weight, rel=0.05)
    groups = json.loads(run("inspect", tmp_path / "tape", "--json").stdout)["groups"]
    for group, facts in groups.items():
        of_signals = {f"{group}/{name}": fact["bytes"] for name, fact in facts["signals"].items()}
        for name, size in (of_signals or {group: facts["bytes"]}).items():
            parts = [told for key, told in values["signals"].items() if key.startswith(name)]
            estimated = sum(part["bytes"]["estimate"] for part in parts)
            assert estimated == pytest.approx(size, rel=0.08), name
    # Two runs of everything on a shared machine: the order of magnitude is what can be held.
    assert real_s / 3 < values["seconds"]["estimate"] < real_s * 3
    assert values["host_bytes"] > 100 << 20

    again = estimate("--only", "ingest", "--measure", "3", *flags)
    assert again["left"] == {"samples": {"ingest": 0}, "bytes": 0, "seconds": 0}
    other = run("estimate", "--only", "ingest", "--measure", "3", "--audio", "reference", *flags)
    assert (other.exit_code, "was recorded differently" in other.stderr) == (1, True)
    assert list(tmpdir_of_ours.iterdir()) == []

    assert shape_of(values) == {
        "dataset": None,
        "samples": None,
        "worker": None,
        "measured": {"rows": None, "failed": {}, "exact": None},
        "bytes": {**INTERVAL, "per_sample": None, "per_token": None},
        "seconds": INTERVAL,
        "host_bytes": None,
        "gpu_bytes": None,
        "signals": {
            name: {"bytes": INTERVAL, "per_sample": None, "per_token": None}
            for name in (
                "samples/audio", "samples/samples", "index", "descriptions/descriptions",
                "textual/hidden", "textual/topk", "textual/trace", "acoustic/hidden",
                "acoustic/topk",
            )
        },
        "manifest_bytes": None,
        "steps": dict.fromkeys(("ingest", "textualize", "textual", "acoustic"), STEP),
        "projections": [
            {
                **dict.fromkeys(("samples", "bytes", "seconds")),
                "on": [dict.fromkeys(("workers", "seconds", "bytes_per_s"))],
            }
        ],
        "left": None,
        "disk": dict.fromkeys(("out", "free_bytes", "fits")),
        "notes": [None],
    }  # fmt: skip


def test_an_acoustic_teacher_alone_and_one_that_is_only_one_step(
    tmp_path: Path, tmpdir_of_ours: Path, acoustic_teacher: Path
) -> None:
    dataset = save_dataset(tmp_path / "data", 6)
    flags = ("--dataset", dataset, "--acoustic-teacher", acoustic_teacher, "--out", tmp_path / "t")
    values = estimate(*flags, "--only", "acoustic", "--acoustic-layers", "top")
    assert list(values["steps"]) == ["acoustic"]
    assert set(values["signals"]) == {"acoustic/hidden", "acoustic/topk"}
    assert values["measured"]["exact"]
    assert values["bytes"]["low"] == values["bytes"]["estimate"] == values["bytes"]["high"]
    assert values["bytes"]["per_token"] is None
    assert values["signals"]["acoustic/hidden"]["per_token"] > 0


def test_one_row_is_exact(tmp_path: Path, tmpdir_of_ours: Path) -> None:
    dataset = save_dataset(tmp_path / "data", 1)
    flags = ("--dataset", dataset, "--out", tmp_path / "tape")
    values = estimate(*flags, "--workers", "250", "--worker", "auto")
    assert [row["on"][0]["workers"] for row in values["projections"]] == [250, 250]
    assert run("ingest", *flags).exit_code == 0
    real = files_of(tmp_path / "tape")
    # What differs is the length of dates and of numbers written as text.
    assert values["bytes"]["estimate"] == pytest.approx(sum(map(len, real.values())), rel=0.01)


def test_failures_are_counted_and_said(tmp_path: Path, tmpdir_of_ours: Path) -> None:
    dataset = save_dataset(tmp_path / "data", 8)
    for name in ("clip-1.flac", "clip-5.ogg"):
        (dataset.parent / name).write_bytes(b"not audio")
    done = run("estimate", "--dataset", dataset, "--out", tmp_path / "tape")
    assert done.exit_code == 0, done.stderr
    assert "failed: 2 x samples: audio" in done.stdout
    assert "2 of 8 measured rows failed: extract-teachers stops above 1.0%" in done.stdout
    for clip in dataset.parent.glob("clip-*"):
        clip.write_bytes(b"not audio")
    none = run("estimate", "--dataset", dataset, "--out", tmp_path / "tape")
    assert none.exit_code == 1
    assert "none of 8 measured rows succeeded" in none.stderr
    assert "cannot decode" in none.stderr
    assert list(tmpdir_of_ours.iterdir()) == []


def test_a_partly_filled_tape_is_left_as_it_is(tmp_path: Path, tmpdir_of_ours: Path) -> None:
    dataset, tape = save_dataset(tmp_path / "data", 9), tmp_path / "tape"
    assert run("ingest", "--dataset", dataset, "--out", tape, "--limit", "4").exit_code == 0
    before = files_of(tape)
    values = estimate("--dataset", dataset, "--out", tape, "--measure", "4")
    assert values["left"]["samples"] == {"ingest": 5}
    assert 0 < values["left"]["bytes"] < values["bytes"]["estimate"]
    assert files_of(tape) == before
    limited = estimate("--dataset", dataset, "--out", tape, "--limit", "6", "--worker", "1/2")
    assert (limited["samples"], limited["left"]["samples"]) == (3, {"ingest": 1})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_stays_when_stopped(
    tmp_path: Path, tmpdir_of_ours: Path, number: signal.Signals
) -> None:
    dataset = save_dataset(tmp_path / "data", 4)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "estimate", "--dataset", dataset, "--out", "tape"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # a shell that runs the tests in the background has it ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    assert "measuring 4 rows" in process.stderr.readline()
    time.sleep(0.3)  # the step is loading
    assert len(list(tmpdir_of_ours.iterdir())) == 1
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(tmpdir_of_ours.iterdir()) == []
    assert not (tmp_path / "tape").exists()


def test_mistakes_are_named_before_anything_is_measured(tmp_path: Path) -> None:
    dataset = save_dataset(tmp_path / "data", 2)
    for more, status, message in (
        (["--only", "acustic"], 2, "did you mean 'acoustic'"),
        (["--only", "textual"], 2, "step textual needs --text-teacher"),
        (["--worker", "5/9"], 2, "fewer rows than workers"),
        (["--workers", "0"], 2, "--workers"),
        (["--text-teacher", "./nowhere"], 1, "'./nowhere' does not exist"),
        (["--measure", "0"], 2, "--measure"),
    ):
        done = run("estimate", "--dataset", dataset, "--out", tmp_path / "t", *more)
        assert (done.exit_code, message in done.stderr) == (status, True), done.stderr
        assert "measuring" not in done.stderr
    refused = run("estimate", "--dataset", dataset, "--out", dataset.parent)
    assert (refused.exit_code, "not a tape" in refused.stderr) == (1, True)


def test_help_shows_every_flag_and_an_example() -> None:
    text = run("estimate", "--help").stdout
    plain = run("extract-teachers", "--help").stdout
    assert "Example: pipeline estimate" in text
    assert set(re.findall(r"--[a-z-]+", plain)) <= set(re.findall(r"--[a-z-]+", text))
    assert {"--measure", "--json"} <= set(re.findall(r"--[a-z-]+", text))


def test_one_row_of_each_stretch() -> None:
    rows = range(3, 963, 10)
    chosen = spread(rows, 8, seed=0)
    assert [rows.index(row) // 12 for row in chosen] == list(range(8))
    assert chosen == spread(rows, 8, seed=0) != spread(rows, 8, seed=1)
    assert spread(rows, 96, seed=0) == list(rows) == spread(rows, 999, seed=0)
    far = spread(range(10**8), 16, seed=0)
    assert len({row % 4 for row in far}) > 1, "no pattern in the dataset is fallen into step with"


@pytest.mark.parametrize("count", [3, 8, 32])
def test_the_interval_holds_the_truth_as_often_as_it_says(count: int) -> None:
    draw = np.random.default_rng(count)
    population = draw.normal(10, 3, 100)
    holds = []
    for _ in range(2000):
        some = draw.choice(population, count, replace=False)
        half = half_width(some, len(population))
        assert half is not None
        holds.append(abs(some.mean() - population.mean()) <= half)
    # 95 %, give or take the error of 2000 trials and of the approximate quantile at two degrees.
    assert np.mean(holds) == pytest.approx(0.95, abs=0.025)
    assert half_width(population, len(population)) == 0
    assert half_width(population[:1], len(population)) is None


def test_what_does_not_fit_is_said_first(
    tmp_path: Path, tmpdir_of_ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also here: memory of a GPU, of which a stand-in for nvidia-smi tells."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "nvidia-smi").write_text(
        "#!/bin/sh\n"
        f"n=$(cat {tmp_path}/n 2>/dev/null || echo 0); echo $((n + 1)) > {tmp_path}/n\n"
        "if [ $n = 0 ]; then echo 100; elif [ $n = 2 ]; then echo 5100; else echo 2100; fi\n"
        "echo 700\n"
    )
    (tools / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    dataset = save_dataset(tmp_path / "data", 5)
    done = run("estimate", "--dataset", dataset, "--out", tmp_path / "deep" / "tape")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("DOES NOT FIT: ")
    assert "only 1000 B free at" in done.stdout.splitlines()[0]
    assert "4.9 GiB" in done.stdout, "5100 - 100 MiB at most"
    assert "1,000,000 samples like these" in done.stdout
    assert not (tmp_path / "deep").exists()
