"""Seals of signed tapes: wrong, hostile, grown out of, put back, or over a damaged tape."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import whole_tape
from signed import a_shard, refused, run, uncounted

from cache_schema import open_tape, seals
from pipeline.signing.keys import private_key, public_key, sign
from pipeline.signing.make import seal_tape


def rewritten(tape: Path, change: Callable[[list[dict[str, object]]], None]) -> Path:
    """The seal with changed lines; the sha256 in the last one is mended, the signature stays."""
    [file] = (tape / "seals").iterdir()
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    change(lines)
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines[:-1])
    lines[-1]["sha256"] = hashlib.sha256(body).hexdigest()
    file.write_bytes(body + json.dumps(lines[-1]).encode() + b"\n")
    return file


def test_a_wrong_signature(tape: Path, keys: Path) -> None:
    def other_date(lines: list[dict[str, object]]) -> None:
        lines[0]["created"] = "2000-01-01"

    file = rewritten(tape, other_date)
    assert refused(tape, keys) == {"signature": [str(file.relative_to(tape))]}


def test_a_signature_that_is_gone(tape: Path, keys: Path) -> None:
    def unsigned(lines: list[dict[str, object]]) -> None:
        lines[-1]["ed25519"] = ""

    file = rewritten(tape, unsigned)
    assert refused(tape, keys) == {"signature": [str(file.relative_to(tape))]}


HOSTILE: dict[str, Callable[[list[dict[str, object]]], object]] = {
    "a path out of the tape": lambda lines: lines[1].update(path="../../etc/passwd"),
    "an absolute path": lambda lines: lines[1].update(path="/etc/passwd"),
    "dots inside": lambda lines: lines[1].update(path="shards/a/000/w0-000000/../x"),
    "a huge count": lambda lines: lines[1].update(bytes=1 << 60),
    "a negative one": lambda lines: lines[1].update(bytes=-1),
    "no digits": lambda lines: lines[1].update(sha256="z" * 64),
    "twice the same": lambda lines: lines.insert(1, lines[1]),
    "not in order": lambda lines: lines.insert(1, lines.pop(3)),
    "one less": lambda lines: lines.pop(1),
    "another version": lambda lines: lines[0].update(version=2),
    "another kind": lambda lines: lines[0].update(type="else"),
    "a key that is none": lambda lines: lines[0].update(public_key="12"),
    "no end": lambda lines: lines[-1].update(type="nothing", path="dataset.json"),
    "a long line": lambda lines: lines[0].update(created="x" * 5000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_seal(tape: Path, keys: Path, name: str) -> None:
    def change(lines: list[dict[str, object]]) -> None:
        HOSTILE[name](lines)

    rewritten(tape, change)
    assert set(refused(tape, keys)) == {"seal"}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n", b"[1]\n", b"{}\n", b"[" * 4000 + b"\n"])
def test_no_seal_at_all(tape: Path, keys: Path, content: bytes) -> None:
    [file] = (tape / "seals").iterdir()
    file.write_bytes(content)
    assert set(refused(tape, keys)) == {"seal"}


def test_a_tape_that_grew(tape: Path, keys: Path) -> None:
    whole_tape.fill(tape, indexes=range(3, 5))
    found = refused(tape, keys)
    assert set(found) == {"grown"}
    status, told = run("verify", tape, "--public-key", keys / "ours.pub")
    assert "the sealed part is intact; added since, and vouched for by nobody: 4 shards" in told
    status, told = run("verify", tape, "--public-key", keys / "ours.pub", "--grown")
    assert status == 0
    assert "as they were; added since: 4 shards" in told
    run("seal", tape, "--key", keys / "ours")
    assert run("verify", tape, "--public-key", keys / "ours.pub")[0] == 0


def test_a_grown_tape_whose_sealed_part_was_changed(tape: Path, keys: Path) -> None:
    whole_tape.fill(tape, indexes=range(3, 5))
    file = a_shard(tape, "samples") / "audio.arrow"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert "changed" in refused(tape, keys, "--grown")
    assert "is not intact either" in run("verify", tape, "--public-key", keys / "ours.pub")[1]


def test_shards_that_would_be_read_in_the_place_of_sealed_ones(tape: Path, keys: Path) -> None:
    """A writer whose name comes first commits other descriptions of the sealed samples."""
    group = whole_tape.GROUPS["descriptions"]
    with whole_tape.TapeWriter(tape, group, writer="a0") as writer:
        writer.add({"descriptions": [{"sample_id": "s1", "description": "something else"}]})
    assert open_tape(tape)["s1"].description == "something else"
    found = refused(tape, keys, "--grown")
    assert found["recorded again"] == ["shards/descriptions/000/w0-000000"]


def test_an_older_seal_put_back(tape: Path, keys: Path) -> None:
    """What was recorded between the two seals is vouched for by nobody again."""
    [file] = (tape / "seals").iterdir()
    older = file.read_bytes()
    whole_tape.fill(tape, indexes=range(3, 5))
    run("seal", tape, "--key", keys / "ours")
    file.write_bytes(older)
    assert set(refused(tape, keys)) == {"grown"}


def test_a_seal_over_a_part_of_its_tape(tape: Path, keys: Path, tmp_path: Path) -> None:
    """A part that is pulled has no seal; under one of the whole, what is not there is named."""
    part = tmp_path / "part"
    status, told = run("pull", f"file://{tape}", part, "--signals", "textual/trace")
    assert (status, (part / "seals").exists()) == (0, False), told
    assert "not signed by anybody" in run("verify", part, "--signed")[1]
    shutil.copytree(tape / "seals", part / "seals")
    found = refused(part, keys)
    assert {"missing", "changed"} <= set(found)
    assert "groups/textual.json" in found["changed"]


def test_a_writer_that_commits_while_a_tape_is_sealed(
    tape: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every shard of a sealed line is in the list, whenever the line came."""

    def recorded_meanwhile(root: Path) -> object:
        whole_tape.fill(tape, indexes=range(3, 5))
        return open_tape(root)

    monkeypatch.setattr("pipeline.signing.make.open_tape", recorded_meanwhile)
    seal_tape(tape, private_key(keys / "ours"), uncounted)
    assert set(refused(tape, keys)) == {"grown"}


