"""The page of one evaluation: what it says, and what it is compared with."""

from __future__ import annotations

import base64
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from made_evaluation import write_evaluation, write_run
from page_checks import check

from cache_schema.errors import DatasetError, UsageError
from train.evaluate.comparison import Comparison
from train.evaluate.directory import EvaluationDir
from train.evaluate.report import write_report
from train.evaluate.report.headline import headline
from train.evaluate.report.plots.lines import smooth
from train.evaluate.report.reading import read_evaluation
from train.evaluate.report.samples import choose
from train.evaluate.report.words import p_words, percent, points


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluations that tests only read: a better and a worse model at reasoning and hearing."""
    root = tmp_path_factory.mktemp("evaluations")
    for name, benchmark, skill in (
        ("mmau-good", "mmau", 0.8),
        ("mmau-bad", "mmau", 0.3),
        ("meld-good", "meld", 0.8),
        ("meld-bad", "meld", 0.3),
        ("asr-good", "asr", 0.95),
        ("asr-bad", "asr", 0.6),
    ):
        write_evaluation(root / name, benchmark, 40, skill=skill)
    return root


@pytest.fixture
def evaluations(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "evaluations"))


def test_a_page_of_one_evaluation_says_what_is_in_its_files(evaluations: Path) -> None:
    directory = evaluations / "mmau-good"
    path = write_report(directory)
    assert path == directory / "report.html"
    page = check(path)
    evaluation = read_evaluation(directory)
    score = evaluation.score("strict", "accuracy")
    assert score is not None
    assert percent(score.value) in page.all("h1")[0]
    for rule in ("official", "strict"):
        for group in ("", *evaluation.groups):
            figure = evaluation.score(rule, "accuracy", group)
            assert figure is not None
            assert percent(figure.value) in page.all("td")
            assert f"{100 * figure.low:.1f} to {100 * figure.high:.1f}" in page.all("span")
    assert page.tags["audio"] == 12
    assert {"right", "wrong", "failed"} <= set(page.all("span"))
    assert evaluation.about["model_digest"] in page.text
    assert all(source in page.text for source in evaluation.sources.values())
    ended = [one.finish for one in evaluation.responses.values()].count("length")
    assert f"{ended} ({percent(ended / 40)})" in page.all("td")


def test_every_recording_on_the_page_is_the_samples(evaluations: Path) -> None:
    directory = evaluations / "mmau-good"
    page = check(write_report(directory))
    tape = read_evaluation(directory).tape
    assert tape is not None
    players = [value for tag, name, value in page.attributes if (tag, name) == ("audio", "src")]
    labels = [
        value.removeprefix("Recording of sample ")
        for tag, name, value in page.attributes
        if (tag, name) == ("audio", "aria-label")
    ]
    assert len(set(labels)) == 12
    for label, url in zip(labels, players, strict=True):
        flac = base64.b64decode(url.removeprefix("data:audio/flac;base64,"), validate=True)
        audio, rate_hz = soundfile.read(io.BytesIO(flac), dtype="float32")
        assert rate_hz == 16_000
        # 16 bits a sample: half a step is 2 ** -16
        np.testing.assert_allclose(audio, tape[label].audio, atol=2**-15)


def test_forgetting_is_said_in_the_first_line(evaluations: Path) -> None:
    page = check(write_report(evaluations / "meld-bad", evaluations / "meld-good"))
    assert page.all("h1")[0].startswith("Forgetting: hearing fell beyond its interval.")
    assert "alarm" in page.values("class")
    back = check(write_report(evaluations / "meld-good", evaluations / "meld-bad"))
    assert back.all("h1")[0].startswith("Hearing improved beyond its interval.")
    assert "alarm" not in back.values("class")


def test_forgetting_of_an_error_rate_is_that_it_rose(evaluations: Path) -> None:
    page = check(write_report(evaluations / "asr-bad", evaluations / "asr-good"))
    assert page.all("h1")[0].startswith("Forgetting: hearing fell beyond its interval.")
    assert "points above the baseline" in page.all("h1")[0]


def test_a_fall_of_reasoning_is_no_forgetting(evaluations: Path) -> None:
    page = check(write_report(evaluations / "mmau-bad", evaluations / "mmau-good"))
    assert page.all("h1")[0].startswith("Reasoning fell beyond its interval.")
    assert "Forgetting" not in page.text


def test_a_fall_within_the_interval_is_said_to_be_no_change(evaluations: Path) -> None:
    this = read_evaluation(evaluations / "meld-good")
    inside = Comparison(
        rule="strict", measure="weighted_f1", group="", value=0.5, baseline=0.55, difference=-0.05,
        low=-0.11, high=0.01, p_value=0.09, exact_p_value=None, count=40, left_out=0, fell=False,
        forgotten=False,
    )  # fmt: skip
    first = headline(this, {("strict", "weighted_f1", ""): inside})
    assert first.result.startswith("Hearing did not change beyond its interval.")
    assert not first.alarm
    outside = replace(inside, high=-0.01, fell=True, forgotten=True)
    first = headline(this, {("strict", "weighted_f1", ""): outside})
    assert first.result.startswith("Forgetting: hearing fell beyond its interval.")
    assert "5.0 points below the baseline" in first.result
    assert first.alarm


def test_forgetting_by_one_rule_is_not_hidden_by_the_other(evaluations: Path) -> None:
    this = read_evaluation(evaluations / "meld-good")
    fell = Comparison(
        rule="official", measure="weighted_f1", group="", value=0.5, baseline=0.6, difference=-0.1,
        low=-0.2, high=-0.01, p_value=0.01, exact_p_value=None, count=40, left_out=0, fell=True,
        forgotten=True,
    )  # fmt: skip
    rose = replace(
        fell, rule="strict", difference=0.1, low=0.05, high=0.2, fell=False, forgotten=False
    )
    both = {(one.rule, one.measure, ""): one for one in (fell, rose)}
    first = headline(this, both)
    assert first.result.startswith("Forgetting")
    assert "10.0 points below the baseline (official;" in first.result
    assert any("by the strict rule: +10.0 points" in line for line in first.detail)


def test_changed_items_are_named_with_both_answers(evaluations: Path) -> None:
    page = check(write_report(evaluations / "mmau-bad", evaluations / "mmau-good"))
    this, base = (read_evaluation(evaluations / f"mmau-{one}") for one in ("bad", "good"))
    changed = {
        one: base.verdicts["strict"][one].value
        for one in this.verdicts["strict"]
        if this.verdicts["strict"][one].value != base.verdicts["strict"][one].value
    }
    worse = sum(value == 1 for value in changed.values())
    assert f"{worse} items got worse, {len(changed) - worse} got better" in page.text
    assert set(changed) <= set(page.all("th"))


def test_a_baseline_of_another_benchmark_is_refused(evaluations: Path) -> None:
    with pytest.raises(UsageError, match="compare evaluations of one benchmark"):
        write_report(evaluations / "mmau-good", evaluations / "meld-good")


@pytest.mark.parametrize("name", ["verdicts.jsonl", "scores.json", "evaluation.json"])
def test_an_evaluation_that_is_not_finished_is_refused(evaluations: Path, name: str) -> None:
    (evaluations / "mmau-good" / name).unlink()
    with pytest.raises(UsageError, match=re.escape(name)):
        write_report(evaluations / "mmau-good")


def test_a_damaged_file_is_named(evaluations: Path) -> None:
    place = EvaluationDir(root=evaluations / "mmau-good")
    with place.verdicts.open("a") as file:
        file.write('{"rule": "strict", "value": 1}\n')
    with pytest.raises(DatasetError, match=r"verdicts\.jsonl:81: not a Verdict"):
        write_report(place.root)


def test_samples_are_of_every_kind_and_spread() -> None:
    kinds = {f"{n}": "right" for n in range(90)} | {"w": "wrong", "f": "failed"}
    chosen = choose(kinds)
    assert len(chosen) == len(set(chosen)) == 12
    assert {"0", "89", "w", "f"} <= set(chosen)
    assert choose({}) == []
    assert choose({"a": "failed"}) == ["a"]


def test_confusion_is_shown_where_labels_are_classes(evaluations: Path) -> None:
    page = check(write_report(evaluations / "meld-good"))
    assert "Which classes were taken for which" in page.all("h2")
    assert {"confusion-0.png", "confusion-1.png"} <= {
        path.name for path in (evaluations / "meld-good" / "plots").iterdir()
    }
    verdicts = read_evaluation(evaluations / "meld-good").verdicts["strict"].values()
    right = sum(one.expected == one.predicted == "neutral" for one in verdicts)
    assert str(right) in page.all("td")
    other = check(write_report(evaluations / "mmau-good"))
    assert "Which classes were taken for which" not in other.all("h2")


def test_curves_of_a_run_have_a_plot_a_term(evaluations: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    page = check(write_report(evaluations / "asr-good", runs={"joint": run}))
    assert {"Loss (weighted sum)", "Term ce"} <= set(page.all("figcaption"))
    assert any("held out: 0.15 at step 20, 0.0375 at step 80" in alt for alt in page.values("alt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no training run"):
        write_report(evaluations / "mmau-good", runs={"x": tmp_path / "empty"})


def test_a_smoothed_curve_keeps_its_mean_and_a_short_one_is_not_touched() -> None:
    curve = [(float(step), float(step % 7)) for step in range(1, 701)]
    drawn = smooth(curve)
    assert len(drawn) == 70
    assert np.mean([value for _, value in drawn]) == pytest.approx(np.mean([v for _, v in curve]))
    assert smooth(curve[:30]) == curve[:30]


def test_a_report_written_again_is_the_same(evaluations: Path) -> None:
    directory = evaluations / "asr-good"
    first = write_report(directory).read_bytes()
    assert write_report(directory).read_bytes() == first


def test_figures_in_words() -> None:
    assert percent(0.1234) == "12.3\u00a0%"
    assert percent(float("nan")) == "\N{EN DASH}"
    assert points(-0.051) == "\N{MINUS SIGN}5.1"
    assert p_words(0.0001) == "p\u00a0<\u00a00.001"
    assert p_words(0.0123) == "p\u00a0=\u00a00.012"
