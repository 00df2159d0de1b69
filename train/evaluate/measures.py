"""Figures over verdicts, each a formula over how often every distinct verdict occurs.

Two verdicts that a measure cannot tell apart are one kind. A figure is computed from the counts of
the kinds, for many vectors of counts at once, which is what makes a bootstrap of ten thousand
resamples cheap: K is two for right and wrong. Shapes: B resamples, K kinds, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.evaluate.types import Measure, Verdict

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """Distinct verdicts, K of them.

    Attributes:
        values: float64 [K], the verdict's value.
        weights: float64 [K], what it counts.
        expected: int64 [K], number of the right class among the classes that are ever right.
        predicted: int64 [K], number of the predicted class among the same, -1 for any other.
        num_classes: C.
    """

    values: Floats
    weights: Floats
    expected: Counts
    predicted: Counts
    num_classes: int

    def take(self, index_J: Counts) -> Kinds:
        """Return the kinds of these numbers, in this order."""
        return Kinds(
            values=self.values[index_J],
            weights=self.weights[index_J],
            expected=self.expected[index_J],
            predicted=self.predicted[index_J],
            num_classes=self.num_classes,
        )


Key = tuple[float, float, str, str]
Formula = Callable[[Kinds, Counts], Floats]


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """How a measure is computed.

    Attributes:
        by_class: whether it tells classes apart; if not, kinds differ by value and weight only.
        formula: (kinds, counts int64 [B, K]) -> float64 [B]; NaN where nothing is counted.
    """

    by_class: bool
    formula: Formula

    def key(self, verdict: Verdict) -> Key:
        """Return what makes a verdict a kind of its own."""
        labels = (verdict.expected, verdict.predicted) if self.by_class else ("", "")
        return verdict.value, verdict.weight, *labels


def kinds_of(keys: Sequence[Key]) -> Kinds:
    """Return distinct keys as arrays, in their order."""
    classes = {label: number for number, label in enumerate(sorted({key[2] for key in keys}))}
    return Kinds(
        values=np.array([key[0] for key in keys], dtype=np.float64),
        weights=np.array([key[1] for key in keys], dtype=np.float64),
        expected=np.array([classes[key[2]] for key in keys], dtype=np.int64),
        predicted=np.array([classes.get(key[3], -1) for key in keys], dtype=np.int64),
        num_classes=len(classes),
    )


def tabulate(verdicts: Sequence[Verdict], kernel: Kernel) -> tuple[Kinds, Counts]:
    """Return the kinds of the verdicts that count, and how often each occurs, int64 [K].

    Kinds are sorted, so that nothing computed from them depends on the order of items.
    """
    found = Counter(kernel.key(verdict) for verdict in verdicts if verdict.counted)
    keys = sorted(found)
    return kinds_of(keys), np.array([found[key] for key in keys], dtype=np.int64)


def _mean(kinds: Kinds, counts_BK: Counts) -> Floats:
    return _ratio(counts_BK @ (kinds.weights * kinds.values), counts_BK @ kinds.weights)


def _classes(kinds: Kinds, number_K: Counts) -> Floats:
    """Return float64 [K, C], 1 where a kind is of a class."""
    found: Floats = (number_K[:, None] == np.arange(kinds.num_classes)).astype(np.float64)
    return found


def _mean_recall(kinds: Kinds, counts_BK: Counts) -> Floats:
    of_class_KC = _classes(kinds, kinds.expected)
    right_BC = counts_BK @ (of_class_KC * kinds.values[:, None])
    all_BC = counts_BK @ of_class_KC
    recall_BC = np.where(all_BC > 0, _ratio(right_BC, all_BC), 0.0)
    return _ratio(recall_BC.sum(axis=1), (all_BC > 0).sum(axis=1))


def _weighted_f1(kinds: Kinds, counts_BK: Counts) -> Floats:
    of_class_KC = _classes(kinds, kinds.expected)
    right_BC = counts_BK @ (of_class_KC * kinds.values[:, None])
    all_BC = counts_BK @ of_class_KC
    said_BC = counts_BK @ _classes(kinds, kinds.predicted)
    f1_BC = np.where(all_BC > 0, _ratio(2 * right_BC, all_BC + said_BC), 0.0)
    return _ratio((f1_BC * all_BC).sum(axis=1), all_BC.sum(axis=1))


def _ratio(above: NDArray[np.generic], below: NDArray[np.generic]) -> Floats:
    """Divide; NaN where nothing is counted."""
    top, bottom = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    found: Floats = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return found


KERNELS: Mapping[str, Kernel] = {
    "accuracy": Kernel(by_class=False, formula=_mean),
    "unweighted_accuracy": Kernel(by_class=True, formula=_mean_recall),
    "weighted_accuracy": Kernel(by_class=False, formula=_mean),
    "weighted_f1": Kernel(by_class=True, formula=_weighted_f1),
    "word_error_rate": Kernel(by_class=False, formula=_mean),
}
"""Name of a measure -> how it is computed."""


def _measure(name: str, higher_is_better: bool = True) -> Measure:
    kernel = KERNELS[name]

    def compute(verdicts: Sequence[Verdict]) -> float:
        kinds, counts_K = tabulate(verdicts, kernel)
        return float(kernel.formula(kinds, counts_K[None])[0])

    return Measure(name=name, compute=compute, higher_is_better=higher_is_better)


ACCURACY = _measure("accuracy")
"""Right answers over answers that count."""

UNWEIGHTED_ACCURACY = _measure("unweighted_accuracy")
"""Mean over the classes of the share of each that is right (its recall); classes that are never the
right one have no part. What speech emotion recognition calls UA, others balanced accuracy."""

WEIGHTED_ACCURACY = _measure("weighted_accuracy")
"""The share of all items that is right: the recalls of the classes, each weighted by how often it
is the right one. What speech emotion recognition calls WA; the same figure as accuracy."""

WEIGHTED_F1 = _measure("weighted_f1")
"""F1 of each class, weighted by how often it is the right one. F1 = 2 x right / (times it is the
right one + times it was predicted), 0 for a class that is never predicted (sklearn's
``average="weighted"``)."""

WORD_ERROR_RATE = _measure("word_error_rate", higher_is_better=False)
"""Words that are wrong over words of all references: the sums first, one division."""


def confusion(verdicts: Sequence[Verdict]) -> tuple[tuple[str, ...], Counts]:
    """Return the classes, sorted, and how often which was taken for which.

    Args:
        verdicts: of one rule; those that do not count are left out.

    Returns:
        The C classes that are ever right, and int64 [C, C + 1]: row the right class, column the
        predicted one; the last column holds what is none of them, no answer included.
    """
    counted = Counter((v.expected, v.predicted) for v in verdicts if v.counted)
    classes = tuple(sorted({expected for expected, _ in counted}))
    place = {label: number for number, label in enumerate(classes)}
    table = np.zeros((len(classes), len(classes) + 1), dtype=np.int64)
    for (expected, predicted), count in counted.items():
        table[place[expected], place.get(predicted, len(classes))] += count
    return classes, table
