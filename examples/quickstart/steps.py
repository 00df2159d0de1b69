"""Steps that are done once: each leaves a mark, and a second run takes up where the first ended."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MARK_FOLDER = "steps"
OWNER_FILE = "quickstart.json"
_SOURCES = ("*.py", "*.toml")


class FolderError(RuntimeError):
    """The output folder cannot be used."""


class Steps:
    """Runs numbered steps in a folder, once each.

    Args:
        folder: where everything goes.
        identity: what the results depend on; with another identity everything is made anew.
        made: names of the files and folders that steps make in it.
        total: how many steps there will be.
        fresh: start over in any case.

    Raises:
        FolderError: the folder holds something that no quickstart made.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        made: Sequence[str],
        total: int,
        fresh: bool,
    ) -> None:
        self.folder = folder
        self._total, self._number, self._started_s = total, 0, time.perf_counter()
        identity = {**identity, "sources": source_digest(Path(__file__).parent)}
        owner = folder / OWNER_FILE
        if folder.exists() and any(folder.iterdir()):
            if not owner.is_file():
                raise FolderError(f"{folder} is not empty, and no quickstart made it")
            if fresh:
                _empty(folder, made, "starting over, as asked")
            elif json.loads(owner.read_text()) != identity:
                _empty(folder, made, "made with another seed, source or version: starting over")
        (folder / MARK_FOLDER).mkdir(parents=True, exist_ok=True)
        owner.write_text(json.dumps(identity, indent=2) + "\n")

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first step began."""
        return time.perf_counter() - self._started_s

    def run(self, name: str, title: str, action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run a step, or return what it found when it ran before.

        Args:
            name: of its mark.
            title: what is printed.
            action: does the work, returns JSON values to keep.
        """
        self._number += 1
        print(f"\n[{self._number}/{self._total}] {title}", flush=True)
        mark = self.folder / MARK_FOLDER / f"{name}.json"
        if mark.is_file():
            kept: dict[str, Any] = json.loads(mark.read_text())
            say(f"done before, in {kept['seconds']:.1f} s; used as it is (--fresh makes it anew)")
            return kept["found"]
        started_s = time.perf_counter()
        found = action()
        seconds = time.perf_counter() - started_s
        mark.write_text(json.dumps({"seconds": seconds, "found": found}, indent=2) + "\n")
        say(f"done in {seconds:.1f} s ({self.elapsed_s:.0f} s since the start)")
        return found


def say(line: str) -> None:
    """Print one line under a step's title."""
    print(f"      {line}", flush=True)


def command(*words: object) -> None:
    """Run one of the project's commands as a user would, in a process of its own."""
    module, *arguments = map(str, words)
    say(f"$ {module} {shlex.join(arguments)}")
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def source_digest(folder: Path) -> str:
    """Return a digest of the quickstart's own source: another version makes everything anew."""
    total = hashlib.sha256()
    for path in sorted(path for pattern in _SOURCES for path in folder.glob(pattern)):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()[:16]


def _empty(folder: Path, made: Sequence[str], reason: str) -> None:
    """Remove what an earlier quickstart made, and nothing else."""
    print(f"{folder}: {reason}", flush=True)
    for path in (folder / name for name in (MARK_FOLDER, *made)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
