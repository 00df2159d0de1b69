"""Shards of the tape to damage, a flipped bit, and what verification says of it."""

from __future__ import annotations

from pathlib import Path

from sound_tape import uncounted

from cache_schema.validate.findings import Findings
from cache_schema.validate.tape import validate

SAMPLES = "shards/samples/000/w0-000000"
TEXTUAL = "shards/textual/000/w0-000000"
ACOUSTIC = "shards/acoustic/000/w0-000000"


def check(root: Path, deep: bool = True) -> Findings:
    return validate(root, uncounted, deep=deep)


def told(root: Path, deep: bool = True) -> set[tuple[str, str]]:
    return {(problem.location, problem.kind) for problem in check(root, deep).problems}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
