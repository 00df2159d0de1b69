"""The report of one evaluation, alone or against a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cache_schema.errors import UsageError
from train.evaluate.report.changes import changes_section
from train.evaluate.report.confusion import confusion_section
from train.evaluate.report.curves import curves_section
from train.evaluate.report.facts import facts_table
from train.evaluate.report.groups import Column, group_section
from train.evaluate.report.headline import Headline, headline, otherwise_sentence
from train.evaluate.report.lengths import responses_section
from train.evaluate.report.page import Page, Section, Table, write_page
from train.evaluate.report.paired import Comparisons, compared
from train.evaluate.report.reading import Evaluation, read_evaluation
from train.evaluate.report.samples import NUM_CARDS, cards, kind_of
from train.evaluate.report.words import (
    LEVEL,
    NONE,
    difference_words,
    measure_words,
    p_number,
    points,
    points_interval,
    score_words,
)
from train.evaluate.statistics import FEWEST

THIS, BASELINE = "this", "baseline"


def write_report(
    directory: Path, baseline: Path | None = None, runs: Mapping[str, Path] | None = None
) -> Path:
    """Write ``report.html`` and ``plots/`` into an evaluation's directory.

    Args:
        directory: of the evaluation.
        baseline: directory of another one, of the same benchmark, to compare with.
        runs: name -> training run, whose loss curves are shown.

    Returns:
        The HTML file.

    Raises:
        UsageError: a directory holds no finished evaluation or no run, or the baseline is of
            another benchmark or of other items.
        DatasetError: a file does not hold what it should.
    """
    this = read_evaluation(directory)
    base = None if baseline is None else read_evaluation(baseline)
    if base is not None and base.benchmark.name != this.benchmark.name:
        raise UsageError(
            f"{directory} is of benchmark {this.benchmark.name}, the baseline {baseline} of "
            f"{base.benchmark.name}; compare evaluations of one benchmark"
        )
    return write_page(_page(this, base, runs or {}), directory)


def _page(this: Evaluation, base: Evaluation | None, runs: Mapping[str, Path]) -> Page:
    against = {} if base is None else compared([this], [base])
    first: Headline = headline(this, against)
    otherwise = "" if base is None else otherwise_sentence(this, base, (THIS, BASELINE))
    sections = [_scores(this, base, against)]
    if base is not None:
        sections.append(changes_section(this, base))
    if this.groups:
        sections.append(_groups(this, base, against))
    columns = {THIS: [this]} if base is None else {THIS: [this], BASELINE: [base]}
    sections.append(responses_section(columns))
    confusion = confusion_section({"": this}, this.rules)
    sections += [confusion] if confusion is not None else []
    sections.append(_samples(this))
    if runs:
        sections.append(curves_section(runs))
    sections.append(_about(this, base))
    return Page(
        title=f"{this.benchmark.name}: {Path(this.model).name}",
        result=first.result,
        alarm=first.alarm,
        detail=[*first.detail, *filter(None, [otherwise])],
        sections=sections,
    )


def _scores(this: Evaluation, base: Evaluation | None, against: Comparisons) -> Section:
    head = ["", "items", *this.rules]
    if base is not None:
        head += [f"{BASELINE}, {rule}" for rule in this.rules]
    rows = [_score_row(this, base, measure) for measure in this.measures]
    tables = [
        Table(
            caption=f"Scores with {LEVEL} intervals",
            head=head,
            rows=rows,
            note=(
                "official: the published rule with its bugs. strict: a missing answer is wrong. "
                "Intervals are from bootstrap over items; where all are right, or all wrong, the "
                "open end is Wilson's. Two numbers of items: those that the one rule counts, and "
                "the other."
            ),
        )
    ]
    if against:
        tables.append(_difference_table(against))
    return Section(title="Scores", tables=tables)


def _score_row(this: Evaluation, base: Evaluation | None, measure: str) -> list[str]:
    scores = [this.score(rule, measure) for rule in this.rules]
    counts = [f"{one.count:,}" for one in scores if one is not None]
    if base is not None:
        scores += [base.score(rule, measure) for rule in this.rules]
    items = " / ".join(dict.fromkeys(counts)) or NONE
    return [measure_words(measure), items, *(score_words(one) for one in scores)]


def _difference_table(against: Comparisons) -> Table:
    return Table(
        caption="Difference from the baseline, in points",
        head=("", "difference", f"{LEVEL} interval", "p", "p, exact", "items"),
        rows=[
            (
                f"{measure_words(measure)}, {rule}",
                points(one.difference),
                points_interval(one.low, one.high),
                p_number(one.p_value),
                NONE if exact is None else p_number(exact),
                f"{one.count:,}",
            )
            for (rule, measure, group), one in against.items()
            if not group
            for exact in (one.exact_p_value,)
        ],
        note=(
            "Items are compared in pairs: the interval and p are from a paired bootstrap, the "
            "exact p is McNemar's of the share of right answers. Where fewer than "
            f"{FEWEST} verdicts differ, nothing can be told: the interval reaches no difference."
        ),
    )


def _groups(this: Evaluation, base: Evaluation | None, against: Comparisons) -> Section:
    measure = this.measures[0]
    drawn = this.rules[-1]
    sides = [("", this)] if base is None else [(f"{THIS}, ", this), (f"{BASELINE}, ", base)]
    columns = [
        Column(
            name=f"{side}{rule}",
            scores={
                score.group: score
                for score in of.scores
                if score.rule == rule and score.measure == measure and score.group
            },
            drawn=base is None or rule == drawn,
        )
        for side, of in sides
        for rule in this.rules
    ]
    differences = {
        f"difference, {rule}": {
            group: difference_words(one, with_p=False)
            for (of_rule, of_measure, group), one in against.items()
            if (of_rule, of_measure) == (rule, measure)
        }
        for rule in this.rules
        if base is not None
    }
    return group_section(columns, measure, "By category", "groups", differences)


def _samples(this: Evaluation) -> Section:
    rule = this.rules[-1] if this.rules else ""
    verdicts = this.verdicts.get(rule, {})
    better = this.higher_is_better
    kinds = {
        one: kind_of(response, verdicts.get(one), better)
        for one, response in this.responses.items()
    }
    counts = ", ".join(
        f"{sum(one == kind for one in kinds.values()):,} {kind}"
        for kind in ("right", "wrong", "failed")
    )
    text = (
        f"{min(NUM_CARDS, len(kinds))} of {len(kinds):,} samples, spread over the data. By the "
        f"rule {rule}: {counts}. Failed means that no answer was found, or that the response was "
        "cut at the limit of tokens or never made. Every response is in responses.jsonl."
    )
    return Section(title="Samples", text=[text], cards=cards(this, kinds))


def _about(this: Evaluation, base: Evaluation | None) -> Section:
    tables = [facts_table(this.about, "This evaluation")]
    if base is not None:
        tables.append(facts_table(base.about, "The baseline"))
    tables.append(
        Table(
            caption="How answers are judged",
            head=("rule", "what it follows, and where that misleads"),
            rows=list(this.sources.items()),
            words=(0, 1),
        )
    )
    return Section(title="What was evaluated", tables=tables)
