"""Options of the command ``seal``; the library of keys is imported by what uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Key = Annotated[
    Path | None, typer.Option("--key", help="Ed25519 private key (PEM or OpenSSH) to sign with.")
]
NewKey = Annotated[
    Path | None,
    typer.Option(
        "--generate-key", help="Write a new private key there, and FILE.pub; nothing is sealed."
    ),
]
