"""The folder of an evaluation: whose it is, what was asked for, whether it is finished.

```
DIR/
  evaluation.json   what is evaluated, how and with what; "finished" when all is there
  rows.jsonl        a benchmark's questions in the form datasets have
  data/             the samples as a tape; absent where --data is a tape
  responses.jsonl   one Response a line, appended; in the data's order once it is finished
  verdicts.jsonl    one Verdict a line, with its rule
  submission.json   MMAU; .jsonl MMAR: the published file with what was said to each question
  scores.json       every figure with its interval, and rates
  report.html       with plots/
```
"""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from audio_models.digest import model_digest
from cache_schema.codecs.files import write_atomic
from cache_schema.commands.console import say
from cache_schema.errors import OutputError, ProvenanceError, UsageError
from cache_schema.fingerprint import check_model_path, digest_files
from train.evaluate.settings import Settings
from train.evaluate.types import Benchmark
from train.rundir import differences, holds_something

FORMAT = "teachertape-evaluation"


@dataclass(frozen=True, kw_only=True)
class EvaluationDir:
    """Paths of one evaluation."""

    root: Path

    @property
    def about(self) -> Path:
        """What is evaluated."""
        return self.root / "evaluation.json"

    @property
    def rows(self) -> Path:
        """A benchmark's questions."""
        return self.root / "rows.jsonl"

    @property
    def data(self) -> Path:
        """The tape that is made of the data."""
        return self.root / "data"

    @property
    def responses(self) -> Path:
        """One response a line."""
        return self.root / "responses.jsonl"

    @property
    def verdicts(self) -> Path:
        """One verdict a line."""
        return self.root / "verdicts.jsonl"

    @property
    def scores(self) -> Path:
        """Every figure."""
        return self.root / "scores.json"


def identity_of(settings: Settings, benchmark: Benchmark) -> dict[str, Any]:
    """Return what an evaluation depends on, as JSON values, without what is found in the data.

    The weights of a local model are read for their digest, about a second a gigabyte.

    Raises:
        ModelError: there is no such model, or it has no weights.
    """
    endpoint = settings.endpoint
    digest = ""
    if endpoint is None:
        check_model_path(settings.model)
        digest = model_digest(settings.model)
    source = Path(settings.data)
    return {
        "benchmark": benchmark.name,
        "ability": benchmark.ability,
        "model": settings.answerer,
        "model_digest": digest,
        "endpoint": "" if endpoint is None else endpoint.url,
        "dtype": settings.dtype,
        "data": settings.data,
        "file_digest": f"sha256:{digest_files([source])}" if source.is_file() else "",
        "limit": settings.limit,
        "instruction": settings.instruction,
        "decoding": dataclasses.asdict(settings.decoding),
    }


def open_evaluation(place: EvaluationDir, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Begin an evaluation, or continue one that asks the same; return what its file says.

    Raises:
        OutputError: the folder holds something else.
        UsageError: it holds another evaluation; what differs is named.
    """
    if not place.about.is_file():
        if holds_something(place.root, place.about.name):
            raise OutputError(
                f"{place.root} holds something that is not an evaluation; nothing was changed. "
                "Give --out a new or empty folder."
            )
        return _begin(place, identity)
    about = read_about(place)
    changed = differences({key: about.get(key) for key in identity}, dict(identity))
    if changed and not (place.data.exists() or _is_filled(place.responses)):
        say(f"{place.root}: nothing was asked yet; begun anew")
        return _begin(place, identity)
    if changed:
        raise UsageError(
            f"{place.root} holds another evaluation:\n  " + "\n  ".join(changed) + "\n"
            "Repeat the same flags to continue, or give another --out."
        )
    return about


def _is_filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _begin(place: EvaluationDir, identity: Mapping[str, Any]) -> dict[str, Any]:
    about = {"format": FORMAT, "version": 1, **identity, "started": now(), "finished": None}
    write_about(place, about)
    return about


def note(place: EvaluationDir, about: Mapping[str, Any], found: Mapping[str, Any]) -> Any:
    """Add facts to an evaluation's file, or check that they are still the same; return it all.

    Raises:
        ProvenanceError: the data is not what was asked before.
    """
    changed = [
        f"{key}: then {about[key]!r}, now {value!r}"
        for key, value in found.items()
        if key in about and about[key] != value
    ]
    if changed:
        raise ProvenanceError(
            f"{place.root}: the data is not what it was when the evaluation began:\n  "
            + "\n  ".join(changed)
            + "\nGive another --out."
        )
    both = {**about, **found}
    write_about(place, both)
    return both


def read_about(place: EvaluationDir) -> dict[str, Any]:
    """Return an evaluation's file.

    Raises:
        OutputError: it is no evaluation's.
    """
    try:
        about = json.loads(place.about.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{place.about}: not JSON ({error}); nothing was changed") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise OutputError(f"{place.about} is not an evaluation's; nothing was changed")
    return about


def write_about(place: EvaluationDir, about: Mapping[str, Any]) -> None:
    """Write an evaluation's file, whole or not at all."""
    write_atomic(place.about, (json.dumps(about, indent=2) + "\n").encode())


def versions() -> dict[str, str]:
    """Return what the figures were computed with."""
    packages = ("teachertape", "torch", "transformers")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
