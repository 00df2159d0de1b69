"""Ed25519 keys, by the library ``cryptography``: PEM files (openssl) or OpenSSH's (ssh-keygen).

Why not ``model-signing``: it signs a fixed set of files, and a tape may grow after it was sealed;
and it brings sigstore with everything that needs a network. An Ed25519 signature over one line of
text can be checked by openssl alone.
"""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from cache_schema.errors import OutputError, UsageError
from cache_schema.seals import message

MAX_BYTES = 64 << 10
_HOW = "pipeline seal --generate-key FILE makes one, as does openssl genpkey -algorithm ed25519"


def generate(file: Path) -> Path:
    """Write a new private key, for its owner's eyes only, and its public key beside it.

    Returns:
        The file of the public key.

    Raises:
        OutputError: one of the files is there.
    """
    public_file = file.with_name(f"{file.name}.pub")
    for path in (file, public_file):
        if path.exists():
            raise OutputError(f"{path} is there; a key is never overwritten. Give another name.")
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(secret)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with public_file.open("xb") as opened:
        opened.write(public)
    return public_file


def private_key(file: Path) -> Ed25519PrivateKey:
    """Read a private key; a pass phrase is asked for on a terminal.

    Raises:
        UsageError: it is not there, not an Ed25519 key, or its pass phrase is wrong.
    """
    content = _content(file)
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in content else load_pem_private_key
    phrase = None
    try:
        try:
            key = load(content, phrase)
        except TypeError:  # it has a pass phrase
            if not sys.stdin.isatty():
                raise UsageError(f"{file}: the key has a pass phrase, and nobody to ask") from None
            key = load(content, getpass.getpass(f"pass phrase of {file}: ").encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{file}: not a private key that can be read ({error}); {_HOW}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{file}: expected an Ed25519 key, got {type(key).__name__}; {_HOW}")
    return key


def public_key(file: Path) -> str:
    """Read a public key; return its 64 digits.

    Raises:
        UsageError: it is not there, or not an Ed25519 public key.
    """
    content = _content(file)
    load = load_ssh_public_key if content.startswith(b"ssh-") else load_pem_public_key
    try:
        key = load(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"{file}: not a public key (PEM, or OpenSSH's one line): {error}; the public half of "
            "key.pem: openssl pkey -in key.pem -pubout"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{file}: expected an Ed25519 key, got {type(key).__name__}")
    return _digits(key)


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES)
    except OSError as error:
        raise UsageError(f"{file}: no key can be read here ({error.strerror}); {_HOW}") from error


def _digits(key: Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def public_of(key: Ed25519PrivateKey) -> str:
    """Return the public half of a key, 64 digits."""
    return _digits(key.public_key())


def sign(key: Ed25519PrivateKey, sha256: str) -> str:
    """Return the signature of a seal's list, 128 digits."""
    return key.sign(message(sha256)).hex()


def is_signed(public: str, signature: str, sha256: str) -> bool:
    """Whether the owner of a key signed a seal's list."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), message(sha256))
    except (InvalidSignature, ValueError):
        return False
    return True
