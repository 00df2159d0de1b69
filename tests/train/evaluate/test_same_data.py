"""Runs over different data under the same ids, and models that were asked in different ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import made_evaluation
import page_checks
import pytest
from made_evaluation import write_evaluation

from cache_schema.errors import UsageError
from train.evaluate.directory import EvaluationDir, write_about
from train.evaluate.report import write_comparison, write_report
from train.evaluate.report.reading import read_evaluation
from train.evaluate.same_items import asked_otherwise, check_same_items
from train.evaluate.types import NOT_READ, Verdict


def expecting(*answers: str) -> list[Verdict]:
    return [
        Verdict(sample_id=str(number), value=0.0, expected=answer)
        for number, answer in enumerate(answers)
    ]


def test_items_of_one_id_have_one_right_answer() -> None:
    check_same_items(expecting("a", "b", "c"), expecting("a", "b"), ("x", "y"))
    check_same_items(expecting("a", NOT_READ), expecting(NOT_READ, "b"), ("x", "y"))
    with pytest.raises(UsageError, match=r"2 ids they share, 1 stand for other items.*'1' is 'b'"):
        check_same_items(expecting("a", "b"), expecting("a", "c"), ("x", "y"))
    with pytest.raises(UsageError, match="share no item"):
        check_same_items(expecting("a"), [], ("x", "y"))


@pytest.fixture
def other_data(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Write an evaluation over rows of the same ids with other answers."""

    def write(root: Path) -> Path:
        sample = made_evaluation.sample
        with monkeypatch.context() as patch:
            patch.setattr(
                made_evaluation,
                "sample",
                lambda name, index, audio: replace(
                    sample(name, index + 1000, audio),
                    sample_id=f"{name}-{index:04d}",
                    row_index=index,
                ),
            )
            return write_evaluation(root)

    return write


def test_other_data_under_the_same_ids_is_refused(
    tmp_path: Path, other_data: Callable[[Path], Path]
) -> None:
    this, other = write_evaluation(tmp_path / "this"), other_data(tmp_path / "other")
    with pytest.raises(UsageError, match="are of different data: of 24 ids they share"):
        write_report(this, other)
    with pytest.raises(UsageError, match="are of different data"):
        write_comparison({"base": [this], "other": [other]}, tmp_path / "out", {})
    with pytest.raises(UsageError, match="are of different data"):
        write_comparison({"base": [this, other], "new": [this]}, tmp_path / "out", {})


def test_who_was_asked_otherwise_is_said(tmp_path: Path) -> None:
    this, base = (write_evaluation(tmp_path / name) for name in ("this", "base"))
    about = read_evaluation(base).about
    decoding = {**about["decoding"], "max_new_tokens": 64, "seed": 7}
    changed = {**about, "decoding": decoding, "instruction": "Be short."}
    write_about(EvaluationDir(root=base), changed)
    told = (
        "Not asked alike: instruction is '' for this, 'Be short.' for baseline; "
        "max_new_tokens is 512 for this, 64 for baseline."
    )
    assert told in page_checks.check(write_report(this, base)).text
    page = page_checks.check(write_comparison({"a": [base], "b": [this]}, tmp_path / "out", {}))
    assert "mmau: Not asked alike: instruction is '' for b, 'Be short.' for a" in page.text
    assert asked_otherwise(about, about, ("x", "y")) == []
    # greedy, so the seeds that differ say nothing; drawn, they do
    drawn = {**about, "decoding": {**decoding, "max_new_tokens": 512, "temperature": 1.0}}
    again = json.loads(json.dumps(drawn)) | {"decoding": {**drawn["decoding"], "seed": 8}}
    assert asked_otherwise(drawn, again, ("x", "y")) == ["seed is 7 for x, 8 for y"]
