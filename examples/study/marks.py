"""Steps that are done once, each with a mark, and how long the rest will take."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from examples.quickstart.steps import FolderError, say

OWNER_FILE = "study.json"


class Marks:
    """Runs named steps in a folder, once each.

    Unlike the quickstart, another identity is refused and nothing is removed unasked: a seed takes
    many minutes.

    Args:
        folder: of one seed.
        identity: what every result in it depends on.
        costs: step -> its share of the time, in any unit; what is left is said from it.
        fresh: start over.

    Raises:
        FolderError: the folder holds something else.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], costs: Mapping[str, float], fresh: bool
    ) -> None:
        self.folder = folder
        self._costs, self._spent_s, self._done = dict(costs), 0.0, 0.0
        owner = folder / OWNER_FILE
        if folder.exists() and any(folder.iterdir()):
            if not owner.is_file():
                raise FolderError(f"{folder} is not empty, and no study made it")
            if fresh:
                shutil.rmtree(folder)
            else:
                _refuse_other(owner, identity)
        (folder / "steps").mkdir(parents=True, exist_ok=True)
        owner.write_text(json.dumps(identity, indent=2) + "\n")

    def run(self, name: str, title: str, action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run a step, or return what it found when it ran before.

        Args:
            name: of the step, one of ``costs``.
            title: what is printed.
            action: does the work, returns JSON values to keep.
        """
        number = list(self._costs).index(name) + 1
        print(f"\n[{number}/{len(self._costs)}] {title}", flush=True)
        mark = self.folder / "steps" / f"{name}.json"
        if mark.is_file():
            kept: dict[str, Any] = json.loads(mark.read_text())
            say(f"done before, in {kept['seconds']:.0f} s")
        else:
            started_s = time.perf_counter()
            found = action()
            kept = {"seconds": round(time.perf_counter() - started_s, 1), "found": found}
            fresh = mark.with_suffix(".partial")
            fresh.write_text(json.dumps(kept, indent=1) + "\n")
            fresh.replace(mark)
        self._spent_s += kept["seconds"]
        self._done += self._costs[name]
        left_s = self._spent_s / self._done * (sum(self._costs.values()) - self._done)
        say(f"{kept['seconds']:.0f} s; about {left_s / 60:.0f} minutes left of this seed")
        return dict(kept["found"])

    @property
    def seconds(self) -> float:
        """Of all steps so far, those done before included."""
        return self._spent_s


def _refuse_other(owner: Path, identity: Mapping[str, Any]) -> None:
    had = json.loads(owner.read_text())
    wanted = json.loads(json.dumps(identity))
    differing = sorted(key for key in had.keys() | wanted.keys() if had.get(key) != wanted.get(key))
    if differing:
        key = differing[0]
        raise FolderError(
            f"{owner.parent} was made otherwise: {key} is {had.get(key)!r} there and "
            f"{wanted.get(key)!r} now; give another --out, or --fresh to start over"
        )
