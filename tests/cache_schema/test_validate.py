"""Verification: a sound tape has no problem, and every kind of damage is named where it is."""

from __future__ import annotations

import errno
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sound_tape
from sound_tape import ALL, MAKERS, edit_line, edit_table, make, uncounted

from cache_schema import findings as findings_module
from cache_schema import open_tape
from cache_schema.codecs.files import checksum
from cache_schema.codecs.sealed_json import seal
from cache_schema.errors import TapeError, UsageError
from cache_schema.findings import Findings
from cache_schema.indexing import update_index
from cache_schema.rows import topk_row
from cache_schema.shard import Storage
from cache_schema.validate import validate
from cache_schema.writer import TapeWriter

SAMPLES = "shards/samples/000/w0-000000"
TEXTUAL = "shards/textual/000/w0-000000"
ACOUSTIC = "shards/acoustic/000/w0-000000"


def check(root: Path, deep: bool = True) -> Findings:
    return validate(root, uncounted, deep=deep)


def told(root: Path, deep: bool = True) -> set[tuple[str, str]]:
    return {(problem.location, problem.kind) for problem in check(root, deep).problems}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("sound") / "tape")


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "tape"))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "storage",
    [
        Storage(),
        Storage(profile="archive", topk="compact"),
        Storage(profile="lossy2x", topk="compact"),
    ],
    ids=["hot", "archive", "lossy2x"],
)
def test_a_sound_tape_has_no_problem(tmp_path: Path, storage: Storage) -> None:
    found = check(make(tmp_path / "tape", storage=storage))
    assert (found.problems, found.notes, found.count) == ([], [], 0)
    assert found.files > 40
    assert found.bytes > 10_000


def test_two_writers_and_a_grown_index_are_sound(tmp_path: Path) -> None:
    root = make(tmp_path / "tape", range(3))
    kept = shutil.copytree(root / "index", tmp_path / "index")
    make(root, range(3, 7), writer="w1")
    make(root, range(7, 9))
    assert check(root).problems == []
    shutil.rmtree(root / "index")
    shutil.copytree(kept, root / "index")
    assert check(root).problems == []


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


