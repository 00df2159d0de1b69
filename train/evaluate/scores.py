"""Verdicts, scores and rates of one evaluation.

Nothing here depends on the order in which items were asked or answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cache_schema.errors import DatasetError
from train.evaluate.comparison import Verdicts
from train.evaluate.groups import groups_of
from train.evaluate.scores_file import Evaluation, Rates
from train.evaluate.statistics import RESAMPLES, interval
from train.evaluate.types import Benchmark, Item, Measure, Response, Score, Verdict

NO_RESPONSE = "no response was given"
"""The error of an item that has no response at all."""


def judge_all(
    benchmark: Benchmark, items: Iterable[Item], responses: Iterable[Response]
) -> dict[str, list[Verdict]]:
    """Judge every item by every rule, sorted by sample id.

    An item without a response is judged as one whose response was never made: wrong by the strict
    rule, left out by most official ones.

    Raises:
        DatasetError: two items or two responses of one id, or a response to no item.
    """
    asked = _by_id(items, "items")
    given = _by_id(responses, "responses")
    strangers = sorted(given.keys() - asked.keys())
    if strangers:
        raise DatasetError(
            f"{benchmark.name}: {len(strangers)} responses are to none of its items, the first to "
            f"{strangers[0]!r}; they are of another benchmark or another tape"
        )
    verdicts: dict[str, list[Verdict]] = {rule.name: [] for rule in benchmark.rules}
    for sample_id in sorted(asked):
        response = given.get(sample_id) or Response(
            sample_id=sample_id, text="", num_tokens=0, finish="error", error=NO_RESPONSE
        )
        for rule in benchmark.rules:
            verdicts[rule.name].append(rule.judge(asked[sample_id], response))
    return verdicts


def score_all(
    benchmark: Benchmark, verdicts: Verdicts, *, resamples: int = RESAMPLES
) -> list[Score]:
    """Return every measure by every rule, over all items and over each group of each grouping.

    A figure over no item that counts is NaN, with a count of 0.
    """
    return [
        _score(rule.name, measure, group, members, resamples)
        for rule in benchmark.rules
        for group, members in groups_of(benchmark, verdicts[rule.name]).items()
        for measure in benchmark.measures
    ]


def rates_of(items: Iterable[Item], responses: Iterable[Response], verdicts: Verdicts) -> Rates:
    """Return how the responses ended; an item without a response counts as an error."""
    given = {response.sample_id: response for response in responses}
    ends = [given.get(item.sample_id) for item in items]
    made = [response for response in ends if response and response.finish != "error"]
    return Rates(
        items=len(ends),
        truncated=sum(response.finish == "length" for response in made),
        no_answer=sum(not response.answer.strip() for response in made),
        errors=len(ends) - len(made),
        not_counted={
            rule: sum(not verdict.counted for verdict in found) for rule, found in verdicts.items()
        },
    )


def evaluation_of(
    benchmark: Benchmark,
    items: Iterable[Item],
    responses: Iterable[Response],
    verdicts: Verdicts,
    *,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Score and count what was judged: all that ``scores.json`` holds."""
    return Evaluation(
        benchmark=benchmark.name,
        ability=benchmark.ability,
        scores=tuple(score_all(benchmark, verdicts, resamples=resamples)),
        rates=rates_of(items, responses, verdicts),
        sources={rule.name: rule.source for rule in benchmark.rules},
    )


def _score(
    rule: str, measure: Measure, group: str, verdicts: Sequence[Verdict], resamples: int
) -> Score:
    found = interval(verdicts, measure, resamples)
    return Score(
        rule=rule,
        measure=measure.name,
        group=group,
        value=found.value,
        low=found.low,
        high=found.high,
        count=sum(verdict.counted for verdict in verdicts),
    )


def _by_id(things: Iterable[Item] | Iterable[Response], what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for thing in things:
        if thing.sample_id in found:
            raise DatasetError(f"two {what} have the id {thing.sample_id!r}; ids must not repeat")
        found[thing.sample_id] = thing
    return found
