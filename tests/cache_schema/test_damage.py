"""Damage of any byte of any file of a tape is refused by name when it is read, and told by verify.

Reading means opening the tape and reading every value of every row, as training does. It gives the
right values or a ``TeachertapeError``: no other exception, no wrong number, no hang.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any

import pytest
from whole_tape import PROFILES, content, fast_folder, make

from cache_schema.errors import TeachertapeError
from cache_schema.validate.findings import Findings
from cache_schema.validate.tape import validate

MASKS = (0x01, 0x80, 0xFF, 0x20)
NEVER_READ = ("shard.json", "hidden.zarr/zarr.json")
"""Files whose damage does not hinder reading; verify tells it."""

CHANGED_BY_PROFILE = ("hidden.zarr", "topk", "index/", "w0.jsonl")
FLIPS_A_FILE = 14
CUTS_A_FILE = 5
VERIFIED_EVERY = 12


@pytest.fixture(scope="module", params=PROFILES)
def whole(request: pytest.FixtureRequest) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """A tape, and what is on it; every test leaves it as it was."""
    with fast_folder() as folder:
        root = make(folder / "tape", request.param, indexes=range(2), shard_samples=8)
        yield request.param, root, content(root)


def files_of(profile: str, root: Path) -> list[Path]:
    """The files of a tape; of other profiles those that differ from the first one's."""
    found = sorted(path for path in root.rglob("*") if path.is_file() and "lock" not in path.name)
    if profile == PROFILES[0]:
        return found
    return [path for path in found if any(part in str(path) for part in CHANGED_BY_PROFILE)]


def outcome(root: Path, expected: dict[str, Any]) -> str:
    """Read everything; any exception that is not ours fails the test."""
    try:
        found = content(root)
    except TeachertapeError:
        return "refused"
    return "same" if found == expected else "WRONG"


def problems(root: Path) -> int:
    """How many problems verify finds."""
    findings: Findings = validate(root, lambda *_: nullcontext(lambda _: None))
    return len(findings.problems)


def places(size: int, count: int, rng: Random) -> list[int]:
    """Every place of a small file; both ends and a sample of a large one."""
    if size <= count:
        return list(range(size))
    ends = {*range(count // 5), *range(size - count // 5, size)}
    return sorted(ends | {rng.randrange(size) for _ in range(count - len(ends))})


def test_flipped_bytes(whole: tuple[str, Path, dict[str, Any]]) -> None:
    profile, root, expected = whole
    rng = Random(profile)
    outcomes: Counter[tuple[str, str]] = Counter()
    for path in files_of(profile, root):
        name = str(path.relative_to(root))
        before = path.read_bytes()
        many = 5 * FLIPS_A_FILE if path.suffix in (".json", ".jsonl") else FLIPS_A_FILE
        for place in places(len(before), many, rng):
            damaged = bytearray(before)
            damaged[place] ^= rng.choice(MASKS)
            path.write_bytes(damaged)
            got = outcome(root, expected)
            outcomes[name, got] += 1
            assert got == "refused" or (got == "same" and name.endswith(NEVER_READ)), (name, place)
            if outcomes[name, got] % VERIFIED_EVERY == 1:
                assert problems(root), (name, place)
        path.write_bytes(before)
    assert outcomes.total() > 500
    assert outcome(root, expected) == "same"
    assert problems(root) == 0


def test_cut_and_missing_files(whole: tuple[str, Path, dict[str, Any]]) -> None:
    profile, root, expected = whole
    rng = Random(profile)
    for path in files_of(profile, root):
        name = str(path.relative_to(root))
        before = path.read_bytes()
        for size in {0, 1, len(before) // 2, *places(len(before), CUTS_A_FILE, rng)}:
            path.write_bytes(before[:size])
            got = outcome(root, expected)
            unread = got == "same" and name.endswith(NEVER_READ)
            assert got == "refused" or unread or size == len(before), (name, size)
        assert problems(root), name
        path.write_bytes(before + b"\0")
        got = outcome(root, expected)
        assert got == "refused" or (got == "same" and name.endswith((*NEVER_READ, ".jsonl"))), name
        assert problems(root), name
        path.unlink()
        got = outcome(root, expected)
        without_index = name.startswith("index/")
        unread = name.endswith(NEVER_READ) or without_index
        assert got == ("same" if unread else "refused"), name
        assert without_index or problems(root), name
        path.write_bytes(before)
    assert outcome(root, expected) == "same"


def test_missing_folders(whole: tuple[str, Path, dict[str, Any]]) -> None:
    _, root, expected = whole
    for folder in [path for path in sorted(root.rglob("*")) if path.is_dir()]:
        aside = root.parent / "aside"
        folder.rename(aside)
        got = outcome(root, expected)
        assert got == ("same" if folder.name == "index" else "refused"), folder
        assert folder.name == "index" or problems(root), folder
        shutil.move(aside, folder)
    assert outcome(root, expected) == "same"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("dataset.json", b"unspecified", b"cc-by-nc-40"),
        ("groups/textual.json", b'"model_digest": "m"', b'"model_digest": "n"'),
        ("groups/samples.json", b"a test", b"a jest"),
        ("manifest/w0.jsonl", b"cannot decode", b"cannot decide"),
        ("manifest/w0.jsonl", b'"sample_id": "q0"', b'"sample_id": "q1"'),
        ("manifest/w0.jsonl", b'"row_index": 1000', b'"row_index": 1001'),
        ("manifest/w0.jsonl", b'"group": "textual"', b'"group": "sextual"'),
    ],
)
def test_changed_meaning(
    whole: tuple[str, Path, dict[str, Any]], file: str, old: bytes, new: bytes
) -> None:
    """One plausible word for another: everything but the seal still fits."""
    _, root, expected = whole
    path = root / file
    before = path.read_bytes()
    assert old in before
    path.write_bytes(before.replace(old, new))
    got, told = outcome(root, expected), problems(root)
    path.write_bytes(before)
    assert got == "refused"
    assert told
