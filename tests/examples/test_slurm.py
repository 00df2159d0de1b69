"""The job scripts, run by bash with the variables that Slurm would set."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import ray.scripts.scripts
import typer
from tiny_stage_one import save_dataset
from typer.testing import CliRunner

from cache_schema import open_tape
from cache_schema.compare.tapes import compare
from pipeline.cli import app

SCRIPTS = Path(__file__).parents[2] / "examples" / "slurm"


def uncounted(title: str, total: int) -> nullcontext[Callable[[int], None]]:
    return nullcontext(lambda _: None)


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """The command ``pipeline`` of this installation."""
    file = tmp_path / "pipeline"
    file.write_text(f'#!/bin/sh\nexec {sys.executable} -m pipeline "$@"\n')
    file.chmod(0o755)
    return file


def submit(
    script: str, stub: Path, flags: list[str], **slurm: str
) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "WORKER"))}
    environment = {**inherited, "PIPELINE": str(stub), "SLURM_CPUS_PER_TASK": "1", **slurm}
    command = ["bash", str(SCRIPTS / script), *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def flags_of(dataset: Path, out: Path) -> list[str]:
    return ["--dataset", str(dataset), "--out", str(out), "--set", "tape.shard_samples=2"]


def test_an_array_and_leases_make_the_tape_of_one_worker(tmp_path: Path, stub: Path) -> None:
    dataset = save_dataset(tmp_path / "dataset", 4)
    alone, array, leased = (tmp_path / name for name in ("alone", "array", "leased"))
    assert CliRunner().invoke(app, ["ingest", *flags_of(dataset, alone)]).exit_code == 0
    for task in ("0", "1"):
        numbers = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2"}
        flags = [*flags_of(dataset, array), "--only", "ingest"]
        done = submit("array.sbatch", stub, flags, **numbers)
        assert done.returncode == 0, done.stderr
    done = submit("leases.sbatch", stub, [*flags_of(dataset, leased), "--only", "ingest"])
    assert done.returncode == 0, done.stderr
    for tape in (array, leased):
        assert compare(open_tape(tape), open_tape(alone), uncounted).equal
    assert sorted(path.stem for path in (array / "manifest").glob("*.jsonl")) == ["w0of2", "w1of2"]


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """Says what it was asked for."""
    file = tmp_path / "echo"
    file.write_text('#!/bin/sh\necho "$@"\n')
    file.chmod(0o755)
    return file


def test_a_task_that_is_submitted_again_keeps_its_share(echo: Path) -> None:
    again = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "1"}
    done = submit("array.sbatch", echo, ["--out", "a b"], WORKERS="32", **again)
    assert done.stdout.split() == ["extract-teachers", "--out", "a", "b", "--worker", "7/32"]
    done = submit("array.sbatch", echo, [], WORKER="auto", **again)
    assert done.stdout.split()[-1] == "auto"


def test_a_job_that_is_no_array_is_refused(echo: Path) -> None:
    done = submit("array.sbatch", echo, [])
    assert done.returncode != 0
    assert "sbatch --array=0-N" in done.stderr


def test_a_ray_cluster_of_the_nodes_of_a_job(tmp_path: Path, echo: Path) -> None:
    """With stand-ins for Slurm's and Ray's commands, which say how they were called."""
    log = tmp_path / "log"
    hosts = "case $1 in show) printf 'n1\\nn2\\nn3\\n';; esac"
    for name, line in (("srun", f'echo "$@" >> {log}'), ("scontrol", hosts)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    slurm = {"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_JOB_NUM_NODES": "3", "RAY_PAUSE_S": "0.2"}
    done = submit("ray.sbatch", echo, ["--out", "x"], PATH=path, **slurm)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["extract-teachers", "--out", "x", "--cluster", "ray"]
    head, others = log.read_text().splitlines()
    assert "-w n1 ray start --head --port 6379" in head
    assert "--nodes=2 --overlap --exclude n1 ray start --address n1:6379" in others


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.iterdir()))
def test_flags_are_real_ones(script: str) -> None:
    """Those that a script gives, and those of the examples in its comments."""
    checked = subprocess.run(["bash", "-n", str(SCRIPTS / script)], capture_output=True, check=True)
    assert checked.stderr == b""
    text = (SCRIPTS / script).read_text().replace("\\\n#", "")
    ours = re.findall(r"\.sbatch +(--.*)|extract-teachers (.*)", text)
    used = set(re.findall(r"--[a-z-]+", " ".join(map(" ".join, ours))))
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert used
    assert used <= {name for each in commands["extract-teachers"].params for name in each.opts}
    starts = set(re.findall(r"--[a-z-]+", " ".join(re.findall(r"ray start (.*)", text))))
    assert starts <= {name for each in ray.scripts.scripts.start.params for name in each.opts}
    assert bool(starts) == (script == "ray.sbatch")