def set_first(**values: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[0].update(values)


NAN = float("nan")


@pytest.mark.parametrize(
    ("path", "table", "change", "location", "kind"),
    [
        (SAMPLES, "samples", set_first(audio_sha256="0" * 64), "audio.arrow row 0", "audio"),
        (SAMPLES, "samples", set_first(num_audio_samples=9), "audio.arrow row 0", "row"),
        (SAMPLES, "samples", set_first(metadata="{"), "samples.arrow row 0", "row"),
        (SAMPLES, "samples", set_first(metadata="[]"), "samples.arrow row 0", "row"),
        (SAMPLES, "samples", set_first(metadata='{"a": NaN}'), "samples.arrow row 0", "row"),
        (SAMPLES, "samples", set_first(metadata='{"a": -Infinity}'), "samples.arrow row 0", "row"),
        (SAMPLES, "audio", set_first(audio=b"\0\0"), "audio.arrow row 0", "row"),
        (SAMPLES, "audio", set_first(sample_id="s1"), "audio.arrow row 0", "row"),
        (TEXTUAL, "trace", set_first(token_ids=[1 << 20]), "trace.arrow row 0", "row"),
        (TEXTUAL, "trace", set_first(correct=False), "", "totals"),
        (TEXTUAL, "topk", set_first(tail=[0.9]), "topk.arrow row 0", "row"),
        (TEXTUAL, "topk", set_first(tail=[NAN]), "topk.arrow row 0", "row"),
        (TEXTUAL, "topk", set_first(token_ids=[1, 2]), "topk.arrow row 0", "row"),
        (TEXTUAL, "hidden", set_first(count=99), "hidden.arrow row 0", "row"),
        (TEXTUAL, "hidden", lambda rows: rows[1].update(offset=0), "hidden.arrow", "spans"),
        (TEXTUAL, "hidden", lambda rows: rows.pop(), "hidden.arrow", "spans"),
        (TEXTUAL, "hidden", set_first(kind="smell"), "hidden.arrow row 0", "row"),
        (TEXTUAL, "trace", lambda rows: rows.append(rows[0]), "trace.arrow", "table"),
    ],
    ids=map(str, itertools.count()),
)
def test_rows_that_are_wrong_but_sealed_are_found_by_decoding(
    root: Path,
    path: str,
    table: str,
    change: Callable[[list[dict[str, Any]]], Any],
    location: str,
    kind: str,
) -> None:
    edit_table(root, path, table, change)
    if kind != "table":
        assert check(root, deep=False).problems == []
    assert (f"{path}/{location}".rstrip("/"), kind) in told(root)


@pytest.mark.parametrize(
    ("path", "table", "change", "location", "kind"),
    [
        (SAMPLES, "samples", set_first(sample_id="other"), "textual/trace", "no sample"),
        (TEXTUAL, "trace", set_first(trace_index=1), "textual/trace", "trace index"),
        (TEXTUAL, "trace", lambda rows: rows.pop(), "textual/topk", "no trace"),
        (TEXTUAL, "topk", lambda rows: rows.pop(), "textual/topk", "no row"),
        (TEXTUAL, "topk", set_first(target_ids=[7]), "textual/topk", "tokens"),
        (TEXTUAL, "trace", set_first(token_ids=[7]), "acoustic/topk", "tokens"),
        (TEXTUAL, "trace", set_first(token_ids=[7, 8]), "textual/hidden", "tokens"),
        (ACOUSTIC, "hidden", set_first(times_s=[0, 0.1, 0.5, 0.6]), "acoustic/hidden", "times"),
        (
            ACOUSTIC,
            "hidden",
            set_first(times_s=[0.1, 0.2, 0, 0.1]),
            f"{ACOUSTIC}/hidden.arrow row 0",
            "row",
        ),
        (ACOUSTIC, "hidden", set_first(sample_id="s4"), f"{ACOUSTIC[:-1]}2/hidden.arrow", "twice"),
    ],
    ids=map(str, itertools.count()),
)
def test_tables_that_contradict_each_other_are_found(
    root: Path,
    path: str,
    table: str,
    change: Callable[[list[dict[str, Any]]], Any],
    location: str,
    kind: str,
) -> None:
    edit_table(root, path, table, change)
    assert (location, kind) in told(root)


def test_states_that_are_not_finite_are_found_in_every_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "tape"
    make(root, groups=("samples",))
    states = {1: np.zeros((2, 8), np.float32), 3: np.zeros((2, 8), np.float32)}
    states[3][1, 5] = np.inf
    with monkeypatch.context() as unchecked:
        unchecked.setattr("cache_schema.codecs.bfloat16.is_finite", lambda values: True)
        for profile in ("hot", "archive"):
            with TapeWriter(
                root, MAKERS["acoustic"], storage=Storage(profile=profile), writer=profile
            ) as writer:
                place = {"sample_id": "s2", "trace_index": -1, "kind": "frame"}
                writer.add({}, [({**place, "target_ids": None, "times_s": None}, states)])
    found = {(p.location, p.kind, p.message) for p in check(root).problems}
    for profile in ("hot", "archive"):
        name = f"shards/acoustic/000/{profile}-000000/hidden.zarr/L003"
        assert (name, "not finite", "position 1, of sample s2") in found


def _foreign_table(line: dict[str, Any]) -> None:
    line["rows"]["descriptions"] = 2
    line["files"]["descriptions.arrow"] = line["files"]["trace.arrow"]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda line: line["totals"].update(trace_tokens=99), "totals"),
        (lambda line: line.update(samples=1), "totals"),
        (lambda line: line["states"].update(positions=50), "spans"),
        (lambda line: line["rows"].update(trace=5), "table"),
        (_foreign_table, "tables"),
        (lambda line: line["states"].update(width=4), "states"),
        (lambda line: line["states"].update(width=4), "maker"),
        (lambda line: line["states"].update(layers=[1]), "maker"),
        (lambda line: line["states"].update(profile="archive"), "states"),
        (lambda line: line.update(fingerprint="0"), "maker"),
        (lambda line: line["files"].pop("hidden.zarr/L001/c/0/0"), "states"),
        (lambda line: line["files"].pop("hidden.zarr/L001/c/0/0"), "unnamed"),
    ],
    ids=map(str, itertools.count()),
)
def test_manifest_lines_that_claim_something_else(
    root: Path, change: Callable[[dict[str, Any]], Any], kind: str
) -> None:
    edit_line(root, TEXTUAL, change)
    found = check(root)
    assert any(p.kind == kind and p.location.startswith(TEXTUAL) for p in found.problems), found


