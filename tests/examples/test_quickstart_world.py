import json

import numpy as np
import pytest
import soundfile

from examples.quickstart.questions import HEARING, NUMBER_WORDS, QUESTIONS
from examples.quickstart.recordings import SAMPLE_RATE_HZ
from examples.quickstart.world import (
    Voices,
    draw_rows,
    read_rows,
    split_compositions,
    write_rows,
)


def right_answer(question, numbers):
    """The answer worked out another way, from the question's words."""
    if question == "Is the sum of the numbers even?":
        return ["yes", "no"][sum(numbers) & 1]
    if question == "How many of the numbers are odd?":
        return ["zero", "one", "two", "three"][len([n for n in numbers if n in (1, 3, 5, 7, 9)])]
    if question == "Which number is the largest?":
        return next(NUMBER_WORDS[n] for n in range(9, -1, -1) if n in numbers)
    assert question == "What numbers do you hear?"
    return " ".join(NUMBER_WORDS[n] for n in numbers)


@pytest.mark.parametrize("kind", QUESTIONS)
def test_every_answer_is_right_and_offered(kind):
    rng = np.random.default_rng(0)
    for split in split_compositions(0):
        for numbers in split:
            solution = QUESTIONS[kind].solve(numbers)
            choices = QUESTIONS[kind].choices(numbers, rng)
            assert solution.answer == right_answer(QUESTIONS[kind].text, numbers)
            assert not choices or solution.answer in choices
            assert len(set(choices)) == len(choices)
            assert kind == HEARING or choices
            assert solution.trace.endswith(f"<RESPONSE> {solution.answer}</RESPONSE>")
            assert f"<CAPTION>I hear {right_answer('What numbers do you hear?', numbers)}<" in (
                solution.trace
            )


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_no_heldout_set_of_numbers_is_trained_on(seed):
    training, heldout = split_compositions(seed)
    assert len(training) + len(heldout) == 10**2 + 10**3
    assert not {tuple(sorted(n)) for n in training} & {tuple(sorted(n)) for n in heldout}
    assert 0.15 < len(heldout) / 1100 < 0.25
    assert {len(n) for n in heldout} == {2, 3}


def test_rows_are_written_as_the_pipeline_reads_them(tones, rows, tmp_path):
    path = write_rows(tmp_path, "train", rows[:8], Voices(tones), np.random.default_rng(0))
    assert read_rows(path) == list(rows[:8])
    for line, row in zip(path.read_text().splitlines(), rows, strict=False):
        values = json.loads(line)
        assert values["answer"] == right_answer(values["question"], row.numbers)
        assert values["transcript"] == right_answer("What numbers do you hear?", row.numbers)
        about = soundfile.info(tmp_path / values["audio"])
        assert (about.samplerate, about.channels) == (SAMPLE_RATE_HZ, 1)


def test_the_seed_decides_everything(tones, tmp_path):
    def make(seed, folder):
        rng = np.random.default_rng(seed)
        drawn = draw_rows("row", split_compositions(seed)[0], tones, 12, rng)
        write_rows(tmp_path / folder, "train", drawn, Voices(tones), rng)
        files = sorted((tmp_path / folder).rglob("*.*"))
        return {path.name: path.read_bytes() for path in files}

    assert make(3, "a") == make(3, "b")
    assert make(3, "a") != make(4, "c")


def test_spans_say_where_each_number_is(tones):
    clip = Voices(tones).render((3, 8, 3), ("low", "Whistle"), np.random.default_rng(0))
    loud = np.abs(clip.wave) > 0.3 * np.abs(clip.wave).max()
    times_s = np.flatnonzero(loud) / SAMPLE_RATE_HZ
    inside = np.zeros(len(times_s), dtype=bool)
    for start_s, end_s in clip.spans_s:
        within = (times_s >= start_s) & (times_s < end_s)
        assert within.any()
        inside |= within
    assert inside.all()
