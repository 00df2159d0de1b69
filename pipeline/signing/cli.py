"""The command ``seal``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cache_schema.errors import UsageError
from cache_schema.validate.findings import Counting
from pipeline.units import size_text


def seal_values(
    cache: str | None, key: Path | None, generate_key: Path | None, counting: Counting
) -> dict[str, Any]:
    """Do what ``seal`` does; return it as JSON values.

    Raises:
        UsageError: neither a tape nor a new key is asked for, or both.
    """
    from pipeline.signing.keys import generate, private_key
    from pipeline.signing.make import seal_tape

    if generate_key is not None:
        if cache is not None or key is not None:
            raise UsageError(
                "--generate-key seals nothing: give it alone, then --key with its file"
            )
        public = generate(generate_key)
        return {"key": str(generate_key), "public_key_file": str(public)}
    if cache is None:
        raise UsageError("give the tape to seal, or --generate-key FILE")
    file, seal = seal_tape(Path(cache), None if key is None else private_key(key), counting)
    return {
        "tape": cache,
        "seal": f"{file.parent.name}/{file.name}",
        "fingerprint": seal.tape,
        "files": seal.files,
        "bytes": seal.bytes,
        "sha256": seal.sha256,
        "key_id": file.stem if key is not None else None,
        "public_key": seal.public_key or None,
    }


def seal_page(values: dict[str, Any]) -> str:
    """Return what was done as a page."""
    if "tape" not in values:
        return (
            f"{values['key']}: the private key, which signs; keep it to yourself\n"
            f"{values['public_key_file']}: the public key, which checks; give it to everybody"
        )
    by = "by nobody (--key FILE signs it)"
    if values["key_id"] is not None:
        by = f"by key {values['key_id']}"
    return (
        f"{values['tape']}: sealed: {values['files']} files, {size_text(values['bytes'])}, "
        f"fingerprint {values['fingerprint']}\n{values['seal']}: signed {by}"
    )