def test_a_seal_that_leaves_out_files_of_a_sealed_line(tape: Path, keys: Path) -> None:
    [file] = (tape / "seals").iterdir()
    head, *lines, _ = [json.loads(line) for line in file.read_bytes().splitlines()]
    kept = [seals.SealedFile(**line) for line in lines if "w0-000001/topk" not in line["path"]]
    size = sum(one.bytes for one in kept)
    ours = public_key(keys / "ours.pub")
    values = {"tape": head["tape"], "created": "", "files": len(kept), "bytes": size}
    writer = seals.SealWriter(tape, seals.Seal(**values, public_key=ours))
    writer.add(kept)
    writer.sign(sign(private_key(keys / "ours"), writer.sha256))
    found = refused(tape, keys)
    assert set(found) == {"seal"}
    assert "shards/textual/000/w0-000001" in found["seal"]


def test_a_damaged_tape_is_not_sealed(tape: Path, keys: Path) -> None:
    before = next((tape / "seals").iterdir()).read_bytes()
    file = a_shard(tape) / "topk.arrow"
    content = bytearray(file.read_bytes())
    content[-200] ^= 1
    file.write_bytes(content)
    status, told = run("seal", tape, "--key", keys / "ours")
    assert (status, "its checksum differs" in told) == (1, True)
    file.unlink()
    assert "is missing" in run("seal", tape, "--key", keys / "ours")[1]
    assert [path.read_bytes() for path in (tape / "seals").iterdir()] == [before]
