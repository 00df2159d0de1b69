"""Before and after: answers on held-out rows, and the table."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from cache_schema.answers.questions import is_correct, parse_answer
from examples.quickstart.questions import HEARING, QUESTIONS, REASONING_KINDS
from examples.quickstart.world import Row
from train.evaluate.responses import ResponseLog

Scores = dict[str, tuple[int, int]]
"""Kind of question -> (right, asked); ``reasoning`` sums up all kinds but hearing."""


def answers_in(evaluation: Path, rows: Sequence[Row]) -> list[str]:
    """Return the text for every row that ``train evaluate`` left in a folder."""
    done = ResponseLog(evaluation / "responses.jsonl").done
    return [done[row.row_id].text for row in rows]


def score(texts: Sequence[str], rows: Sequence[Row]) -> Scores:
    """Count right answers: the ``RESPONSE`` of a trace, or the whole of a plain answer."""
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for text, row in zip(texts, rows, strict=True):
        asked[row.kind] += 1
        right[row.kind] += bool(is_correct(parse_answer(text), row.solution.answer, row.choices))
    scores = {kind: (right[kind], asked[kind]) for kind in QUESTIONS}
    scores["reasoning"] = (
        sum(right[kind] for kind in REASONING_KINDS),
        sum(asked[kind] for kind in REASONING_KINDS),
    )
    return scores


def chance(rows: Sequence[Row]) -> dict[str, float]:
    """Return the expected share of right answers when choosing blindly; 0 for open questions."""
    shares: dict[str, list[float]] = {}
    for row in rows:
        share = 1 / len(row.choices) if row.choices else 0.0
        for name in (row.kind, *(["reasoning"] if row.kind != HEARING else [])):
            shares.setdefault(name, []).append(share)
    return {name: sum(values) / len(values) for name, values in shares.items()}


def commonest_answers(training: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """Answer each row with its kind's commonest right answer in training: no listening."""
    counts = {kind: Counter[str]() for kind in QUESTIONS}
    for row in training:
        counts[row.kind][row.solution.answer] += 1
    commonest = {kind: max(sorted(count), key=count.__getitem__) for kind, count in counts.items()}
    return [commonest[row.kind] for row in rows]


def table(scores: Mapping[str, Scores], blind: Mapping[str, float]) -> str:
    """Return the table: one line a model, one column a kind of question."""
    columns = (HEARING, "reasoning", *REASONING_KINDS)
    asked = next(iter(scores.values()))
    width = max(len(name) for name in scores)
    lines = [
        " " * width + "".join(f"{name:>14}" for name in columns),
        "rows".ljust(width) + "".join(f"{asked[name][1]:>14}" for name in columns),
    ]
    lines += [
        name.ljust(width)
        + "".join(f"{100 * values[column][0] / values[column][1]:>13.1f}%" for column in columns)
        for name, values in scores.items()
    ]
    lines.append(
        "choosing blindly".ljust(width)
        + "".join(f"{100 * blind[column]:>13.1f}%" for column in columns)
    )
    return "\n".join(lines)


def clearly_better(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Whether a share rose by more than three standard errors of the difference."""
    (right_before, asked_before), (right_after, asked_after) = before, after
    share_before, share_after = right_before / asked_before, right_after / asked_after
    variance = (
        share_before * (1 - share_before) / asked_before
        + share_after * (1 - share_after) / asked_after
    )
    return share_after - share_before > 3 * math.sqrt(variance)


def save_answers(path: Path, rows: Sequence[Row], texts: Mapping[str, Sequence[str]]) -> None:
    """Write every model's answer to every row, for reading."""
    with path.open("w", encoding="utf-8") as file:
        for place, row in enumerate(rows):
            answers = {name: answer[place] for name, answer in texts.items()}
            file.write(json.dumps({**row.as_json(), "answers": answers}) + "\n")
