"""What an evaluation is made of: items asked, responses given, verdicts on them, scores.

```
benchmark's own files -> rows -> samples (a tape) -> Item -> Response -> Verdict -> Score -> report
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ABILITIES = ("reasoning", "hearing")
"""What a benchmark measures; a report sets the one against the other."""

RULES = ("official", "strict")
"""How answers are judged: as published, with its bugs; or a missing answer is wrong."""

FINISHES = ("stop", "length", "error")
"""How a response ended: by itself, at the limit of new tokens, or it was never made."""


NOT_READ = "(not known: the row could not be read)"
"""Stands for the right answer of a row that is nowhere in a form known here: nothing equals it."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question of a benchmark.

    Attributes:
        sample_id: its key on the tape of samples.
        question: what is asked, without its choices.
        choices: what can be answered; none where the answer is free text.
        answer: the right answer: one of the choices, a label, or a transcript.
        groups: name of a grouping -> this item's group: ``{"task": "sound"}``.
    """

    sample_id: str
    question: str
    choices: tuple[str, ...] = ()
    answer: str
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Response:
    """What a model said to one item.

    Attributes:
        sample_id: whose.
        text: everything it generated, without special tokens.
        trace: the reasoning in it; empty if there is none.
        answer: the answer in it; empty if none was found.
        num_tokens: tokens generated.
        finish: one of ``FINISHES``.
        error: why there is none, where ``finish`` is ``error``.
    """

    sample_id: str
    text: str
    trace: str = ""
    answer: str = ""
    num_tokens: int
    finish: str
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a rule says of one response.

    Attributes:
        sample_id: whose.
        value: 1 right, 0 wrong; for transcripts the share of words that are wrong.
        weight: what it counts: 1, for transcripts the words of the reference.
        expected: the right label, as the rule compares it.
        predicted: the label that was understood; empty if none was.
        counted: whether the rule counts the item at all.
        groups: those of the item.
    """

    sample_id: str
    value: float
    weight: float = 1.0
    expected: str = ""
    predicted: str = ""
    counted: bool = True
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One way of judging.

    Attributes:
        name: one of ``RULES``.
        judge: (item, its response) -> verdict.
        source: what it follows: publication, file, version; where it misleads.
    """

    name: str
    judge: Callable[[Item, Response], Verdict]
    source: str


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure over verdicts.

    Attributes:
        name: ``accuracy``, ``unweighted_accuracy``, ``weighted_f1``, ``word_error_rate``.
        compute: verdicts that count -> figure, a share of 1 (an error rate may be more).
        higher_is_better: false for error rates.
    """

    name: str
    compute: Callable[[Sequence[Verdict]], float]
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class Submission:
    """The published file with what was said: how a leaderboard or a published script takes it.

    Attributes:
        names: of the published file.
        keys: that hold what was said, each the same.
        suffix: ``.json`` for a list, ``.jsonl`` for lines.
    """

    names: tuple[str, ...]
    keys: tuple[str, ...]
    suffix: str


Complete = Callable[[Sequence[Item], Sequence[Mapping[str, Any]]], list[Item]]
"""(items of a tape, the metadata of each) -> items as the benchmark asks them."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A set of questions from its own files, and how it is scored.

    Attributes:
        name: as on the command line.
        ability: one of ``ABILITIES``.
        rows: the published files (a file or a folder) -> rows in the form datasets have for
            ``pipeline ingest``: ``id``, ``audio`` (an absolute path), ``question``, ``choices``,
            ``answer``; every other key is metadata, whose strings in ``groups`` are the groupings.
        groups: metadata keys that scores are also given by.
        rules: how answers are judged, ``official`` first.
        measures: what is computed; the first is the headline.
        submission: what is sent to a leaderboard, where there is one.
        complete: makes items of a tape that was not made of ``rows``, where a row's own question
            is not the benchmark's.
    """

    name: str
    ability: str
    rows: Callable[[Path], Iterator[dict[str, Any]]]
    groups: tuple[str, ...]
    rules: tuple[Rule, ...]
    measures: tuple[Measure, ...]
    submission: Submission | None = None
    complete: Complete | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """One figure with its interval.

    Attributes:
        rule: by which rule.
        measure: of which measure.
        group: ``""`` for all items, otherwise ``grouping=value``.
        value: the figure, a share of 1.
        low: lower end of its 95 % bootstrap interval; see ``statistics``.
        high: upper end.
        count: items that counted.
    """

    rule: str
    measure: str
    group: str
    value: float
    low: float
    high: float
    count: int
