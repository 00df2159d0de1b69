"""The run directory: whose it is, what it was started with, whether it is finished.

```
RUN/
  run.json         tape, student, rows, recipe; "finished" when done; written first
  recipe.toml      the resolved recipe
  metrics.jsonl    one line a step, and one an evaluation
  trackers/        TensorBoard's files, if asked for
  checkpoints/     step-00000200/, ...
  student/         the trained student, written last but for the report; heads/ (train.heads) in it
  report.md
```
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_schema.codecs.files import write_atomic
from cache_schema.commands.recipes import as_toml, build
from cache_schema.errors import OutputError, ProvenanceError, UsageError
from cache_schema.fingerprint import fingerprint
from train.recipe import TrainRecipe

RUN_FORMAT = "teachertape-run"

MAY_CHANGE = ("student.sharding:", "loop.micro_tokens:")
"""How a run is held and cut up; with another value it goes on, sums in another order aside."""


@dataclass(frozen=True, kw_only=True)
class RunDir:
    """Paths of one run."""

    root: Path

    @property
    def info(self) -> Path:
        """What the run is."""
        return self.root / "run.json"

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.root / "recipe.toml"

    @property
    def metrics(self) -> Path:
        """One line a step."""
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.root / "checkpoints"

    @property
    def student(self) -> Path:
        """The trained student."""
        return self.root / "student"

    @property
    def report(self) -> Path:
        """The report."""
        return self.root / "report.md"


def check_run_dir(run: RunDir, recipe: TrainRecipe, resume: bool) -> dict[str, Any] | None:
    """Return what ``run.json`` says of a run started before, ``None`` for a new one.

    Raises:
        OutputError: the directory holds something else.
        UsageError: ``resume`` without a run, or the run was started with another recipe.
    """
    if not run.info.is_file():
        if holds_something(run.root, run.info.name):
            raise OutputError(
                f"{run.root} holds something that is not a training run; nothing was changed. "
                "Give --out a new or empty folder."
            )
        if resume:
            raise UsageError(f"--resume: {run.root} holds no run; leave --resume out to start one")
        return None
    info = json.loads(run.info.read_text(encoding="utf-8"))
    if info.get("format") != RUN_FORMAT:
        raise OutputError(f"{run.info} is not a training run's; nothing was changed")
    found = differences(_with_defaults(info["recipe"]), _as_json(recipe))
    changed = [line for line in found if not line.startswith(MAY_CHANGE)]
    if changed:
        raise UsageError(
            f"{run.root} was started with another recipe:\n  " + "\n  ".join(changed) + "\n"
            "Repeat the same flags to continue, or give another --out."
        )
    return dict(info)


def open_run(run: RunDir, recipe: TrainRecipe, about: dict[str, Any]) -> None:
    """Record what the run is, or check that it is still the same.

    Raises:
        ProvenanceError: tape, student or rows differ from those the run was started with.
    """
    if not run.info.is_file():
        run.root.mkdir(parents=True, exist_ok=True)
        info = {"format": RUN_FORMAT, "id": uuid.uuid4().hex, **about, "recipe": _as_json(recipe)}
        write_atomic(run.info, (json.dumps(info, indent=2) + "\n").encode())
    else:
        refuse_other_start(run, about)
    if not run.recipe.is_file():  # as after a kill between the two
        write_atomic(run.recipe, as_toml(recipe).encode())


def refuse_other_start(run: RunDir, about: Mapping[str, Any]) -> None:
    """Refuse to continue a run from something else; keys that are not in both are not compared.

    Raises:
        ProvenanceError: naming what differs.
    """
    info = json.loads(run.info.read_text(encoding="utf-8"))
    changed = [
        f"{key}: then {info[key]!r}, now {value!r}"
        for key, value in about.items()
        if key in info and info[key] != value
    ]
    if changed:
        raise ProvenanceError(
            f"{run.root} was started from something else:\n  " + "\n  ".join(changed) + "\n"
            "Give another --out."
        )


def run_id(run: RunDir) -> str:
    """Return what tells a run from all others; that of an older run is its ``run.json``'s hash."""
    info = json.loads(run.info.read_text(encoding="utf-8"))
    return str(info.get("id") or fingerprint(info))


def mark_finished(run: RunDir) -> None:
    """Record that nothing is left to do."""
    info = json.loads(run.info.read_text(encoding="utf-8"))
    write_atomic(run.info, (json.dumps({**info, "finished": True}, indent=2) + "\n").encode())


def _as_json(recipe: TrainRecipe) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def _with_defaults(recorded: dict[str, Any]) -> Any:
    """Return a recorded recipe with what did not exist yet at its default; as it is if unknown."""
    try:
        return _as_json(build(TrainRecipe, _without_none(recorded), "recipe"))
    except UsageError:
        return recorded


def _without_none(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without_none(value) for key, value in values.items() if value is not None}
    return values


def holds_something(place: Path, first: str) -> bool:
    """Whether there is more than what a kill in the very first write, of ``first``, leaves."""
    if not place.is_dir():
        return place.exists()
    return not all(item.match(f".{first}.*.tmp") for item in place.iterdir())


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Return a line for every value that differs between two JSON values, by its dotted name."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if before == now else [f"{where}: then {before!r}, now {now!r}"]
