"""Which classes were taken for which, where the labels are classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from train.evaluate.measures import confusion
from train.evaluate.report.page import Section, Table
from train.evaluate.report.plots.bars import matrix_plot
from train.evaluate.report.reading import Evaluation
from train.evaluate.types import Verdict

CLASS_MEASURES = ("unweighted_accuracy", "weighted_f1")
"""Measures that only make sense over classes: who computes them says that the labels are some."""

MAX_CLASSES = 40
OTHER = "(none of them)"
"""Stands for whatever was understood that is no class of the data, no answer included."""


Matrix = tuple[list[str], list[str], list[list[int]]]
"""Right classes, understood classes, counts [right][understood]."""


def confusion_section(
    evaluations: Mapping[str, Evaluation], rules: Sequence[str]
) -> Section | None:
    """Return the section with confusion matrices; ``None`` if no labels are classes.

    Args:
        evaluations: name, said in titles if it is not empty -> evaluation.
        rules: by which rules answers are judged.
    """
    matrices = {
        ", ".join(filter(None, (name, rule))): _matrix(one.verdicts.get(rule, {}))
        for name, one in evaluations.items()
        if set(CLASS_MEASURES) & set(one.measures)
        for rule in rules
    }
    if not matrices:
        return None
    text = []
    there = {}
    for name, matrix in matrices.items():
        if not matrix[0]:
            text.append(f"{name}: no verdict is counted.")
        elif len(matrix[0]) > MAX_CLASSES:
            text.append(f"{name}: {len(matrix[0])} classes are too many to show.")
        else:
            there[name] = matrix
    return Section(
        title="Which classes were taken for which",
        text=text,
        tables=[_table(name, *matrix) for name, matrix in there.items()],
        plots=[
            matrix_plot(f"confusion-{number}", f"Confusion matrix, {name}", *matrix)
            for number, (name, matrix) in enumerate(there.items())
        ],
    )


def _matrix(verdicts: Mapping[str, Verdict]) -> Matrix:
    classes, counts = confusion(list(verdicts.values()))
    if counts[:, -1].any():
        return [*classes], [*classes, OTHER], counts.tolist()
    return [*classes], [*classes], counts[:, :-1].tolist()


def _table(name: str, labels: list[str], predicted: list[str], counts: list[list[int]]) -> Table:
    return Table(
        caption=f"Counts, {name}: right class down, understood class across",
        head=("", *predicted, "items"),
        rows=[
            (label, *map(str, of), str(sum(of))) for label, of in zip(labels, counts, strict=True)
        ],
        folded=True,
    )
