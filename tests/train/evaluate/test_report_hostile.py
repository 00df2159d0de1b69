"""The page of an odd evaluation: nothing a model says hurts it, nothing missing breaks it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from made_evaluation import tone, write_evaluation, write_run
from page_checks import check

from train.evaluate.report import write_report
from train.evaluate.report.page import Page, render
from train.evaluate.report.plots.bars import Figure, dots_plot, scatter_plot
from train.evaluate.report.plots.lines import curves_plot, lengths_plot
from train.evaluate.report.samples import AUDIO_BYTES
from train.evaluate.report.sound import clips_within

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;\u202e$x_{"


def test_nothing_a_model_or_a_dataset_says_is_markup(tmp_path: Path) -> None:
    said = {"text": HOSTILE, "trace": HOSTILE, "answer": HOSTILE, "error": HOSTILE}
    changes = dict.fromkeys(range(0, 12, 2), said)
    directory = write_evaluation(tmp_path / "e", count=12, model=HOSTILE, changes=changes)
    other = write_evaluation(tmp_path / "b", count=12, skill=0.1)
    run = write_run(tmp_path / "run")
    page = check(write_report(directory, other, {HOSTILE: run}))
    shown = HOSTILE.replace("\u202e", "\\u202e")
    assert shown in page.text
    assert "\u202e" not in page.text


def test_groups_and_labels_that_are_hostile_are_text(tmp_path: Path) -> None:
    names = ("$\\frac{1$", "_hidden", "\N{CJK UNIFIED IDEOGRAPH-58F0}", HOSTILE, "", "x" * 300)
    one = Figure(value=1, low=0, high=2)
    series = {name or "empty": {name: one} for name in names}
    plots = [
        dots_plot("a", "a", list(names), series, "accuracy (%)"),
        scatter_plot(
            "b",
            "b",
            {
                name: (Figure(value=1, low=0, high=2), Figure(value=1, low=0, high=2))
                for name in series
            },
            ("hearing (%)", "reasoning (%)"),
        ),
        lengths_plot("c", "c", {name: [1, 2, 3] for name in series}),
        curves_plot("d", "d", {name: ([(1, 2.0), (2, 1.0)], [(2, 1.5)]) for name in series}),
    ]  # a warning of matplotlib would be an error
    assert all(plot.png["light"] != plot.png["dark"] for plot in plots)


def test_half_characters_and_zero_bytes_are_written_out(tmp_path: Path) -> None:
    said = {"text": "a\ud800b\x00c", "trace": "", "answer": "a\ud800b\x00c"}
    directory = write_evaluation(tmp_path / "e", "asr", 1, changes={0: said})
    page = check(write_report(directory))
    assert "a\\ud800b\\x00c" in page.text


@pytest.mark.parametrize("benchmark", ["meld", "asr"])
def test_one_item_makes_a_page(tmp_path: Path, benchmark: str) -> None:
    directory = write_evaluation(tmp_path / "e", benchmark, 1)
    assert check(write_report(directory)).tags["audio"] == 1


@pytest.mark.parametrize("benchmark", ["meld", "asr"])
def test_no_verdict_counted_makes_a_page(tmp_path: Path, benchmark: str) -> None:
    failed = {"text": "", "trace": "", "answer": "", "finish": "error", "error": "no memory"}
    changes = dict.fromkeys(range(5), failed)
    directory = write_evaluation(tmp_path / "e", benchmark, 5, changes=changes)
    other = write_evaluation(tmp_path / "b", benchmark, 5)
    page = check(write_report(directory, other))
    assert page.all("span").count("failed") == 5
    assert not re.findall(r"\bnan\b", page.text)


def test_empty_traces_and_texts_make_a_page(tmp_path: Path) -> None:
    nothing = {"text": "", "trace": "", "answer": "", "finish": "stop", "num_tokens": 0}
    directory = write_evaluation(tmp_path / "e", "asr", 3, changes=dict.fromkeys(range(3), nothing))
    page = check(write_report(directory))
    assert page.all("dd").count("(none found)") == 3
    assert "Trace" not in page.all("summary")


def test_without_its_data_a_page_says_so(tmp_path: Path) -> None:
    directory = write_evaluation(tmp_path / "e", "asr", 4, tape=False)
    page = check(write_report(directory))
    assert page.tags["audio"] == 0
    assert page.text.count("No recording: the evaluation's data does not hold this sample.") == 4


def test_long_recordings_and_texts_are_cut_and_said_to_be(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, 16_000 * 60).astype(np.float32)
    long = {"trace": "so " * 200_000, "text": "so " * 200_000, "answer": "", "finish": "length"}
    directory = write_evaluation(
        tmp_path / "e", "asr", 3, changes=dict.fromkeys(range(3), long), audio=lambda _: noise
    )
    page = check(write_report(directory))
    assert len(re.findall(r"The first \d+\.\d s of 60\.0 s\.", page.text)) == 3
    assert "[580,000 more characters]" in page.text


def test_short_recordings_stay_whole_beside_long_ones() -> None:
    rng = np.random.default_rng(0)
    recordings = [rng.uniform(-1, 1, length).astype(np.float32) for length in (1600, 400_000)]
    short, long = clips_within(recordings, 200_000)
    assert not short.is_cut
    assert long.is_cut
    assert len(short.flac) + len(long.flac) <= 150_000
    assert len(long.flac) > 100_000  # most of what there is
    assert not clips_within([tone(0)], AUDIO_BYTES)[0].is_cut


def test_an_empty_page_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(Page(title=HOSTILE, result=HOSTILE, sections=[])))
    assert check(path).all("h1")[0].startswith("<script>")
