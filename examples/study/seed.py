"""What one seed is run with, and the project's commands."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from examples.quickstart.steps import say
from examples.study.sizes import Size
from examples.study.speech import Speech


@dataclass(frozen=True, kw_only=True)
class Seed:
    """What one seed is run with.

    Attributes:
        seed: of everything.
        folder: where it lies.
        speech: the recordings.
        size_name: of ``size``.
        size: how large everything is.
    """

    seed: int
    folder: Path
    speech: Speech
    size_name: str
    size: Size

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


def command(*words: object) -> None:
    """Run one of the project's commands as a user would, in a process of its own."""
    module, *arguments = map(str, words)
    say(f"$ {module} {shlex.join(arguments)}")
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)
