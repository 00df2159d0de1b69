"""Which items changed against the baseline."""

from __future__ import annotations

from collections.abc import Sequence

from train.evaluate.report.page import Section, Table
from train.evaluate.report.reading import Evaluation
from train.evaluate.report.words import NONE, clipped, percent

MAX_ROWS = 25
TEXT_LETTERS = 240


def changes_section(this: Evaluation, base: Evaluation) -> Section:
    """Return the section on items whose verdict changed, those that got worse first."""
    rule = this.rules[-1] if this.rules else ""
    here, there = this.verdicts.get(rule, {}), base.verdicts.get(rule, {})
    sign = 1 if this.higher_is_better else -1
    changes = {
        one: sign * (here[one].value - there[one].value)
        for one in here
        if one in there and here[one].value != there[one].value
    }
    worse = sorted((one for one in changes if changes[one] < 0), key=lambda one: changes[one])
    better = sorted((one for one in changes if changes[one] > 0), key=lambda one: -changes[one])
    same = sum(one in there for one in here) - len(changes)
    text = (
        f"By the rule {rule}: {len(worse):,} items got worse, {len(better):,} got better, "
        f"{same:,} have the same verdict."
    )
    only = len(here.keys() ^ there.keys())
    more = [f"{only:,} items were answered by one of the two only and are not compared."] * bool(
        only
    )
    tables = [
        _table(f"Got {how}", ids, this, base, rule)
        for how, ids in (("worse", worse), ("better", better))
        if ids
    ]
    return Section(title="Which items changed", text=[text, *more], tables=tables)


def _table(
    caption: str, ids: Sequence[str], this: Evaluation, base: Evaluation, rule: str
) -> Table:
    shown = ids[:MAX_ROWS]
    more = len(ids) - len(shown)
    return Table(
        caption=f"{caption}: {len(ids):,}",
        head=("sample", "question", "expected", "baseline", "this"),
        rows=[
            (
                one,
                _question(this, one),
                clipped(this.verdicts[rule][one].expected, TEXT_LETTERS) or NONE,
                _answer(base, one, rule),
                _answer(this, one, rule),
            )
            for one in shown
        ],
        words=(0, 1, 2, 3, 4),
        note=f"{more:,} more; all are in verdicts.jsonl of both." if more else "",
        folded=True,
    )


def _question(evaluation: Evaluation, sample_id: str) -> str:
    tape = evaluation.tape
    if tape is None or sample_id not in tape:
        return NONE
    return clipped(tape[sample_id].question, TEXT_LETTERS)


def _answer(evaluation: Evaluation, sample_id: str, rule: str) -> str:
    """Return what was answered, with its error rate where that is what is judged."""
    response, verdict = evaluation.responses.get(sample_id), evaluation.verdicts[rule][sample_id]
    answer = clipped(response.answer, TEXT_LETTERS) if response is not None else ""
    error = f" ({percent(verdict.value, 0)} wrong)" if not evaluation.higher_is_better else ""
    return (answer or "(no answer)") + error
