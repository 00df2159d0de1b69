"""The task in words: numbers, questions about them, true answers and true reasoning.

A reasoning question needs two things: hearing which numbers are spoken, and a short chain of steps
that composes over them. ``solve`` carries out the chain; the textual teacher learns to write it.
The fourth question asks for the numbers alone: it measures hearing.

Every summary ends with the answer. A student of a million parameters that trains for a minute is
better at copying a word than at one more inference behind the summary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
)
HEARING_QUESTION = "What numbers do you hear?"


@dataclass(frozen=True, kw_only=True)
class Solution:
    """One true way to the answer, in the four parts of a structured trace.

    Attributes:
        planning: what will be done.
        caption: what is heard.
        reasoning: the steps.
        summary: what follows from them.
        answer: the answer, one of the choices if there are any.
    """

    planning: str
    caption: str
    reasoning: str
    summary: str
    answer: str

    @property
    def trace(self) -> str:
        """The trace in the tagged form of CoTA (arXiv 2503.02318).

        The space before the answer makes it the same token as in the caption and the choices.
        """
        return (
            f"<THINK><PLANNING>{self.planning}</PLANNING><CAPTION>{self.caption}</CAPTION>"
            f"<REASONING>{self.reasoning}</REASONING><SUMMARY>{self.summary}</SUMMARY></THINK>"
            f"<RESPONSE> {self.answer}</RESPONSE>"
        )


def transcript(numbers: Sequence[int]) -> str:
    """Return the numbers as words, as they are spoken one after the other."""
    return " ".join(NUMBER_WORDS[number] for number in numbers)


def _parity(number: int) -> str:
    return "odd" if number % 2 else "even"


def _steps(numbers: Sequence[int], step: Callable[[int], str]) -> str:
    return " ".join(
        f"{NUMBER_WORDS[number]} {step(place)}." for place, number in enumerate(numbers)
    )


def _solve_hearing(numbers: Sequence[int]) -> Solution:
    return Solution(
        planning="write the numbers down",
        caption=f"I hear {transcript(numbers)}",
        reasoning="so far " + " ".join(f"{NUMBER_WORDS[number]}." for number in numbers),
        summary=f"the numbers are {transcript(numbers)}",
        answer=transcript(numbers),
    )


def _counting(numbers: Sequence[int]) -> tuple[str, str]:
    """Return the steps that count odd numbers, and the final count in words."""
    counts = [sum(number % 2 for number in numbers[: place + 1]) for place in range(len(numbers))]
    steps = _steps(
        numbers, lambda place: f"{_parity(numbers[place])}, count {NUMBER_WORDS[counts[place]]}"
    )
    return f"so far {steps}", NUMBER_WORDS[counts[-1]]


def _solve_sum_parity(numbers: Sequence[int]) -> Solution:
    reasoning, count = _counting(numbers)
    total = _parity(sum(numbers))
    answer = "yes" if total == "even" else "no"
    return Solution(
        planning="count the odd numbers, then tell the sum",
        caption=f"I hear {transcript(numbers)}",
        reasoning=reasoning,
        summary=f"{count} odd, so the sum is {total}: {answer}",
        answer=answer,
    )


def _solve_count_odd(numbers: Sequence[int]) -> Solution:
    reasoning, count = _counting(numbers)
    return Solution(
        planning="count the odd numbers",
        caption=f"I hear {transcript(numbers)}",
        reasoning=reasoning,
        summary=f"the count is {count}",
        answer=count,
    )


def _solve_largest(numbers: Sequence[int]) -> Solution:
    largest = NUMBER_WORDS[max(numbers)]
    return Solution(
        planning="keep the largest number",
        caption=f"I hear {transcript(numbers)}",
        reasoning="so far "
        + _steps(numbers, lambda place: f"largest {NUMBER_WORDS[max(numbers[: place + 1])]}"),
        summary=f"the largest is {largest}",
        answer=largest,
    )


def _yes_no(_: Sequence[int], __: np.random.Generator) -> tuple[str, ...]:
    return ("yes", "no")


def _counts(_: Sequence[int], __: np.random.Generator) -> tuple[str, ...]:
    return NUMBER_WORDS[:4]


def _open(_: Sequence[int], __: np.random.Generator) -> tuple[str, ...]:
    return ()


def four_numbers(numbers: Sequence[int], rng: np.random.Generator) -> tuple[str, ...]:
    """The numbers heard and others that are not, in random order: four choices."""
    heard = sorted(set(numbers))
    others = [number for number in range(len(NUMBER_WORDS)) if number not in heard]
    offered = heard + rng.choice(others, size=4 - len(heard), replace=False).tolist()
    return tuple(NUMBER_WORDS[number] for number in rng.permutation(offered))


@dataclass(frozen=True, kw_only=True)
class QuestionKind:
    """One kind of question.

    Attributes:
        text: the question.
        choices: makes the permitted answers for given numbers; none for an open question.
        solve: works out the true solution.
    """

    text: str
    choices: Callable[[Sequence[int], np.random.Generator], tuple[str, ...]]
    solve: Callable[[Sequence[int]], Solution]


HEARING = "hearing"

QUESTIONS: dict[str, QuestionKind] = {
    "sum parity": QuestionKind(
        text="Is the sum of the numbers even?", choices=_yes_no, solve=_solve_sum_parity
    ),
    "count odd": QuestionKind(
        text="How many of the numbers are odd?", choices=_counts, solve=_solve_count_odd
    ),
    "largest": QuestionKind(
        text="Which number is the largest?", choices=four_numbers, solve=_solve_largest
    ),
    HEARING: QuestionKind(text=HEARING_QUESTION, choices=_open, solve=_solve_hearing),
}
"""Kind -> question; all but the last need reasoning."""

REASONING_KINDS = tuple(kind for kind in QUESTIONS if kind != HEARING)
