"""The command ``train compare``: evaluations by variant into one report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cache_schema.commands.console import REPORTED, report_error
from cache_schema.errors import UsageError

EXAMPLE = """Example:

    train compare --out ./report base=eval/base-mmau,eval/base-meld joint=eval/mmau,eval/meld
"""


def compare(
    variants: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=DIR[,DIR...]...",
            help="A variant and its finished evaluations: benchmarks, and several of one benchmark "
            "for several runs. The others are compared with the first variant.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to write report.html into.")],
    runs: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="NAME=RUN", help="A training run, for its loss curves."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Compare finished evaluations of several models: one page, and its plots as files."""
    try:
        evaluations = named_directories(variants, "a variant")
        from_runs = named_directories(runs or [], "--run")
        several = [name for name, of in from_runs.items() if len(of) > 1]
        if several:
            raise UsageError(f"--run {several[0]}: one directory is expected")
        from train.evaluate.report import write_comparison  # plots only where they are drawn

        first = {name: of[0] for name, of in from_runs.items()}
        typer.echo(write_comparison(evaluations, out, first))
    except REPORTED as error:
        raise typer.Exit(report_error(error, debug)) from error


def named_directories(given: list[str], what: str) -> dict[str, list[Path]]:
    """Return name -> directories, of ``NAME=DIR[,DIR...]`` each.

    Args:
        given: as on the command line.
        what: they are, for the message.

    Raises:
        UsageError: of another form, or a name comes twice.
    """
    found: dict[str, list[Path]] = {}
    for one in given:
        name, _, directories = one.partition("=")
        paths = [Path(part) for part in directories.split(",") if part]
        if not name or not paths:
            raise UsageError(f"{what} {one!r}: expected NAME=DIR or NAME=DIR,DIR")
        if name in found:
            raise UsageError(f"{what} {name!r} is given twice; join its directories by commas")
        found[name] = paths
    return found
