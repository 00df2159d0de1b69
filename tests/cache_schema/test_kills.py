"""A writer that dies, without cleaning up, at a line of its code: the same run continues.

Every line of the functions that commit, index and recover is tried once, and lines spread over
everything else, for every profile.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from forks import Forks
from whole_tape import GROUPS as MAKERS
from whole_tape import PROFILES, add, content, fast_folder, fill, leftovers, make

import cache_schema
from cache_schema import open_tape
from cache_schema.manifest import records_of
from cache_schema.writer import TapeWriter

COUNT = 3
SPREAD = 14
DIED = 9
PACKAGE = str(Path(cache_schema.__file__).parent)
DECISIVE = {
    "writer.py": ("_commit", "open", "seal", "complete_index", "current"),
    "build.py": ("update_index", "_replace_index"),
    "takeover.py": ("lock", "recover"),
    "manifest.py": ("append_line", "drop_cut_line"),
    "files.py": ("write_exclusive", "write_atomic", "make_dirs", "sweep", "close", "write_hashed"),
}
"""Files and functions whose every line is a place to die at."""


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks("whole_tape", "test_kills", "pandas", "numcodecs.blosc") as made:
        yield made


def write(root: str, profile: str, fatal: int, place: tuple[str, int] | None) -> dict[str, Any]:
    """Record everything; die at the fatal-th line run, of a place or of the whole package.

    Returns:
        How many lines were run, and how often each line of the decisive functions was.
    """
    lines, places = 0, dict[str, int]()

    def tracer(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            file = os.path.basename(code.co_filename)  # noqa: PTH119 - of a name, and often
            if code.co_name in DECISIVE.get(file, ()):
                key = f"{file}:{frame.f_lineno}"
                places[key] = places.get(key, 0) + 1
                if place and key == place[0] and places[key] == place[1]:
                    os._exit(DIED)
            lines += 1
            if lines == fatal:
                os._exit(DIED)
        return tracer

    sys.settrace(tracer)
    fill(Path(root), profile, indexes=range(COUNT))
    sys.settrace(None)
    return {"lines": lines, "places": places}


def assert_sound(root: Path) -> None:
    """What is committed is whole and once."""
    if (root / "dataset.json").exists():
        tape = open_tape(root)
        content(root)
        assert tape.catalog.index.duplicates == 0
        for group, shards in tape.shards.items():
            assert len(tape.recorded(group)) == sum(shard.record.samples for shard in shards)


def kill_and_continue(
    forks: Forks, root: Path, profile: str, fatal: int, place: tuple[str, int] | None
) -> None:
    """Die, look, continue; the tape must be one that was never interrupted."""
    died = forks.run("test_kills:write", str(root), profile, fatal, place)
    assert died.status == DIED, died.trace
    assert_sound(root)
    inodes = {}
    if (root / "dataset.json").exists():
        shards = [shard for many in open_tape(root).shards.values() for shard in many]
        files = [root / shard.record.path / "shard.json" for shard in shards]
        inodes = {file: file.stat().st_ino for file in files}
    fill(root, profile, indexes=range(COUNT))
    for file, inode in inodes.items():
        assert file.stat().st_ino == inode, "a committed shard was written again"
    assert leftovers(root) == []
    assert not open_tape(root).catalog.has_new_lines


@pytest.mark.parametrize("profile", PROFILES)
def test_killed_anywhere(forks: Forks, profile: str) -> None:
    rng = Random(profile)
    with fast_folder() as folder:
        done = forks.run("test_kills:write", str(folder / "whole"), profile, 0, None)
        assert done.status == 0, done.trace
        whole, total = content(folder / "whole"), done.value["lines"]
        for number in range(SPREAD):
            root = folder / str(number)
            low, high = total * number // SPREAD, total * (number + 1) // SPREAD
            kill_and_continue(forks, root, profile, rng.randint(low + 1, high), None)
            assert content(root) == whole
            assert open_tape(root).catalog.index.duplicates == 0


def test_killed_at_every_decisive_line(forks: Forks) -> None:
    rng = Random(0)
    with fast_folder() as folder:
        done = forks.run("test_kills:write", str(folder / "whole"), "hot", 0, None)
        assert done.status == 0, done.trace
        whole, places = content(folder / "whole"), done.value["places"]
        assert {name.partition(":")[0] for name in places} == DECISIVE.keys()
        assert len(places) > 60
        for number, (place, times) in enumerate(sorted(places.items())):
            root = folder / str(number)
            kill_and_continue(forks, root, "hot", 0, (place, rng.randint(1, times)))
            assert content(root) == whole, place


def test_manifest_line_cut_by_a_crash_is_no_line(tmp_path: Path) -> None:
    root = make(tmp_path / "tape")
    whole = content(root)
    manifest = root / "manifest" / "w0.jsonl"
    with manifest.open("ab") as file:
        file.write(b'{"type": "shard", "gro')
    assert content(root) == whole
    with TapeWriter(root, MAKERS["samples"]) as writer:
        add(writer, "samples", 9)
    assert "s9" in open_tape(root)
    assert records_of(manifest.read_bytes(), "manifest")
    assert manifest.read_bytes().endswith(b"\n")
