"""What is asked about spoken numbers, the true answers, and true reasoning in varied words.

Reasoning questions need to hear which numbers are spoken and then a step over them: arithmetic
(``sum parity``, ``total``), counting (``count odd``), comparison (``largest``), order (``rising``)
and negation (``none small``).

A trace says the same thing in one of several wordings, as a language model that samples does: its
distribution at a token has more than one likely word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from examples.quickstart.questions import NUMBER_WORDS, transcript

WORDS = (
    *NUMBER_WORDS,
    *("ten", "eleven", "twelve", "thirteen", "fourteen"),
    *("fifteen", "sixteen", "seventeen", "eighteen"),
)
"""0 to 18, the sums of two digits included."""

SMALL = 5

Numbers = Sequence[int]
_CAPTIONS = ("I hear {}", "the voice says {}", "spoken are {}")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """One true way to an answer: what is planned, its steps, what follows; each in wordings."""

    plans: tuple[str, ...]
    reasonings: tuple[str, ...]
    summaries: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ReasoningKind:
    """One kind of reasoning question.

    Attributes:
        text: the question.
        choices: makes the permitted answers.
        answer: works out the right one.
        steps: works out the way there, given numbers, choices and answer.
        balanced: whether both answers are to be equally frequent: they are yes and no.
    """

    text: str
    choices: Callable[[Numbers, np.random.Generator], tuple[str, ...]]
    answer: Callable[[Numbers, Sequence[str]], str]
    steps: Callable[[Numbers, Sequence[str], str], Steps]
    balanced: bool = False


def write_trace(
    kind: str, numbers: Numbers, choices: Sequence[str], rng: np.random.Generator
) -> str:
    """Return a true trace in the tagged form of CoTA (arXiv 2503.02318), wordings drawn."""
    asked = REASONING[kind]
    answer = asked.answer(numbers, choices)
    steps = asked.steps(numbers, choices, answer)

    def one(wordings: Sequence[str]) -> str:
        return wordings[int(rng.integers(len(wordings)))]

    return tagged(
        answer,
        PLANNING=one(steps.plans),
        CAPTION=one(_CAPTIONS).format(transcript(numbers)),
        REASONING=one(steps.reasonings),
        SUMMARY=one(steps.summaries),
    )


def tagged(answer: str, **parts: str) -> str:
    """Return a trace of named parts and the answer.

    The space before the answer makes it the same token as among the choices.
    """
    inner = "".join(f"<{tag}>{text}</{tag}>" for tag, text in parts.items())
    return f"<THINK>{inner}</THINK><RESPONSE> {answer}</RESPONSE>"


def _yes_no(_: Numbers, __: np.random.Generator) -> tuple[str, ...]:
    return ("yes", "no")


def _shuffled(values: Sequence[int], rng: np.random.Generator) -> tuple[str, ...]:
    return tuple(WORDS[value] for value in rng.permutation(list(values)))


def _others(numbers: Numbers, count: int, rng: np.random.Generator) -> list[int]:
    unheard = [number for number in range(10) if number not in numbers]
    drawn: list[int] = rng.choice(unheard, size=count, replace=False).tolist()
    return drawn


def four_with_heard(numbers: Numbers, rng: np.random.Generator) -> tuple[str, ...]:
    heard = sorted(set(numbers))
    return _shuffled(heard + _others(numbers, 4 - len(heard), rng), rng)


def _four_sums(numbers: Numbers, rng: np.random.Generator) -> tuple[str, ...]:
    total = numbers[0] + numbers[-1]
    near = [value for value in range(max(0, total - 3), min(18, total + 3) + 1) if value != total]
    return _shuffled([total, *rng.choice(near, size=3, replace=False).tolist()], rng)


def _parity(number: int) -> str:
    return "odd" if number % 2 else "even"


def _counted(numbers: Numbers) -> tuple[tuple[str, ...], str]:
    counts = [sum(n % 2 for n in numbers[: place + 1]) for place in range(len(numbers))]
    each = [(WORDS[n], _parity(n), WORDS[count]) for n, count in zip(numbers, counts, strict=True)]
    return (
        " ".join(f"{word} {parity}, count {count}." for word, parity, count in each),
        " ".join(f"{word} is {parity}: {count}." for word, parity, count in each),
    ), WORDS[counts[-1]]


def _sum_parity(numbers: Numbers, _: Sequence[str], answer: str) -> Steps:
    reasonings, count = _counted(numbers)
    total = _parity(sum(numbers))
    return Steps(
        plans=("count the odd numbers, then tell the sum", "an even count of odd ones sums even"),
        reasonings=reasonings,
        summaries=(
            f"{count} odd, so the sum is {total}: {answer}",
            f"with {count} odd the sum is {total}, {answer}",
        ),
    )


def _count_odd(numbers: Numbers, _: Sequence[str], __: str) -> Steps:
    reasonings, count = _counted(numbers)
    return Steps(
        plans=("count the odd numbers", "go through them and count odd ones"),
        reasonings=reasonings,
        summaries=(f"the count is {count}", f"odd are {count}"),
    )


def _largest(numbers: Numbers, _: Sequence[str], answer: str) -> Steps:
    best = [WORDS[max(numbers[: place + 1])] for place in range(len(numbers))]
    each = [(WORDS[n], word) for n, word in zip(numbers, best, strict=True)]
    return Steps(
        plans=("keep the largest number", "compare one after the other"),
        reasonings=(
            " ".join(f"{word}, largest {top}." for word, top in each),
            " ".join(f"{word}: now {top}." for word, top in each),
        ),
        summaries=(f"the largest is {answer}", f"no number is above {answer}"),
    )


def _is_rising(numbers: Numbers) -> bool:
    return all(a < b for a, b in pairwise(numbers))


def _rising(numbers: Numbers, _: Sequence[str], answer: str) -> Steps:
    pairs = [(WORDS[b], "above" if a < b else "not above", WORDS[a]) for a, b in pairwise(numbers)]
    always = "always" if answer == "yes" else "not always"
    return Steps(
        plans=("compare each number with the one before", "look at neighbours in order"),
        reasonings=(
            " ".join(f"{later} is {how} {earlier}." for later, how, earlier in pairs),
            " ".join(f"{earlier} then {later}: {how}." for later, how, earlier in pairs),
        ),
        summaries=(f"{always} above: {answer}", f"it is {always} rising, {answer}"),
    )


def _none_small(numbers: Numbers, _: Sequence[str], answer: str) -> Steps:
    each = [(WORDS[n], "small" if n < SMALL else "not small") for n in numbers]
    found = "none is small" if answer == "yes" else "some are small"
    return Steps(
        plans=("look for small numbers", "compare each number with five"),
        reasonings=(
            " ".join(f"{word} is {size}." for word, size in each),
            " ".join(f"{word}: {size}." for word, size in each),
        ),
        summaries=(f"{found}: {answer}", f"so {found}, {answer}"),
    )


def _total(numbers: Numbers, _: Sequence[str], answer: str) -> Steps:
    first, last = WORDS[numbers[0]], WORDS[numbers[-1]]
    return Steps(
        plans=("add the first and the last number", "take both ends and add them"),
        reasonings=(
            f"first {first}, last {last}: {first} and {last} make {answer}.",
            f"the ends are {first} and {last}, together {answer}.",
        ),
        summaries=(f"the sum is {answer}", f"that makes {answer}"),
    )


REASONING: dict[str, ReasoningKind] = {
    "sum parity": ReasoningKind(
        text="Is the sum of the numbers even?",
        choices=_yes_no,
        answer=lambda numbers, _: "no" if sum(numbers) % 2 else "yes",
        steps=_sum_parity,
        balanced=True,
    ),
    "count odd": ReasoningKind(
        text="How many of the numbers are odd?",
        choices=lambda _, __: NUMBER_WORDS[:4],
        answer=lambda numbers, _: WORDS[sum(n % 2 for n in numbers)],
        steps=_count_odd,
    ),
    "largest": ReasoningKind(
        text="Which number is the largest?",
        choices=four_with_heard,
        answer=lambda numbers, _: WORDS[max(numbers)],
        steps=_largest,
    ),
    "rising": ReasoningKind(
        text="Is every number larger than the one before?",
        choices=_yes_no,
        answer=lambda numbers, _: "yes" if _is_rising(numbers) else "no",
        steps=_rising,
        balanced=True,
    ),
    "none small": ReasoningKind(
        text="Is none of the numbers below five?",
        choices=_yes_no,
        answer=lambda numbers, _: "yes" if min(numbers) >= SMALL else "no",
        steps=_none_small,
        balanced=True,
    ),
    "total": ReasoningKind(
        text="What is the sum of the first and the last number?",
        choices=_four_sums,
        answer=lambda numbers, _: WORDS[numbers[0] + numbers[-1]],
        steps=_total,
    ),
}
"""Kind -> question that needs hearing and a step of reasoning."""
