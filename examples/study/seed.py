"""What one seed is run with, and the project's commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from examples.quickstart.steps import command
from examples.study.sizes import Size
from examples.study.speech import Speech

__all__ = ["Seed", "command"]


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
