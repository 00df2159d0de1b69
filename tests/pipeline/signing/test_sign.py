"""Signed tapes: what was changed, added, removed or swapped is refused by name."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from random import Random

import attacks.forge_index  # noqa: F401 - puts its attacks into ATTACKS
import pytest
import whole_tape
from attacks.forge import ATTACKS, Forge
from signed import a_shard, refused, run, uncounted

from cache_schema import open_tape, seals
from cache_schema.codecs.sealed_json import seal as sealed_json
from cache_schema.errors import TapeError
from cache_schema.validate.tape import validate
from pipeline.signing.make import seal_tape


def test_a_signed_tape_is_as_it_was(tape: Path, keys: Path) -> None:
    before = whole_tape.content(tape)
    status, told = run("verify", tape, "--public-key", keys / "ours.pub", "--deep")
    assert status == 0, told
    assert "as they were; added since: nothing" in told
    assert "signed by key" in told
    assert (validate(tape, uncounted).problems, validate(tape, uncounted).notes) == ([], [])
    assert whole_tape.content(tape) == before
    status, told = run("verify", tape, "--signed")
    assert status == 0
    assert "whose it is was not asked" in told


def test_every_committed_file_is_in_the_list(tape: Path) -> None:
    [file] = (tape / "seals").iterdir()
    listed = {one.path for one in seals.sealed_files(file)}
    there = {str(path.relative_to(tape)) for path in tape.rglob("*") if path.is_file()}
    loose = ("seals/", "index/")
    assert listed == {
        path for path in there if not path.startswith(loose) and not path.endswith(".lock")
    }
    assert seals.read_seal(file).tape == open_tape(tape).fingerprint


def test_openssl_checks_the_signature(tape: Path, keys: Path, tmp_path: Path) -> None:
    """As FORMAT.md says, with nothing of ours."""
    [file] = (tape / "seals").iterdir()
    *body, last = file.read_bytes().splitlines(keepends=True)
    told = json.loads(last)
    (tmp_path / "list").write_bytes(b"".join(body))
    summed = subprocess.run(["sha256sum", tmp_path / "list"], capture_output=True, check=True)
    sha256 = summed.stdout.decode().split()[0]
    assert sha256 == told["sha256"]
    (tmp_path / "message").write_text(f"teachertape seal 1 sha256:{sha256}")
    (tmp_path / "signature").write_bytes(bytes.fromhex(told["ed25519"]))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys / "ours.pub", "-rawin"]
    command += ["-in", tmp_path / "message", "-sigfile", tmp_path / "signature"]
    subprocess.run(command, check=True, capture_output=True)


def test_a_changed_value_with_right_checksums(tape: Path, keys: Path) -> None:
    """An attacker mends every checksum of the tape; only the signature is left."""
    manifest = tape / "manifest" / "w0.jsonl"
    lines = [json.loads(line) for line in manifest.read_bytes().splitlines()]
    for line in lines:
        del line["xxh3_64"]
        if line.get("group") == "samples" and "totals" in line:
            line["totals"]["audio_samples"] += 1
            (tape / line["path"] / "shard.json").write_bytes(sealed_json(line))
    manifest.write_bytes(b"".join(map(sealed_json, lines)))
    shutil.rmtree(tape / "index")
    assert validate(tape, uncounted).problems == []
    found = refused(tape, keys)
    assert set(found) == {"changed"}
    assert "manifest/w0.jsonl" in found["changed"]


def test_a_tampered_file(tape: Path, keys: Path) -> None:
    file = a_shard(tape) / "topk.arrow"
    content = bytearray(file.read_bytes())
    content[-200] ^= 1
    file.write_bytes(content)
    assert refused(tape, keys)["changed"] == [str(file.relative_to(tape))]


@pytest.mark.parametrize("name", ["dataset.json", "groups/textual.json"])
def test_changed_words_about_the_tape(tape: Path, keys: Path, name: str) -> None:
    values = json.loads((tape / name).read_text())
    del values["xxh3_64"]
    values["licence" if "licence" in values else "notes"] = (
        "anything" if "licence" in values else {}
    )
    (tape / name).write_bytes(sealed_json(values))
    assert name in refused(tape, keys)["changed"]


@pytest.mark.parametrize(
    "name", ["{shard}/extra.arrow", "{shard}/.hidden", "evil.py", "seals/x.py"]
)
def test_an_added_file(tape: Path, keys: Path, name: str) -> None:
    file = tape / name.format(shard=a_shard(tape).relative_to(tape))
    file.write_bytes(b"more")
    assert refused(tape, keys) == {"unnamed": [str(file.relative_to(tape))]}


def test_a_removed_shard(tape: Path, keys: Path) -> None:
    shard = a_shard(tape)
    shutil.rmtree(shard)
    missing = refused(tape, keys)["missing"]
    assert f"{shard.relative_to(tape)}/topk.arrow" in missing


def test_a_removed_shard_that_no_line_names_any_more(tape: Path, keys: Path) -> None:
    manifest = tape / "manifest" / "w0.jsonl"
    *kept, last = manifest.read_bytes().splitlines(keepends=True)
    shutil.rmtree(tape / json.loads(last)["path"])
    manifest.write_bytes(b"".join(kept))
    shutil.rmtree(tape / "index")
    assert validate(tape, uncounted).problems == []
    found = refused(tape, keys)
    assert found["cut"] == ["manifest/w0.jsonl"]
    assert "missing" in found


def test_a_swapped_manifest(tape: Path, keys: Path, tmp_path: Path) -> None:
    other = whole_tape.make(tmp_path / "other", profile="archive")
    for name in ("manifest", "shards", "groups", "index"):
        shutil.rmtree(tape / name)
        shutil.copytree(other / name, tape / name)
    assert validate(tape, uncounted).problems == []
    found = refused(tape, keys)
    assert "manifest/w0.jsonl" in found["changed"]


def test_no_signature_and_a_list_alone(tape: Path, keys: Path) -> None:
    shutil.rmtree(tape / "seals")
    assert refused(tape, keys)["signature"]
    status, told = run("verify", tape, "--signed")
    assert (status, "not signed by anybody" in told) == (1, True)
    status, told = run("seal", tape)
    assert (status, "signed by nobody" in told) == (0, True)
    status, told = run("verify", tape, "--signed")
    assert (status, "sealed, but not signed" in told) == (1, True)


def test_links_are_refused(tape: Path, keys: Path, tmp_path: Path) -> None:
    file = a_shard(tape) / "topk.arrow"
    shutil.move(file, tmp_path / "away")
    file.symlink_to(tmp_path / "away")
    assert refused(tape, keys)["changed"] == [str(file.relative_to(tape))]
    with pytest.raises(TapeError, match="is a link"):
        seal_tape(tape, None, uncounted)
    shutil.rmtree(tape / "seals")
    (tape / "seals").symlink_to(tmp_path)
    assert "signature" in refused(tape, keys)


@pytest.mark.parametrize(
    "attack", ["index sample_id swapped ids", "index row_line to other shards"]
)
def test_a_forged_index_of_a_sealed_tape(tape: Path, keys: Path, attack: str) -> None:
    """The index is in no seal, for it follows from the rest; verify makes it anew and compares."""
    ATTACKS[attack](Forge(tape, "hot", Random(0)))
    assert set(refused(tape, keys)) == {"index"}
