"""The file that keeps the scores of one model on one benchmark: ``scores.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache_schema.errors import DatasetError
from train.evaluate.types import Score

VERSION = 1
"""Raised when an old reader would misread."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How responses ended, in numbers of items.

    Attributes:
        items: all of them.
        truncated: cut off at the limit of new tokens.
        no_answer: made, but no answer was found in them.
        errors: never made.
        not_counted: rule -> items that it leaves out of its figures.
    """

    items: int
    truncated: int
    no_answer: int
    errors: int
    not_counted: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What ``scores.json`` holds of one model on one benchmark.

    Attributes:
        benchmark: its name.
        ability: what it measures.
        scores: all items first, then the groups.
        rates: how the responses ended.
        sources: rule -> what it follows and where that misleads.
    """

    benchmark: str
    ability: str
    scores: tuple[Score, ...]
    rates: Rates
    sources: Mapping[str, str]


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as JSON values; NaN (no item counts) is ``null``."""
    record = asdict(evaluation)
    record["scores"] = [
        {key: _plain(value) for key, value in score.items()} for score in record["scores"]
    ]
    return {"version": VERSION, **record}


def from_json(record: Mapping[str, Any], where: str = "scores") -> Evaluation:
    """Return the evaluation that JSON values say.

    Args:
        record: as of ``to_json``.
        where: the file, for the message.

    Raises:
        DatasetError: of another version, or a key is missing, unknown or of another kind.
    """
    if not isinstance(record, Mapping) or record.get("version") != VERSION:
        found = record.get("version") if isinstance(record, Mapping) else type(record).__name__
        raise DatasetError(
            f"{where}: expected scores of version {VERSION}, got {found!r}; evaluate again"
        )
    try:
        scores = tuple(Score(**_known(score)) for score in record["scores"])
        return Evaluation(
            benchmark=record["benchmark"],
            ability=record["ability"],
            scores=scores,
            rates=Rates(**record["rates"]),
            sources=dict(record["sources"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{where}: not the scores of an evaluation ({type(error).__name__}: {error}); "
            "evaluate again"
        ) from error


def write_scores(path: Path, evaluation: Evaluation) -> None:
    """Write ``scores.json``, whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    text = json.dumps(to_json(evaluation), indent=1, allow_nan=False)
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(path)


def read_scores(path: Path) -> Evaluation:
    """Read ``scores.json``.

    Raises:
        DatasetError: there is none, or it is not one.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no scores there; run `train evaluate` first") from error
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON ({error}); evaluate again") from error
    return from_json(record, str(path))


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _known(score: Mapping[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in score.items()}
