"""An evaluation's files as the report sees them; nothing else of the report opens them.

```
DIR/
  evaluation.json   what was evaluated, how, with what
  data/             the samples, as a tape; absent where they were given as one
  responses.jsonl   one Response a line
  verdicts.jsonl    one Verdict a line, with "rule"
  scores.json       every figure with its interval, and rates
```
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cache_schema.errors import DatasetError, UsageError
from cache_schema.reader import Tape, open_tape
from train.evaluate.benchmarks import BENCHMARKS
from train.evaluate.data import is_tape
from train.evaluate.directory import EvaluationDir
from train.evaluate.scores_file import read_scores
from train.evaluate.types import RULES, Benchmark, Response, Score, Verdict

Record = TypeVar("Record", Response, Verdict)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation, read.

    Attributes:
        directory: where it lies.
        about: content of ``evaluation.json``.
        benchmark: what was asked.
        responses: sample id -> what the model said, in the order of the data.
        verdicts: rule -> sample id -> verdict.
        scores: figures with intervals, in the order they were written: the first of a rule is its
            headline.
        sources: rule -> what it follows and where that misleads.
        tape: the samples; ``None`` if they are nowhere any more.
    """

    directory: Path
    about: Mapping[str, Any]
    benchmark: Benchmark
    responses: Mapping[str, Response]
    verdicts: Mapping[str, Mapping[str, Verdict]]
    scores: Sequence[Score]
    sources: Mapping[str, str]
    tape: Tape | None

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher headline is better."""
        return self.benchmark.measures[0].higher_is_better

    @property
    def model(self) -> str:
        """The model, as it was given."""
        return str(self.about.get("model") or "the model")

    @property
    def rules(self) -> list[str]:
        """Rules that judged, ``official`` first."""
        return [rule for rule in RULES if rule in self.verdicts]

    @property
    def measures(self) -> list[str]:
        """Measures with a figure, the headline first."""
        there = {score.measure for score in self.scores}
        return [one.name for one in self.benchmark.measures if one.name in there]

    def score(self, rule: str, measure: str, group: str = "") -> Score | None:
        """Return one figure, ``None`` if it was not computed."""
        wanted = (rule, measure, group)
        found = (one for one in self.scores if (one.rule, one.measure, one.group) == wanted)
        return next(found, None)

    @property
    def groups(self) -> list[str]:
        """Groups with a figure, without the one of all items; in order."""
        return list(dict.fromkeys(score.group for score in self.scores if score.group))


def read_evaluation(directory: Path) -> Evaluation:
    """Return an evaluation.

    Raises:
        UsageError: the directory holds none, or one that is not finished.
        DatasetError: a file does not hold what it should.
        TapeError: the samples lie on a tape that is damaged.
    """
    place = EvaluationDir(root=directory)
    needed = (place.about, place.responses, place.verdicts, place.scores)
    absent = [path.name for path in needed if not path.is_file()]
    if absent:
        raise UsageError(
            f"{directory} holds no finished evaluation ({', '.join(absent)} missing); "
            "make or finish one with 'train evaluate --out'"
        )
    about = _json(place.about)
    benchmark = BENCHMARKS.get(str(about.get("benchmark")))
    if benchmark is None:
        raise DatasetError(
            f"{place.about}: benchmark {about.get('benchmark')!r} is not known "
            f"(known: {', '.join(BENCHMARKS)})"
        )
    figures = read_scores(place.scores)
    verdicts: dict[str, dict[str, Verdict]] = {}
    for where, line in _lines(place.verdicts):
        rule = str(line.pop("rule", ""))
        verdict = _record(Verdict, line, where)
        verdicts.setdefault(rule, {})[verdict.sample_id] = verdict
    responses = (_record(Response, line, where) for where, line in _lines(place.responses))
    return Evaluation(
        directory=directory,
        about=about,
        benchmark=benchmark,
        responses={one.sample_id: one for one in responses},
        verdicts=verdicts,
        scores=figures.scores,
        sources=figures.sources,
        tape=_tape(place, about),
    )


def _tape(place: EvaluationDir, about: Mapping[str, Any]) -> Tape | None:
    """Return the samples: a tape in the directory, or the one that was given as the data."""
    given = str(about.get("data") or place.data)
    location = next((one for one in (str(place.data), given) if is_tape(one)), None)
    return None if location is None else open_tape(location)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected an object, got {type(content).__name__}")
    return content


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}:{number}"
            try:
                content = json.loads(line)
            except ValueError as error:
                raise DatasetError(f"{where}: not JSON: {error}") from error
            if not isinstance(content, dict):
                raise DatasetError(f"{where}: expected an object, got {type(content).__name__}")
            yield where, content


def _record(kind: type[Record], values: Mapping[str, Any], where: str) -> Record:
    try:
        return kind(**values)
    except TypeError as error:
        raise DatasetError(f"{where}: not a {kind.__name__}: {error}") from error
