"""The file that leaderboards take, scored as their published scripts read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import evaluations
import pytest
from test_rules_published import second_mmau

from cache_schema.errors import DatasetError
from train.evaluate.benchmarks import BENCHMARKS
from train.evaluate.measures import ACCURACY
from train.evaluate.scores import judge_all
from train.evaluate.submission import write_submission
from train.evaluate.types import Item, Response

SAID = ("Man", "(B) Woman", "a child", "", "it is Man or Woman", "Robot")


def published(count: int = 6) -> list[dict[str, Any]]:
    choices = ["Man", "Woman", "Child", "Robot"]
    return [
        {
            "id": str(number),
            "audio_id": f"./audios/{number}.wav",
            "audio_path": f"./audios/{number}.wav",
            "question": "Who speaks \N{EN DASH} caf\u00e9?",
            "choices": choices,
            "answer": choices[number % 4],
            "task": "speech",
        }
        for number in range(count)
    ]


def responses(lost: str = "") -> list[Response]:
    return [
        Response(sample_id=str(n), text=text, answer=text, num_tokens=1, finish="stop")
        if str(n) != lost
        else Response(sample_id=lost, text="", num_tokens=0, finish="error", error="gone")
        for n, text in enumerate(SAID)
    ]


@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        ("mmau", "mmau-test-mini.json", "model_output"),
        ("mmau", "mmau-test.json", "model_prediction"),
        ("mmar", "MMAR-meta.jsonl", "answer_prediction"),
    ],
)
def test_the_published_rule_over_the_file_gives_the_official_score(
    tmp_path: Path, name: str, file: str, key: str
) -> None:
    rows, lines = published(), file.endswith("l")
    text = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows)
    (tmp_path / file).write_text(text)
    written = write_submission(tmp_path, BENCHMARKS[name], responses(), tmp_path / "out")
    assert written is not None
    read = evaluations.lines_of(written) if lines else json.loads(written.read_text())
    told = [second_mmau(row["answer"], row[key], tuple(row["choices"])) for row in read]
    items = [
        Item(sample_id=row["id"], question="?", choices=tuple(row["choices"]), answer=row["answer"])
        for row in rows
    ]
    official = judge_all(BENCHMARKS[name], items, responses())["official"]
    assert sum(told) / len(told) == ACCURACY.compute(official)
    assert told == [True, True, True, False, False, False]
    # nothing of the published rows is changed
    keys = {key, "model_output", "model_prediction"}
    assert [{k: v for k, v in row.items() if k not in keys} for row in read] == rows


def test_what_failed_is_empty_and_what_was_not_asked_has_no_key(tmp_path: Path) -> None:
    file = tmp_path / "mmau-test-mini.json"
    file.write_text(json.dumps(published(8)))
    written = write_submission(file, BENCHMARKS["mmau"], responses(lost="1"), tmp_path)
    assert written == tmp_path / "submission.json"
    said = [row.get("model_output") for row in json.loads(written.read_text())]
    assert said == ["Man", "", *SAID[2:], None, None]


def test_benchmarks_without_a_leaderboards_file(tmp_path: Path) -> None:
    assert write_submission(tmp_path, BENCHMARKS["meld"], [], tmp_path) is None
    with pytest.raises(DatasetError, match="none is there"):
        write_submission(tmp_path, BENCHMARKS["mmau"], [], tmp_path)
