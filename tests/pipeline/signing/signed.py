"""Commands on signed tapes, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from typer.testing import CliRunner

from pipeline.cli import app


def uncounted(title: str, total: int) -> nullcontext[Callable[[int], None]]:
    return nullcontext(lambda _: None)


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


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
