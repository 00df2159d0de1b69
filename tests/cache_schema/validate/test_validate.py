"""Verification: every kind of damage is named where it is, and no problem hides another."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sound_tape
from damaged import ACOUSTIC, SAMPLES, TEXTUAL, check, flip, told
from sound_tape import MAKERS, edit_line, edit_table, make, uncounted

from cache_schema import open_tape
from cache_schema.codecs.sealed_json import seal
from cache_schema.errors import TapeError, UsageError
from cache_schema.index.build import update_index
from cache_schema.validate import findings as findings_module
from cache_schema.validate.tape import validate
from cache_schema.writer import TapeWriter

DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    (f"{TEXTUAL}/trace.arrow", flip, "checksum"),
    (f"{TEXTUAL}/hidden.zarr/L003/c/0/0", flip, "checksum"),
    (f"{TEXTUAL}/topk.arrow", lambda f: f.write_bytes(f.read_bytes()[:-8]), "size"),
    (f"{SAMPLES}/audio.arrow", Path.unlink, "missing"),
    (f"{SAMPLES}/shard.json", flip, "shard.json"),
    (f"{SAMPLES}/shard.json", Path.unlink, "missing"),
    (f"{SAMPLES}/extra.arrow", Path.touch, "unnamed"),
    ("notes.txt", Path.touch, "unnamed"),
    ("dataset.json", flip, "dataset.json"),
    ("dataset.json", Path.unlink, "dataset.json"),
    ("groups/textual.json", flip, "group file"),
    ("groups/strange.json", lambda f: f.write_text("{}"), "group file"),
]


@pytest.mark.parametrize(("name", "damage", "kind"), DAMAGE, ids=map(str, itertools.count()))
def test_damage_is_named(
    root: Path, name: str, damage: Callable[[Path], object], kind: str
) -> None:
    damage(root / name)
    assert (name, kind) in told(root, deep=False)
    assert (name, kind) in told(root, deep=True)


def test_no_problem_hides_another(root: Path) -> None:
    for name, damage, _ in DAMAGE:
        if (root / name).exists() or damage is Path.touch:
            damage(root / name)
    flip(root / f"{ACOUSTIC}/hidden.arrow")
    edit_table(root, f"{TEXTUAL[:-1]}1", "trace", lambda rows: rows[0].update(token_ids=[-5]))
    found = told(root)
    assert {
        (f"{TEXTUAL}/trace.arrow", "checksum"),
        (f"{TEXTUAL}/topk.arrow", "size"),
        (f"{SAMPLES}/audio.arrow", "missing"),
        (f"{ACOUSTIC}/hidden.arrow", "checksum"),
        (f"{TEXTUAL[:-1]}1/trace.arrow row 0", "row"),
        ("groups/textual.json", "group file"),
        ("notes.txt", "unnamed"),
        ("dataset.json", "dataset.json"),
        (".", "not opened"),
    } <= found


def test_what_is_told_is_the_same_every_time(root: Path) -> None:
    for name, damage, _ in DAMAGE[:4]:
        damage(root / name)
    assert check(root).problems == check(root).problems


def test_few_are_told_and_all_counted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings_module, "MAX_DETAILED", 3)
    for number in range(10):
        (root / f"stray-{number}").touch()
    found = check(root, deep=False)
    assert [problem.location for problem in found.problems] == ["stray-0", "stray-1", "stray-2"]
    assert found.count == 10


def test_damaged_manifest_lines_are_told_one_by_one(root: Path) -> None:
    manifest = root / "manifest/w0.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    damaged = [lines[0].replace(b'"samples"', b'"sampler"', 1), *lines[1:3]]
    damaged.append(lines[3][:50] + b"\n")
    manifest.write_bytes(b"".join([*damaged, *lines[4:]]))
    found = told(root)
    at = len(b"".join(lines[:3]))
    assert ("manifest/w0.jsonl at byte 0", "manifest line") in found
    assert (f"manifest/w0.jsonl at byte {at}", "manifest line") in found
    assert (SAMPLES, "orphan") in found
    assert (".", "not opened") in found
    assert not {kind for _, kind in found} & {"no sample", "no trace", "no row"}


def test_a_line_of_another_shard_or_writer_is_told(root: Path) -> None:
    manifest = root / "manifest/w0.jsonl"
    first = manifest.read_bytes().splitlines(keepends=True)[0]
    (root / "manifest/w9.jsonl").write_bytes(first)
    found = told(root)
    assert ("manifest/w9.jsonl at byte 0", "named twice") in found
    assert (f"{SAMPLES}/samples.arrow", "twice") in found
    shutil.copytree(root / SAMPLES, root / "shards/samples/000/w8-000000")
    edit_line(root, SAMPLES, lambda line: line.update(path="shards/samples/000/w8-000000"))
    assert ("manifest/w0.jsonl at byte 0", "manifest line") in told(root)


def test_a_cut_line_and_an_orphan(root: Path) -> None:
    manifest = root / "manifest/w0.jsonl"
    with manifest.open("ab") as file:
        file.write(b'{"type": "sha')
    shutil.copytree(root / SAMPLES, root / "shards/samples/000/w0-000009")
    (root / "shards/samples/.w0-000010/hidden.zarr").mkdir(parents=True)
    (root / "shards/samples/.w0-000010/samples.arrow").touch()
    (root / "groups/.x.json.77.tmp").touch()
    found = check(root)
    assert [(p.location, p.kind) for p in found.problems] == [
        ("manifest/w0.jsonl", "cut line"),
        ("shards/samples/000/w0-000009", "orphan"),
    ]
    assert [(n.location, n.kind) for n in found.notes] == [
        ("groups/.x.json.77.tmp", "leftover"),
        ("shards/samples/.w0-000010", "unfinished"),
    ]
    with TapeWriter(root, MAKERS["acoustic"]):
        pass  # takes the lock, changes nothing: nothing was added
    with (root / "manifest/w0.lock").open("ab") as held:
        import fcntl

        fcntl.flock(held, fcntl.LOCK_EX)
        found = check(root)
    assert found.problems == []
    assert {note.kind for note in found.notes} == {"being written", "leftover"}


def test_links_are_told(root: Path, tmp_path: Path) -> None:
    file = root / f"{TEXTUAL}/trace.arrow"
    shutil.move(file, tmp_path / "outside")
    file.symlink_to(tmp_path / "outside")
    folder = root / "shards/acoustic"
    shutil.move(folder, tmp_path / "shards")
    folder.symlink_to(tmp_path / "shards")
    found = told(root)
    assert (f"{TEXTUAL}/trace.arrow", "link") in found
    assert ("shards/acoustic", "link") in found
    assert (f"{ACOUSTIC}/topk.arrow", "link") in found


def test_an_index_of_another_tape_or_damaged_is_told(root: Path, tmp_path: Path) -> None:
    (index,) = (root / "index").glob("*.arrow")
    flip(index)
    assert (f"index/{index.name}", "index") in told(root, deep=False)
    other = make(tmp_path / "other", [0, 1, 4, 3, 2])  # the same sizes, in another order
    update_index(root, lambda: open_tape(other).catalog.index)
    (index,) = (root / "index").glob("*.arrow")
    assert (f"index/{index.name}", "index") in told(root, deep=False)


def test_a_tape_of_another_version_is_checked_all_the_same(root: Path) -> None:
    values = {"format": "teachertape", "version": 99, "requires": [], "licence": "x"}
    (root / "dataset.json").write_bytes(seal(values, indent=2))
    flip(root / f"{TEXTUAL}/trace.arrow")
    found = told(root)
    assert {("dataset.json", "dataset.json"), (".", "not opened")} <= found
    assert (f"{TEXTUAL}/trace.arrow", "checksum") in found


def test_what_is_no_tape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match="no tape here"):
        check(tmp_path)
    with pytest.raises(UsageError, match="on this machine"):
        validate("memory://tape", uncounted)


def test_damage_of_layer_1000_does_not_hide_layer_100(tmp_path: Path) -> None:
    root = make(tmp_path / "tape", [0], groups=("samples",))
    states = {n: np.zeros((2, 8), np.float32) for n in (100, 1000)}
    info = sound_tape.replace(MAKERS["acoustic"], signals={"hidden": {}})
    with TapeWriter(root, info) as writer:
        place = {"sample_id": "s0", "trace_index": -1, "kind": "frame"}
        writer.add({}, [({**place, "target_ids": None, "times_s": None}, states)])
    edit_line(root, ACOUSTIC, lambda line: line["states"].update(width=4))
    flip(root / f"{ACOUSTIC}/hidden.zarr/L1000/c/0/0")
    found = told(root)
    assert (f"{ACOUSTIC}/hidden.zarr/L1000/c/0/0", "checksum") in found
    assert (f"{ACOUSTIC}/hidden.zarr/L100", "states") in found
