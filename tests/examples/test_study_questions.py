import itertools

import numpy as np
import pytest

from cache_schema.answers.questions import is_correct, parse_answer
from examples.study.hearing_questions import FURTHER_HEARING, HEARING, Heard, hearing_turn
from examples.study.questions import REASONING, WORDS, write_trace

ALL_NUMBERS = [
    *itertools.product(range(10), repeat=2),
    *list(itertools.product(range(10), repeat=3))[::7],
]
SPEAKERS = ("ann", "bob", "cid")


def right_answer(kind, numbers):
    """The answer worked out another way."""
    said = [WORDS[n] for n in numbers]
    return {
        "sum parity": lambda: ["yes", "no"][sum(numbers) & 1],
        "count odd": lambda: WORDS[len([n for n in numbers if n in (1, 3, 5, 7, 9)])],
        "largest": lambda: max(said, key=WORDS.index),
        "rising": lambda: "yes" if list(numbers) == sorted(set(numbers)) else "no",
        "none small": lambda: ["yes", "no"][any(n in (0, 1, 2, 3, 4) for n in numbers)],
        "total": lambda: WORDS[numbers[0] + numbers[-1]],
    }[kind]()


@pytest.mark.parametrize("kind", REASONING)
def test_every_answer_is_right_offered_and_reached_by_its_trace(kind):
    rng = np.random.default_rng(0)
    for numbers in ALL_NUMBERS:
        choices = REASONING[kind].choices(numbers, rng)
        answer = REASONING[kind].answer(numbers, choices)
        assert answer == right_answer(kind, numbers)
        assert answer in choices
        assert len(set(choices)) == len(choices)
        trace = write_trace(kind, numbers, choices, rng)
        assert is_correct(parse_answer(trace), answer, choices)
        caption = trace.split("<CAPTION>")[1].split("</CAPTION>")[0]
        assert caption.endswith(" ".join(WORDS[n] for n in numbers))
        assert answer in trace.split("<SUMMARY>")[1].split("</SUMMARY>")[0]


@pytest.mark.parametrize("kind", REASONING)
def test_traces_say_the_same_in_several_wordings(kind):
    rng = np.random.default_rng(0)
    choices = REASONING[kind].choices((3, 7), rng)
    traces = {write_trace(kind, (3, 7), choices, rng) for _ in range(400)}
    assert len(traces) == 2 * 3 * 2 * 2


def test_steps_of_a_trace_are_true():
    rng = np.random.default_rng(0)
    for numbers in ALL_NUMBERS[::11]:
        reasoning = write_trace("none small", numbers, ("yes", "no"), rng).split("<REASONING>")[1]
        for sentence in reasoning.split("</REASONING>")[0].strip(".").split(". "):
            word = sentence.split()[0].strip(":")
            assert ("not small" in sentence) == (WORDS.index(word) >= 5)


@pytest.mark.parametrize("kind", [*HEARING, *FURTHER_HEARING])
def test_hearing_is_answered_right(kind):
    rng = np.random.default_rng(0)
    for numbers in ALL_NUMBERS[::5]:
        heard = Heard(numbers=numbers, speaker="bob", noisy=bool(numbers[0] % 2))
        question, choices, answer, trace = hearing_turn(kind, heard, SPEAKERS, rng)
        words = [WORDS[n] for n in numbers]
        expected = {
            "speaker": "bob",
            "noise": "yes" if heard.noisy else "no",
            "digits": " ".join(words),
            "first": words[0],
            "last": words[-1],
            "how many": WORDS[len(words)],
            "spoken": "yes" if kind == "spoken" and question.split()[3] in words else "no",
        }[kind]
        assert answer == expected
        assert not choices or answer in choices
        assert is_correct(parse_answer(trace), answer, choices)
