"""Keys that sign tapes: whose they are, their forms, and mistakes with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from signed import refused, run, uncounted

from cache_schema import seals
from cache_schema.errors import UsageError
from cache_schema.validate.findings import Findings
from pipeline.signing.check import check_signed
from pipeline.signing.keys import private_key, public_key, sign


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
