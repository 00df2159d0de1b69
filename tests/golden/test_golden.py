"""Every tape of every version is read as it was written: the files beside are never made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden.tape_values import values_of
from sound_tape import uncounted

from cache_schema import open_tape
from cache_schema.parts.pulled import own_name
from cache_schema.signals import SCHEMAS
from cache_schema.validate.findings import Findings
from cache_schema.validate.tape import validate
from pipeline.signing.check import check_signed
from pipeline.signing.keys import public_key

HERE = Path(__file__).parent
TAPES = sorted(path.with_suffix("") for path in HERE.glob("v*/*.json"))


def test_there_are_tapes_of_every_profile() -> None:
    v1 = {tape.name for tape in TAPES if tape.parent.name == "v1"}
    assert v1 == {"archive", "classes", "hot", "lossy2x", "more", "sealed", "shared"}


@pytest.mark.parametrize("tape", TAPES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_golden_tape_reads_as_ever(tape: Path) -> None:
    expected = json.loads(tape.with_suffix(".json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(values_of(tape))) == expected


def test_what_was_added_to_version_1_is_on_its_own_tape_and_on_no_older_one() -> None:
    tables = {
        tape.name: {
            table
            for shards in open_tape(tape).shards.values()
            for shard in shards
            for table in shard.record.rows
        }
        for tape in TAPES
    }
    first = {"lens", "lens_compact", "rejected", "heard"}
    then = {"utterance_logits", "frame_logits", "embedding"}
    assert {name: (first | then) & held for name, held in tables.items()} == {
        "archive": set(), "hot": set(), "lossy2x": set(), "more": first, "classes": then,
        "sealed": set(), "shared": set(),
    }  # fmt: skip
    for tape in TAPES:
        for shard in open_tape(tape).shards.get("textual", []):
            if "trace" in shard.record.rows:
                older = "origin" not in shard.table("trace").column_names
                assert older == (tape.name not in ("more", "sealed", "shared"))


def test_every_table_is_on_a_golden_tape() -> None:
    opened = [open_tape(tape) for tape in TAPES]
    records = [shard.record for tape in opened for each in tape.shards.values() for shard in each]
    assert not set(SCHEMAS) - {table for record in records for table in record.rows}


@pytest.mark.parametrize("tape", TAPES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_golden_tape_is_sound(tape: Path) -> None:
    found = validate(tape, uncounted, deep=True)
    assert (found.problems, found.notes) == ([], [])


@pytest.mark.parametrize("tape", TAPES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_golden_tape_reads_the_same_without_its_index(tape: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tape"
    for file in tape.rglob("*"):
        if file.is_file() and "index" not in file.relative_to(tape).parts:
            target = copy / file.relative_to(tape)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    assert open_tape(copy).sample_ids == open_tape(tape).sample_ids
    assert values_of(copy) == values_of(tape)


def test_the_sealed_golden_tape_is_still_signed() -> None:
    found = Findings()
    key = public_key(HERE / "v1" / "sealed.pub")
    [one] = check_signed(str(HERE / "v1" / "sealed"), found, uncounted, key, grown=False)
    assert (found.problems, found.notes) == ([], [])
    assert (one.trusted, one.intact, bool(one.added)) == (True, True, False)


def test_the_shared_golden_tape_is_a_part_with_attached_recordings() -> None:
    tape = open_tape(HERE / "v1" / "shared")
    assert tape.signals == ("textual/hidden", "textual/trace")
    assert tape.groups["textual"].signals["hidden"]["layers"] == [12]
    assert tape.groups["textual"].fingerprint == (
        open_tape(HERE / "v1" / "sealed").groups["textual"].fingerprint
    )
    assert all("audio" not in shard.record.rows for shard in tape.shards["samples"])
    assert own_name(HERE / "v1" / "shared", "w0").endswith("_w0")
