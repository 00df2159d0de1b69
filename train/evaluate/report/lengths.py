"""How responses ended, what of them was understood, and how long they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median

from train.evaluate.report.page import Section, Table
from train.evaluate.report.plots.lines import lengths_plot
from train.evaluate.report.reading import Evaluation
from train.evaluate.report.words import NONE, percent
from train.evaluate.types import Response


def responses_section(
    evaluations: Mapping[str, Sequence[Evaluation]], title: str = "Responses", name: str = "tokens"
) -> Section:
    """Return the section on truncation, failures, answers that were not found, and lengths.

    Args:
        evaluations: name -> its evaluations, taken together.
        title: of the section.
        name: of the plot's file.
    """
    columns = {who: _figures(of) for who, of in evaluations.items()}
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    table = Table(
        caption="How responses ended, and what of them was understood",
        head=("", *columns),
        rows=[(row, *(of.get(row, NONE) for of in columns.values())) for row in rows],
    )
    lengths = {
        who: [one.num_tokens for one in _responses(of) if one.finish != "error"]
        for who, of in evaluations.items()
    }
    return Section(
        title=title, tables=[table], plots=[lengths_plot(name, "Length of responses", lengths)]
    )


def _responses(evaluations: Sequence[Evaluation]) -> list[Response]:
    return [response for one in evaluations for response in one.responses.values()]


def _figures(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    responses = _responses(evaluations)
    lengths = sorted(one.num_tokens for one in responses if one.finish != "error") or [0]
    figures = {
        "responses": f"{len(responses):,}",
        "cut at the limit of tokens": _share([one.finish == "length" for one in responses]),
        "failed with an error": _share([one.finish == "error" for one in responses]),
        "no answer found": _share([not one.answer.strip() for one in responses]),
        "no trace": _share([not one.trace.strip() for one in responses]),
    }
    for rule in dict.fromkeys(rule for one in evaluations for rule in one.rules):
        of_rule = [
            verdict for one in evaluations for verdict in one.verdicts.get(rule, {}).values()
        ]
        figures[f"{rule}: not understood"] = _share([not one.predicted for one in of_rule])
        figures[f"{rule}: not counted"] = _share([not one.counted for one in of_rule])
    return figures | {
        "tokens, mean": f"{mean(lengths):,.0f}",
        "tokens, median": f"{median(lengths):,.0f}",
        "tokens, 95th percentile": f"{lengths[int(0.95 * (len(lengths) - 1))]:,}",
        "tokens, longest": f"{lengths[-1]:,}",
    }


def _share(marks: Sequence[bool]) -> str:
    """Return how many, and what share that is."""
    return f"{sum(marks):,} ({percent(sum(marks) / len(marks))})" if marks else NONE