def test_a_group_that_says_something_else(root: Path) -> None:
    info = sound_tape.replace(
        MAKERS["textual"], signals={"trace": {}, "topk": {"k": 9}, "hidden": {"layers": [1]}}
    )
    (root / "groups/textual.json").write_bytes(info.to_json())
    found = told(root)
    assert (TEXTUAL, "maker") in found  # the fingerprint
    assert (f"{TEXTUAL}/hidden.arrow", "maker") in found
    assert (f"{TEXTUAL}/topk.arrow row 0", "row") in found


def test_two_samples_of_one_id(root: Path) -> None:
    first = make(root, [7], groups=("samples",), writer="w1")
    edit_table(
        first, "shards/samples/000/w1-000000", "samples", set_first(sample_id="s0", row_index=0)
    )
    assert ("shards/samples/000/w1-000000", "two samples") in told(root, deep=False)


def test_what_is_no_tape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match="no tape here"):
        check(tmp_path)
    with pytest.raises(UsageError, match="on this machine"):
        validate("memory://tape", uncounted)


def test_nothing_is_changed(root: Path) -> None:
    def listing() -> list[tuple[str, int]]:
        return sorted((str(p), p.stat().st_mtime_ns) for p in root.rglob("*"))

    before = listing()
    check(root)
    assert listing() == before
    assert tuple(json.loads((root / f"groups/{g}.json").read_text())["group"] for g in ALL) == ALL


def test_a_tape_that_is_being_written_is_no_problem(root: Path) -> None:
    with TapeWriter(root, MAKERS["acoustic"], writer="w4", shard_samples=2) as writer:
        for index in range(5, 10):
            sound_tape.add(writer, "acoustic", index)
            found = check(root, deep=False)
            assert found.problems == []
            assert all(note.kind == "being written" for note in found.notes)
        assert [note.location for note in found.notes] == ["shards/acoustic/.w4-000002"]


def test_what_a_later_release_adds_or_leaves_out_is_no_problem(root: Path) -> None:
    """Tables and totals it does not know, totals that are left out; checksums all the same."""
    (root / TEXTUAL / "speakers.arrow").write_bytes(b"speakers")
    record = {"bytes": 8, "xxh3_128": checksum(root / TEXTUAL / "speakers.arrow")}

    def change(line: dict[str, Any]) -> None:
        line["rows"]["speakers"] = 1
        line["files"]["speakers.arrow"] = record
        line["totals"] = {"speakers_heard": 3}

    edit_line(root, TEXTUAL, change)
    found = check(root)
    assert found.problems == []
    assert [(note.location, note.kind) for note in found.notes] == [(TEXTUAL, "tables")]
    flip(root / TEXTUAL / "speakers.arrow")
    assert (f"{TEXTUAL}/speakers.arrow", "checksum") in told(root, deep=False)


def test_a_row_in_both_tables_of_top_k_is_told(tmp_path: Path) -> None:
    root = make(tmp_path / "tape", [0], groups=("samples",))
    topk = sound_tape.topk_of(np.random.default_rng(0), np.arange(3))
    for codec in ("compact", "hot"):
        with TapeWriter(root, MAKERS["acoustic"], storage=Storage(topk=codec)) as writer:
            writer.add({"topk": [topk_row("s0", 0, topk)]})
    found = {(p.location, p.kind, p.message) for p in check(root, deep=False).problems}
    assert found == {("acoustic/topk_compact", "twice", "sample 's0', trace 0: also in topk")}


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


def test_where_locks_cannot_be_asked_for_all_is_checked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with (root / "manifest/w0.jsonl").open("ab") as file:
        file.write(b"cut")
    shutil.copytree(root / SAMPLES, root / "shards/samples/000/w0-000009")
    monkeypatch.setattr("fcntl.flock", refuse)
    assert {("manifest/w0.jsonl", "cut line"), ("shards/samples/000/w0-000009", "orphan")} <= told(
        root, deep=False
    )


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        ({"hidden": {"profile": "fp4"}}, "profile 'fp4', this software knows hot, archive"),
        ({"topk": {"k": 2, "codec": "zfp9"}}, "codec 'zfp9', this software knows hot, compact"),
    ],
    ids=["profile", "codec"],
)
def test_storage_of_a_later_release_is_refused(
    root: Path, signals: dict[str, Any], message: str
) -> None:
    info = sound_tape.replace(MAKERS["acoustic"], group="strange", signals=signals)
    (root / "groups/strange.json").write_bytes(info.to_json())
    with pytest.raises(TapeError, match=message):
        open_tape(root)
    assert (".", "not opened") in told(root, deep=False)
