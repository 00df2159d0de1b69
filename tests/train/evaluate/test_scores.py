"""From responses to scores.json and to what a comparison says."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from cache_schema import open_tape
from cache_schema.errors import DatasetError
from train.evaluate.benchmarks import BENCHMARKS, item_of
from train.evaluate.comparison import compare
from train.evaluate.data import prepare
from train.evaluate.scores import NO_RESPONSE, evaluation_of, judge_all, rates_of, score_all
from train.evaluate.scores_file import Evaluation, read_scores, write_scores
from train.evaluate.types import Benchmark, Item, Response, Score

MMAU, IEMOCAP, ASR = BENCHMARKS["mmau"], BENCHMARKS["iemocap"], BENCHMARKS["asr"]


def items(count: int) -> list[Item]:
    return [
        Item(
            sample_id=f"s{number:03d}",
            question="Who?",
            choices=("Man", "Woman"),
            answer=("Man", "Woman")[number % 2],
            groups={"task": "speech" if number % 4 else "sound"} if number else {},
        )
        for number in range(count)
    ]


def said(item: Item, answer: str, finish: str = "stop") -> Response:
    return Response(
        sample_id=item.sample_id, text=f"T {answer}", answer=answer, num_tokens=3, finish=finish
    )


def by(scores: list[Score] | tuple[Score, ...], rule: str, group: str = "") -> Score:
    (found,) = [s for s in scores if (s.rule, s.group) == (rule, group)]
    return found


def scored(
    benchmark: Benchmark, asked: list[Item], responses: list[Response], resamples: int = 50
) -> Evaluation:
    verdicts = judge_all(benchmark, asked, responses)
    return evaluation_of(benchmark, asked, responses, verdicts, resamples=resamples)


def test_scores_by_rule_and_group() -> None:
    asked = items(9)
    answers = ["Man", "Woman", "the man", "B", "", "Woman", "Woman", "Man or Woman"]
    responses = [said(item, answer) for item, answer in zip(asked, answers, strict=False)]
    verdicts = judge_all(MMAU, asked, responses)
    assert [v.value for v in verdicts["official"]] == [1, 1, 1, 0, 0, 1, 0, 0, 0]
    assert [v.counted for v in verdicts["official"]] == [True] * 8 + [False]
    assert [v.value for v in verdicts["strict"]] == [1, 1, 0, 1, 0, 1, 0, 0, 0]
    assert all(v.counted for v in verdicts["strict"])

    scores = score_all(MMAU, verdicts, resamples=200)
    assert [(s.rule, s.group) for s in scores] == [
        (rule, group)
        for rule in ("official", "strict")
        for group in ("", "task=sound", "task=speech")
    ]
    assert (by(scores, "official").value, by(scores, "official").count) == (4 / 8, 8)
    assert (by(scores, "strict").value, by(scores, "strict").count) == (4 / 9, 9)
    # sound: s004 (no answer) and s008 (no response); s000 has no task
    sound = by(scores, "official", "task=sound")
    assert (sound.value, sound.count) == (0, 1)
    assert by(scores, "strict", "task=sound").count == 2
    assert by(scores, "strict", "task=speech").value == 3 / 6
    for score in scores:
        assert score.measure == "accuracy"
        assert score.low <= score.value <= score.high


def test_rates_count_every_item() -> None:
    asked = items(6)
    responses = [
        said(asked[0], "Man"),
        said(asked[1], "Woman", "length"),
        said(asked[2], " ", "length"),
        said(asked[3], ""),
        dataclasses.replace(said(asked[4], "", "error"), error="no audio"),
    ]
    rates = rates_of(asked, responses, judge_all(MMAU, asked, responses))
    assert dataclasses.asdict(rates) == {
        "items": 6,
        "truncated": 2,
        "no_answer": 2,
        "errors": 2,
        "not_counted": {"official": 2, "strict": 0},
    }


def test_what_is_asked_and_answered_must_fit() -> None:
    asked = items(2)
    with pytest.raises(DatasetError, match="two items have the id 's000'"):
        judge_all(MMAU, [asked[0], asked[0]], [])
    with pytest.raises(DatasetError, match="two responses have the id 's001'"):
        judge_all(MMAU, asked, [said(asked[1], "Man")] * 2)
    with pytest.raises(DatasetError, match=r"mmau: 1 responses are to none of its items.*'s001'"):
        judge_all(MMAU, asked[:1], [said(asked[1], "Man")])
    assert NO_RESPONSE


@pytest.mark.parametrize("benchmark", [MMAU, IEMOCAP, ASR], ids=lambda benchmark: benchmark.name)
def test_scores_do_not_depend_on_the_order(benchmark: Benchmark) -> None:
    draw = random.Random(3)
    asked = items(60)
    responses = [said(item, draw.choice(["Man", "Woman", "man", "", "A"])) for item in asked[:55]]
    first = scored(benchmark, asked, responses, resamples=300)
    draw.shuffle(asked)
    draw.shuffle(responses)
    assert scored(benchmark, asked, responses, resamples=300) == first
    assert {score.measure for score in first.scores} == {m.name for m in benchmark.measures}


def answered(asked: list[Item], wrong: set[int]) -> list[Response]:
    return [
        said(item, "?" if number in wrong else item.answer) for number, item in enumerate(asked)
    ]


def test_hearing_that_fell_is_forgotten() -> None:
    asked = items(80)
    base = judge_all(IEMOCAP, asked, answered(asked, set(range(8))))
    worse = judge_all(IEMOCAP, asked, answered(asked, set(range(32))))
    found = compare(IEMOCAP, worse, base, resamples=1000)
    assert {(c.rule, c.measure) for c in found} == {
        (rule, measure.name) for rule in ("official", "strict") for measure in IEMOCAP.measures
    }
    headline = next(c for c in found if c.measure == "unweighted_accuracy")
    assert headline.value == pytest.approx(48 / 80)
    assert headline.baseline == pytest.approx(72 / 80)
    assert headline.difference == pytest.approx(-24 / 80)
    assert headline.low < -0.3 < headline.high < 0
    assert headline.p_value < 0.01
    assert headline.exact_p_value == pytest.approx(2 / 2**24)
    assert headline.fell
    assert headline.forgotten
    assert [c.measure for c in found if c.forgotten] == ["unweighted_accuracy"] * 2
    back = compare(IEMOCAP, base, worse, resamples=1000)
    assert not any(c.fell or c.forgotten for c in back)


def test_reasoning_that_fell_is_no_forgetting_and_groups_are_compared() -> None:
    asked = items(80)
    base = judge_all(MMAU, asked, answered(asked, set()))
    worse = judge_all(MMAU, asked, answered(asked, set(range(1, 80, 2))))
    found = compare(MMAU, worse, base, resamples=500)
    assert [c.group for c in found[:3]] == ["", "task=sound", "task=speech"]
    whole, sound, speech = found[:3]
    assert whole.fell
    assert not whole.forgotten
    assert (sound.difference, sound.fell) == (0, False)
    assert (speech.difference, speech.count) == (pytest.approx(-40 / 60), 60)


def test_an_error_rate_that_rose_has_fallen() -> None:
    asked = [dataclasses.replace(item, answer="the red dog") for item in items(40)]
    base = judge_all(ASR, asked, [said(item, "the red dog") for item in asked])
    worse = judge_all(ASR, asked, [said(item, "the") for item in asked])
    rose = compare(ASR, worse, base, resamples=200)[0]
    assert rose.difference == pytest.approx(2 / 3)
    assert rose.exact_p_value is None
    assert rose.forgotten
    assert not compare(ASR, base, worse, resamples=200)[0].fell


def test_a_chance_difference_is_none() -> None:
    asked = items(80)
    base = judge_all(IEMOCAP, asked, answered(asked, {1, 2, 3, 4}))
    other = judge_all(IEMOCAP, asked, answered(asked, {4, 5, 6, 7, 8}))
    assert not any(c.fell for c in compare(IEMOCAP, other, base, resamples=1000))


def test_runs_on_other_items() -> None:
    asked = items(10)
    run = judge_all(MMAU, asked[:6], answered(asked[:6], {0}))
    base = judge_all(MMAU, asked[4:], answered(asked[4:], {0}))
    found = compare(MMAU, run, base, resamples=100)[0]
    assert (found.count, found.left_out) == (2, 8)
    assert (found.value, found.baseline) == (1, 0.5)
    with pytest.raises(DatasetError, match="share no item"):
        compare(MMAU, run, judge_all(MMAU, asked[6:], []), resamples=100)


def test_scores_json(tmp_path: Path) -> None:
    asked = [dataclasses.replace(item, answer="") for item in items(3)]  # withheld
    found = scored(MMAU, asked, [said(asked[0], "Man")])
    assert all(math.isnan(score.value) and score.count == 0 for score in found.scores)
    path = tmp_path / "scores.json"
    write_scores(path, found)
    assert '"value": null' in path.read_text()
    assert repr(read_scores(path)) == repr(found)
    assert [file.name for file in tmp_path.iterdir()] == ["scores.json"]

    known = scored(IEMOCAP, items(20), [])
    write_scores(path, known)
    back = read_scores(path)
    assert back.rates == known.rates
    assert back.sources == {rule.name: rule.source for rule in IEMOCAP.rules}
    strict = [score for score in back.scores if score.rule == "strict"]
    assert strict == [score for score in known.scores if score.rule == "strict"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected scores of version 1, got 'list'"),
        ('{"version": 2}', "expected scores of version 1, got 2"),
        ('{"version": 1}', "not the scores of an evaluation"),
        ('{"version": 1, "scores": [{"value": 1}]}', "not the scores of an evaluation"),
    ],
)
def test_scores_json_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_scores(path)
    with pytest.raises(DatasetError, match="no scores there"):
        read_scores(tmp_path / "nowhere.json")


def test_from_published_files_over_a_tape_to_scores(tmp_path: Path) -> None:
    """What ``rows`` gives is what stage one reads; the items come back from its tape."""
    (tmp_path / "data").mkdir()
    for number in range(2):
        times_s = np.arange(8000) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * (220 + 110 * number) * times_s)
        soundfile.write(tmp_path / "data" / f"{number}.wav", wave, 16_000)
    shared = {"length_type": "short", "kwargs": None, "task_identifier": None}
    published = [
        {"id": "one", "audio_path": ["data/0.wav"], "question": "What?", "choices": ["dog", "cat"],
         "answer": "dog", "category": "sound", **shared},
        {"id": "two", "audio_path": ["data/0.wav", "data/1.wav"], "question": "Which is higher?",
         "choices": ["first", "second"], "answer": "second", "category": "multi", **shared},
        {"id": "told", "audio_path": ["data/1.wav"], "question": "", "choices": None,
         "answer": None, "category": "instruction following", **shared,
         "task_identifier": "Number Words (at most)", "kwargs": '{"N": 2}'},
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(published), tmp_path / "test.parquet")
    benchmark = BENCHMARKS["mmau_pro"]
    tape = prepare(str(tmp_path), benchmark, 0, tmp_path / "rows.jsonl", tmp_path / "tape")
    asked = [item_of(row, benchmark) for row in open_tape(tape)]
    assert [item.sample_id for item in asked] == ["one", "two", "told"]
    assert asked[1].choices == ("first", "second")
    assert asked[1].groups == {"category": "multi", "length_type": "short"}
    answers = {"one": "dog", "two": "B", "told": "three words here"}
    responses = [said(item, answers[item.sample_id]) for item in asked]
    found = scored(benchmark, asked, responses)
    strict = {s.group: (s.value, s.count) for s in found.scores if s.rule == "strict"}
    assert strict[""] == (pytest.approx(2 / 3), 3)
    assert strict["category=multi"] == (1, 1)
    assert found.rates.not_counted == {"official": 1, "strict": 0}
