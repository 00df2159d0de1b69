"""After the last response: verdicts, figures and the table a command ends with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from cache_schema.codecs.files import write_atomic
from train.evaluate.benchmarks.own import OWN
from train.evaluate.directory import EvaluationDir
from train.evaluate.scores import evaluation_of, judge_all
from train.evaluate.scores_file import read_scores, write_scores
from train.evaluate.types import Benchmark, Item, Response, Score

_NO_ANSWERS = (
    "the data has no right answers; where their column has another name, make a tape of it "
    "(pipeline ingest --set dataset.columns.answer=NAME) and give that as --data"
)


def judge(
    place: EvaluationDir,
    benchmark: Benchmark,
    items: Sequence[Item],
    responses: Sequence[Response],
) -> None:
    """Write ``verdicts.jsonl``, a rule after the other, and ``scores.json``."""
    verdicts = judge_all(benchmark, items, responses)
    lines = [
        json.dumps({"rule": rule, **vars(verdict), "groups": dict(verdict.groups)})
        for rule, found in verdicts.items()
        for verdict in found
    ]
    write_atomic(place.verdicts, "".join(f"{line}\n" for line in lines).encode())
    write_scores(place.scores, evaluation_of(benchmark, items, responses, verdicts))


def table(scores_file: Path) -> str:
    """Return the figures over all items, a line each, and how the responses ended."""
    evaluation = read_scores(scores_file)
    rates = evaluation.rates
    overall = [score for score in evaluation.scores if not score.group]
    lines = [_line(score) for score in overall]
    if evaluation.benchmark == OWN.name and all(math.isnan(score.value) for score in overall):
        lines.append(_NO_ANSWERS)
    ends = f"{rates.items} items: {rates.errors} without a response, {rates.truncated} cut at the "
    ends += f"limit of tokens, {rates.no_answer} without an answer"
    return "\n".join([f"{evaluation.benchmark} ({evaluation.ability})", *lines, ends])


def _line(score: Score) -> str:
    shown = f"{score.rule:<9} {score.measure:<20} "
    if math.isnan(score.value):
        return f"{shown} no item counts"
    value, low, high = (f"{100 * share:.1f}" for share in (score.value, score.low, score.high))
    return f"{shown}{value:>6} %  [{low}, {high}]  {score.count} items"
