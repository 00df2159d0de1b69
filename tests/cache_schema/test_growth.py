"""A tape that grows while it is read: whole shards, right values, in any number of processes."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forks import Forks
from whole_tape import GROUPS as MAKERS
from whole_tape import add, content, everything, fast_folder, fill, leftovers, make

from cache_schema import open_tape
from cache_schema.errors import TapeError
from cache_schema.files import TapeFiles
from cache_schema.index.build import is_tidy
from cache_schema.takeover import check_output
from cache_schema.writer import TapeWriter, complete_index

GROUPS = ("samples", "descriptions", "textual")
COUNT = 32
SHARD_SAMPLES = 2
STEP = 4
"""Samples between two closings of the writer, each of which replaces the index."""

PATIENCE_S = 10.0
"""How long a writer waits for a reader."""


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks("whole_tape", "test_growth", "pandas") as made:
        made.run("test_growth:nothing")
        yield made


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with fast_folder() as found:
        make(found / "whole", groups=GROUPS, indexes=range(COUNT))
        yield found


def nothing() -> None:
    """Be called."""


def grow(root: str, writer: str, first: int, stride: int) -> int:
    """Write every ``stride``-th sample from ``first``, closing the writer again and again.

    After each closing somebody reads all there is: on busy cores a writer would else be done first.
    """
    mine = range(first, COUNT, stride)
    for start in range(0, len(mine), STEP):
        fill(Path(root), groups=GROUPS, indexes=mine[start : start + STEP], writer=writer)
        before, until_s = looks(root), time.monotonic() + PATIENCE_S
        while looks(root) == before and time.monotonic() < until_s:
            time.sleep(0.005)
    return len(mine)


def looks(root: str) -> int:
    """How often readers have read all of the tape."""
    seen = Path(f"{root}.looks")
    return seen.stat().st_size if seen.exists() else 0


def watch(root: str, whole: str, enough: int) -> tuple[int, list[int]]:
    """Open the tape and read all of it until it holds enough; return how often, and its sizes."""
    expected = content(Path(whole))["rows"]
    opened, sizes, known = 0, [0], set[str]()
    while sizes[-1] < enough:
        if not (Path(root) / "dataset.json").exists():
            continue
        opened += 1
        tape = open_tape(root)
        assert known <= set(tape.sample_ids), "a sample is gone"
        known = set(tape.sample_ids)
        assert tape.catalog.index.duplicates == 0
        for shards in tape.shards.values():
            assert all(shard.record.samples == SHARD_SAMPLES for shard in shards)
        for group in tape.groups:
            assert len(tape.recorded(group)) == SHARD_SAMPLES * len(tape.shards[group])
        for name, row in everything(tape)["rows"].items():
            for key, value in row.items():
                assert value in (expected[name][key], None, []), (name, key)
        sizes.append(sum(len(tape.recorded(group)) for group in GROUPS))
        assert sizes[-1] >= sizes[-2]
        with Path(f"{root}.looks").open("ab") as seen:
            seen.write(b".")
    return opened, sizes


@pytest.mark.parametrize("num_writers", [1, 2, 4])
def test_readers_while_it_grows(forks: Forks, folder: Path, num_writers: int) -> None:
    root = str(folder / f"grown-{num_writers}")
    arguments = (root, str(folder / "whole"), COUNT * len(GROUPS))
    readers = [forks.start("test_growth:watch", *arguments) for _ in range(2)]
    writers = [
        forks.start("test_growth:grow", root, f"w{number}", number, num_writers)
        for number in range(num_writers)
    ]
    for child in writers:
        ended = forks.wait(child)
        assert ended.status == 0, ended.trace
    seen: set[int] = set()
    for child in readers:
        ended = forks.wait(child, timeout_s=60)
        assert ended.status == 0, ended.trace
        seen |= set(ended.value[1])
    assert len(seen) > 3, "the readers saw no growth"
    tape = open_tape(root)
    assert not tape.catalog.has_new_lines, "the last writer to close left an index that lacks lines"
    assert is_tidy(Path(root))
    assert leftovers(Path(root)) == []
    assert content(root)["rows"] == content(folder / "whole")["rows"]
    assert len(tape.quarantined) == 1


@pytest.mark.parametrize("moment", range(9))
def test_a_writer_acts_while_the_tape_is_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Between any two looks of the reader, shards, a group and an index are added."""
    root = make(folder / f"moment-{moment}", groups=("samples",), indexes=range(4))
    looks = 0

    def watched(look: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal looks
            looks += 1
            if looks == moment + 1:
                fill(root, groups=GROUPS, indexes=range(8))
            found = look(*arguments, **named)
            return iter(list(found)) if look.__name__ == "names" else found

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("exists", "names", "read", "content", "size", "local"):
            patch.setattr(TapeFiles, name, watched(getattr(TapeFiles, name)))
        tape = open_tape(root)
    assert looks > moment, "the writer never acted"
    assert len(tape) in (4, 8)
    expected = content(folder / "whole")["rows"]
    for name, row in everything(tape)["rows"].items():
        for key, value in row.items():
            assert value in (expected[name][key], None, []), (name, key)


def test_the_last_index_covers_everyone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer waits for its turn while another commits and closes."""
    root = make(folder / "turns", groups=("samples",), indexes=range(4))
    real, waited = fcntl.flock, []

    def flock(file: Any, how: int) -> None:
        if file.name.endswith("index/lock") and not waited:
            waited.append(file)
            fill(root, groups=("samples",), indexes=range(6, 8), writer="w1")
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with TapeWriter(root, MAKERS["samples"]) as writer:
        add(writer, "samples", 4)
        add(writer, "samples", 5)
    assert waited
    assert not open_tape(root).catalog.has_new_lines
    assert len(open_tape(root)) == 8


def test_one_name_one_writer(tmp_path: Path) -> None:
    """Before the tape exists, and after; another name is another writer."""
    root = tmp_path / "tape"
    with TapeWriter(root, MAKERS["samples"]) as first:
        add(first, "samples", 0)
        second = TapeWriter(root, MAKERS["samples"])
        with pytest.raises(TapeError, match="another process"):
            add(second, "samples", 1)
        with pytest.raises(TapeError, match="another process"), TapeWriter(root, MAKERS["samples"]):
            pass
        with TapeWriter(root, MAKERS["samples"], writer="w1") as other:
            add(other, "samples", 1)
    assert open_tape(root).sample_ids == ("s0", "s1")
    with TapeWriter(root, MAKERS["samples"]) as again:
        add(again, "samples", 2)
    assert open_tape(root).sample_ids == ("s0", "s1", "s2")
    assert leftovers(root) == []


def values(root: Path) -> dict[str, Any]:
    return content(root)["rows"]


def test_an_older_index_is_completed(folder: Path) -> None:
    root = make(folder / "older", groups=GROUPS, indexes=range(4))
    early = folder / "early"
    shutil.copytree(root / "index", early)
    fill(root, groups=GROUPS, indexes=range(4, COUNT))
    complete = next((root / "index").glob("*.arrow")).read_bytes()
    shutil.rmtree(root / "index")
    shutil.copytree(early, root / "index")
    tape = open_tape(root)
    assert tape.catalog.has_new_lines
    assert values(root) == values(folder / "whole")
    complete_index(root)
    assert not open_tape(root).catalog.has_new_lines
    assert values(root) == values(folder / "whole")
    assert len(next((root / "index").glob("*.arrow")).read_bytes()) == len(complete)


def test_no_index_is_needed(folder: Path) -> None:
    root = make(folder / "unindexed", groups=GROUPS, indexes=range(COUNT))
    before = open_tape(root)
    shutil.rmtree(root / "index")
    after = open_tape(root)
    assert after.catalog.has_new_lines
    assert after.sample_ids == before.sample_ids
    assert values(root) == values(folder / "whole")
    complete_index(root)
    assert leftovers(root) == []


def test_a_writer_may_cut_what_a_reader_looks_at(tmp_path: Path) -> None:
    """A cut last line of several pages is removed by recovery; a mapping of it would kill."""
    root = make(tmp_path / "tape", groups=("samples",), indexes=range(2))
    manifest = root / "manifest/w0.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole + b"x" * 20_000)
    looked_at = TapeFiles(str(root)).content("manifest/w0.jsonl")
    os.truncate(manifest, len(whole))
    assert isinstance(looked_at, bytes)
    assert looked_at == whole + b"x" * 20_000


def test_a_tape_made_between_two_looks_is_a_tape(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer makes it after the file was missed and before the folder is listed."""
    root = folder / "between"
    root.mkdir()
    listed, made = Path.iterdir, []

    def made_meanwhile(self: Path) -> Iterator[Path]:
        if self == root and not made:
            made.append(root)
            fill(root, groups=GROUPS, indexes=range(2))
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", made_meanwhile)
    assert check_output(root)
