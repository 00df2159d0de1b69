"""Tapes that were pulled from somewhere: what is added here is written under names of its own.

A manifest belongs to whoever writes it. One that was pulled may grow where it came from, so that a
line added to the copy would part the two for good.
"""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path

from cache_schema import layout, takeover
from cache_schema.codecs.files import write_atomic
from cache_schema.errors import TapeError


def mark_pulled(root: Path, location: str) -> None:
    """Note where a tape was pulled from, and what the names of writers begin with here."""
    if not (root / layout.PULLED_FILE).exists():
        told = {"from": location, "writer": f"x{secrets.token_hex(4)}"}
        write_atomic(root / layout.PULLED_FILE, json.dumps(told).encode() + b"\n")


def own_name(root: Path, writer: str) -> str:
    """Return under which name a writer adds to a tape.

    Raises:
        TapeError: the note about where it was pulled from cannot be read.
    """
    takeover.refuse_links(root, layout.PULLED_FILE)
    file = root / layout.PULLED_FILE
    if not file.exists():
        return writer
    match = re.search(rb'"writer": "(x[0-9a-f]{8})"', file.read_bytes())
    if match is None:
        raise TapeError(f"{file}: damaged; remove it, and pull into a new folder next time")
    return f"{match[1].decode()}_{writer}"
