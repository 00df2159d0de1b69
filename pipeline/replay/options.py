"""Flags of ``verify --replay``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ReplayCount = Annotated[
    int | None,
    typer.Option(
        "--replay",
        min=1,
        show_default=False,
        help="Run this many random samples of each source through its teacher again, and compare.",
    ),
]
ReplaySources = Annotated[
    list[str] | None,
    typer.Option("--source", help="--replay: this source only; repeatable.", show_default=False),
]
ReplayText = Annotated[
    str | None,
    typer.Option(
        "--text-teacher",
        help="--replay: where the textual teacher lies now (default: where it lay).",
        show_default=False,
    ),
]
ReplayAcoustic = Annotated[
    list[str] | None,
    typer.Option(
        "--acoustic-teacher",
        help="--replay: where the acoustic teacher lies now; of several NAME=MODEL, repeatable.",
        show_default=False,
    ),
]
ReplayRecipe = Annotated[
    Path | None,
    typer.Option(
        "--recipe",
        help="--replay: the recipe it was recorded with (default: the one the tape keeps).",
        show_default=False,
    ),
]
ReplaySet = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="--replay: a setting of a teacher, textual.KEY=VALUE or acoustic.KEY=VALUE.",
        show_default=False,
    ),
]
ReplaySeed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        help="--replay: of the choice of samples; the result tells it (default: another each time)",
        show_default=False,
    ),
]
