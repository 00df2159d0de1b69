"""A disk that is really full: a few megabytes of memory, mounted where only one process sees them.

At every level of free space the writer stops with an ``OutputError`` that says what to do; after
room is made the same run continues and the tape equals one that was never interrupted.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forks import Forks
from whole_tape import PROFILES, content, fast_folder, fill, leftovers, make

from cache_schema import open_tape
from cache_schema.errors import OutputError

PAGE = 4096
LEVELS = {"bytes": 14, "files": 8}
COUNT = 5
MOUNTED = ["unshare", "--mount", "--map-root-user", "sh", "-c"]


def run_out(root: Path, profile: str, whole: dict[str, Any]) -> str:
    """Fill a tape on a disk without room; what got there must be right. Return what stopped it."""
    stopped = ""
    try:
        fill(root, profile, indexes=range(COUNT))
    except OutputError as error:
        stopped = str(error)
        assert "run the same command again" in stopped
    if (root / "dataset.json").exists():
        for name, row in content(root)["rows"].items():
            for key, value in row.items():
                assert value in (whole["rows"][name][key], None, []), (name, key)
    return stopped


def finish(root: Path, profile: str, whole: dict[str, Any]) -> None:
    """Continue with room; the tape must be whole."""
    fill(root, profile, indexes=range(COUNT))
    assert content(root) == whole
    assert leftovers(root) == []
    assert open_tape(root).catalog.index.duplicates == 0
    assert not open_tape(root).catalog.has_new_lines


def on_small_disk(disk: str, elsewhere: str) -> dict[str, list[str]]:
    """Run out of bytes, then of files, at many levels; return what stopped each run."""
    stops: dict[str, list[str]] = {}
    for profile in PROFILES:
        whole = content(make(Path(elsewhere) / profile, profile, indexes=range(COUNT)))
        for kind in ("bytes", "files"):
            root = Path(disk) / "tape"
            make(root, profile, indexes=range(COUNT))
            used = sum(path.stat().st_blocks * 512 for path in root.rglob("*") if path.is_file())
            most = used // PAGE if kind == "bytes" else len(list(root.rglob("*"))) + 1
            _remove(root)
            levels = LEVELS[kind] if profile == PROFILES[0] else LEVELS[kind] // 2
            for level in sorted({most * step // levels for step in range(levels)}):
                _fill_disk(Path(disk), kind, level)
                stopped = run_out(root, profile, whole)
                stops.setdefault(f"{profile} {kind}", []).append(stopped)
                _remove(Path(disk) / "ballast")
                finish(root, profile, whole)
                _remove(root)
    return stops


def _fill_disk(disk: Path, kind: str, level: int) -> None:
    """Leave room for ``level`` pages, or for ``level`` files and folders."""
    ballast = disk / "ballast"
    ballast.mkdir()
    status = os.statvfs(disk)
    if kind == "bytes":
        (ballast / "bytes").write_bytes(bytes((status.f_bavail - level) * status.f_frsize))
        return
    for number in range(status.f_favail - level):
        (ballast / str(number)).touch()


def _remove(path: Path) -> None:
    gc.collect()  # what is still mapped is still on the disk
    shutil.rmtree(path)


def test_full_at_every_level(tmp_path: Path) -> None:
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=4m,nr_inodes=900 tmpfs {disk}"
    refused = subprocess.run([*MOUNTED, mount], check=False, capture_output=True, text=True)
    if refused.returncode:
        pytest.skip(f"no private mounts on this machine: {refused.stderr.strip()}")
    ran = f"import json, test_full_disk as t; t.main({str(disk)!r}, {str(elsewhere)!r})"
    done = subprocess.run(
        [*MOUNTED, f'{mount} && exec "$0" -c "$1"', sys.executable, ran],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    stops = json.loads(done.stdout.splitlines()[-1])
    assert len(stops) == 2 * len(PROFILES)
    for kind, messages in stops.items():
        assert sum("is full" in message for message in messages) >= len(messages) // 2, (
            kind,
            messages,
        )


def main(disk: str, elsewhere: str) -> None:
    """What runs where the small disk is."""
    json.dump(on_small_disk(disk, elsewhere), sys.stdout)


def limited(root: str, profile: str, limit: int) -> str:
    """Fill a tape where no file may exceed ``limit`` bytes; return what stopped it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        fill(Path(root), profile, indexes=range(COUNT))
    except OutputError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    return ""


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks("whole_tape", "pandas") as made:
        yield made


@pytest.mark.parametrize("profile", PROFILES)
def test_files_that_may_not_grow(profile: str, forks: Forks) -> None:
    with fast_folder() as folder:
        whole = content(make(folder / "whole", profile, indexes=range(COUNT)))
        stops = []
        for limit in (50, 200, 900, 1500, 2500, 4000, 6000, 9000):
            root = folder / str(limit)
            ended = forks.run("test_full_disk:limited", str(root), profile, limit)
            assert ended.status == 0, ended.trace
            stops.append(ended.value)
            finish(root, profile, whole)
        assert sum("ulimit -f" in stop for stop in stops) >= 4, stops
