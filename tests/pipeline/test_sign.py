"""Signed tapes: what was changed, added, removed or swapped is refused by name."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from random import Random

import pytest
import whole_tape
from attacks.forge import ATTACKS, Forge
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from typer.testing import CliRunner

from cache_schema import open_tape, seals
from cache_schema.codecs.sealed_json import seal as sealed_json
from cache_schema.errors import TapeError, UsageError
from cache_schema.findings import Findings
from cache_schema.validate import validate
from pipeline.cli import app
from pipeline.signing.check import check_signed
from pipeline.signing.keys import private_key, public_key, sign
from pipeline.signing.make import seal_tape


def uncounted(title: str, total: int) -> nullcontext[Callable[[int], None]]:
    return nullcontext(lambda _: None)


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two keys and their public halves, made by the command."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        status, told = run("seal", "--generate-key", folder / name)
        assert status == 0, told
    assert (folder / "ours").stat().st_mode & 0o777 == 0o600
    return folder


@pytest.fixture(scope="module")
def signed_once(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    root = whole_tape.make(tmp_path_factory.mktemp("tape") / "tape")
    status, told = run("seal", root, "--key", keys / "ours")
    assert status == 0, told
    return root


@pytest.fixture
def tape(tmp_path: Path, signed_once: Path) -> Path:
    return Path(shutil.copytree(signed_once, tmp_path / "tape"))


def refused(root: Path, keys: Path, *flags: str) -> dict[str, list[str]]:
    """Kinds of problems that verify finds, and where; the command must fail."""
    arguments = ["verify", str(root), "--public-key", str(keys / "ours.pub"), "--json", *flags]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1, done.output
    found: dict[str, list[str]] = {}
    for problem in json.loads(done.stdout)["problems"]:
        found.setdefault(problem["kind"], []).append(problem["location"])
    return found


def a_shard(root: Path, group: str = "textual") -> Path:
    return min((root / "shards" / group).glob("*/*"))


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


def test_another_key(tape: Path, keys: Path) -> None:
    shutil.rmtree(tape / "seals")
    run("seal", tape, "--key", keys / "theirs")
    [file] = (tape / "seals").iterdir()
    status, told = run("verify", tape, "--public-key", keys / "ours.pub")
    assert (status, f"only by {file.stem}" in told) == (1, True)
    assert run("verify", tape, "--public-key", keys / "theirs.pub")[0] == 0
    ours = tape / seals.seal_file(public_key(keys / "ours.pub"))
    file.rename(ours)  # under the name of the key that is asked for
    assert refused(tape, keys) == {"signature": [str(ours.relative_to(tape))]}


def test_several_may_sign(tape: Path, keys: Path) -> None:
    run("seal", tape, "--key", keys / "theirs")
    for name in ("ours", "theirs"):
        assert run("verify", tape, "--public-key", keys / f"{name}.pub")[0] == 0


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


@pytest.mark.parametrize(
    "attack", ["index sample_id swapped ids", "index row_line to other shards"]
)
def test_a_forged_index_of_a_sealed_tape(tape: Path, keys: Path, attack: str) -> None:
    """The index is in no seal, for it follows from the rest; verify makes it anew and compares."""
    ATTACKS[attack](Forge(tape, "hot", Random(0)))
    assert set(refused(tape, keys)) == {"index"}


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


def pem(key: object, phrase: bytes | None = None) -> bytes:
    how = BestAvailableEncryption(phrase) if phrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)  # type: ignore[attr-defined, no-any-return]


def test_keys_of_openssh(tape: Path, tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "id").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    )
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    (tmp_path / "id.pub").write_bytes(public + b" me@here\n")
    assert run("seal", tape, "--key", tmp_path / "id")[0] == 0
    assert run("verify", tape, "--public-key", tmp_path / "id.pub")[0] == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a private key"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "expected an Ed25519 key"),
        (pem(ed25519.Ed25519PrivateKey.generate(), b"secret"), "has a pass phrase"),
    ],
)
def test_what_is_no_key(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match=told):
        private_key(tmp_path / "key")


def test_mistakes_are_named(tape: Path, keys: Path, tmp_path: Path) -> None:
    for arguments, told in [
        (("seal",), "give the tape to seal"),
        (("seal", tape, "--generate-key", tmp_path / "k"), "give it alone"),
        (("seal", tape, "--key", tmp_path / "none"), "no key can be read"),
        (("verify", tape, "--public-key", keys / "ours"), "not a public key"),
        (("verify", tape, "--grown"), "goes with --signed"),
    ]:
        status, output = run(*arguments)
        assert (status, told in output) == (2, True), output
    status, output = run("seal", "--generate-key", keys / "ours")
    assert (status, "never overwritten" in output) == (1, True)


def test_a_signature_is_for_seals_only(tape: Path, keys: Path) -> None:
    """What is signed says what it is, so that no other text's signature can be put in its place."""
    key = private_key(keys / "ours")
    [file] = (tape / "seals").iterdir()
    sha256 = seals.read_seal(file).sha256
    assert seals.message(sha256) == f"teachertape seal 1 sha256:{sha256}".encode()
    raw = key.sign(sha256.encode()).hex()
    assert raw != sign(key, sha256)
    file.write_bytes(file.read_bytes().replace(sign(key, sha256).encode(), raw.encode()))
    found = Findings()
    check_signed(str(tape), found, uncounted, public_key(keys / "ours.pub"), grown=False)
    assert dict(found.kinds) == {"signature": 1}
