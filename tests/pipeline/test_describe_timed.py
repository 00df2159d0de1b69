"""Timed metadata in a description: a line an entry, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_stage_one import save_dataset
from typer.testing import CliRunner

from cache_schema import open_tape
from cache_schema.errors import DatasetError
from pipeline.cli import app
from pipeline.describe.timed import seconds_of, timed_lines
from pipeline.textualize import describe, silent

TURN = {"start": 0, "end": 5, "text": "Hello", "gender": "Female", "emotion": "Happy"}


def columns(**values: Any) -> dict[str, Any]:
    """As the tape gives them back: JSON with its keys in the alphabet's order."""
    back: dict[str, Any] = json.loads(json.dumps(values, sort_keys=True))
    return back


def test_timed_metadata_in_a_template_and_without() -> None:
    later = {"start_s": "00:05", "end_s": 8.6, "sentence": "Hi  there", "speaker": "theo"}
    metadata = columns(segments=[TURN, later], caption="two people")
    lines = (
        "[00:00-00:05] Hello (Gender: Female, Emotion: Happy)\n"
        "[00:05-00:09] Hi there (Speaker: theo)"
    )
    assert describe(metadata, "Heard:\n{segments}") == f"Heard:\n{lines}"
    assert describe(metadata) == f"Caption: two people\nSegments:\n{lines}"
    assert describe(columns(turns=[TURN])) == f"Turns: {lines.splitlines()[0]}"


def test_events_have_a_label_and_no_text() -> None:
    events = [
        {"begin": "0:03", "stop": "0:04", "label": "dog bark"},
        {"start": 4, "end": 4.2, "event": "door", "loudness": None, "text": ""},
        {"start": 5, "end": 6, "speaker": "A"},
    ]
    assert describe({"events": events}).splitlines() == [
        "Events:",
        "[00:03-00:04] dog bark",
        "[00:04-00:04] door",
        "[00:05-00:06] (Speaker: A)",
    ]


def test_segments_of_a_speech_recogniser() -> None:
    """What Whisper writes of a segment for itself is left out, as is a segment without words."""
    notes = {
        "id": 0, "seek": 0, "tokens": [1, 2, 3], "temperature": 0.0, "avg_logprob": -0.2,
        "compression_ratio": 1.1, "no_speech_prob": 0.01,
        "words": [{"word": "Hi", "start": 0.0, "end": 0.5}],
    }  # fmt: skip
    said = {**notes, "start": 0.0, "end": 2.5, "text": " Hi there."}
    silence = {**notes, "start": 2.5, "end": 4.0, "text": " "}
    metadata = columns(segments=[said, silence, {**said, "start": 4.0, "end": 6.0}], caption="c")
    lines = "[00:00-00:03] Hi there.\n[00:04-00:06] Hi there."
    assert describe(metadata) == f"Caption: c\nSegments:\n{lines}"
    assert silent(metadata, "", {}) == 1
    assert silent(metadata, "{segments} {caption}", {}) == 1
    assert describe(columns(segments=[silence])) == ""
    assert describe({"x": [{"text": "a"}, {"text": ""}]}, "{x}") == "a"


def test_attributes_are_short() -> None:
    entry = {"start": 0, "end": 1, "text": "a", "tags": ["calm", "low"], "loud": 3.5}
    entry |= {"note": "n" * 101, "box": {"x": 1}, "ids": [1, 2]}
    assert describe({"segments": [entry]}, "{segments}") == (
        "[00:00-00:01] a (Tags: calm, low, Loud: 3.5)"
    )


def test_a_start_alone_or_with_a_duration() -> None:
    events = [
        {"start": 3, "label": "bark"},
        {"start": 4.2, "duration": 2, "label": "door"},
        {"start": 5, "end": 8, "duration_s": 99, "label": "rain"},
    ]
    assert describe({"events": events}, "{events}").splitlines() == [
        "[00:03] bark",
        "[00:04-00:06] door",
        "[00:05-00:08] rain",
    ]
    assert describe({"events": [{"start": 3600, "label": "end"}]}, "{events}") == "[01:00:00] end"


def test_a_mapping_of_lists_is_a_list_of_mappings() -> None:
    turned = {"start": [0, 5], "end": [5, 6], "text": ["Hello", "Bye"], "speaker": ["A", None]}
    assert describe({"segments": turned}, "{segments}").splitlines() == [
        "[00:00-00:05] Hello (Speaker: A)",
        "[00:05-00:06] Bye",
    ]
    assert describe({"segments": {"start": [], "end": []}}) == ""
    with pytest.raises(DatasetError, match="lists of different lengths"):
        describe({"segments": {**turned, "text": ["Hello"]}})
    once = {"start": 0, "end": 1}
    assert json.loads(describe({"span": once}, "{span}")) == once


def test_tenths_of_a_second_where_whole_ones_say_nothing() -> None:
    entries = [
        {"start": 0.04, "end": 0.36, "text": "a"},
        {"start": 0.4, "end": 5.2, "text": "b"},
        {"start": 7.2, "end": 9.0, "text": "c"},
        {"start": 59.97, "end": 60.4, "text": "d"},
    ]
    assert timed_lines(entries, "x", tenths=True) == [
        "[00:00.0-00:00.4] a", "[00:00.4-00:05.2] b", "[00:07-00:09] c", "[01:00.0-01:00.4] d",
    ]  # fmt: skip
    assert timed_lines(entries, "x")[0] == "[00:00-00:00] a"


def test_hours_where_they_are_needed() -> None:
    entries = [{"start": 7, "end": "59:59", "text": "a"}, {"start": "59:59", "end": "01:00:04"}]
    entries[1]["text"] = "b"
    assert describe({"segments": entries}, "{segments}").splitlines() == [
        "[00:00:07-00:59:59] a",
        "[00:59:59-01:00:04] b",
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"start": 1, "duration": "x", "text": "x"}, "entry 1, duration: expected seconds"),
        ({"start": 10**400, "end": 1, "text": "x"}, "expected seconds from 0 on"),
        ({"end": 1, "text": "x"}, "entry 1: no start"),
        ({"start": 3, "end": 2, "text": "x"}, "ends at 2 s, before it starts at 3 s"),
        ({"start": -1, "end": 2, "text": "x"}, "expected seconds from 0 on"),
        ({"start": "soon", "end": 2, "text": "x"}, "got 'soon'"),
        ({"start": True, "end": 2, "text": "x"}, "got True"),
        ({"start": 0, "end": "1:75", "text": "x"}, "got '1:75'"),
        ({"start": 0, "end": float("inf"), "text": "x"}, "got inf"),
        ({"start": 0, "start_s": 1, "end": 2, "text": "x"}, "start and start_s differ"),
        ("Hello", "expected fields with a start and an end, got 'Hello'"),
    ],
)
def test_a_malformed_entry_is_named(entry: Any, message: str) -> None:
    with pytest.raises(DatasetError, match="column 'segments', entry 1") as caught:
        describe({"segments": [TURN, entry]})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1:02:03.5", 3723.5), ("02:03", 123), ("75:00", 4500), ("12.25", 12.25), (3, 3)],
)
def test_seconds(text: Any, seconds: float) -> None:
    assert seconds_of(text, "here") == seconds


def test_a_malformed_sample_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    dataset = save_dataset(tmp_path, 4)
    rows = [json.loads(line) for line in dataset.read_text().splitlines()]
    for index, row in enumerate(rows):
        row["segments"] = [{**TURN, "end": 5 if index != 2 else "late"}]
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ["--dataset", str(dataset), "--out", str(tmp_path / "t")]
    told += ["--set", "failures.max_fraction=0.5"]
    for step in ("ingest", "textualize"):
        done = CliRunner().invoke(app, [step, *told])
        assert done.exit_code == 0, done.stderr
    tape = open_tape(tmp_path / "t")
    (failed,) = tape.quarantined
    assert (failed.sample_id, failed.reason) == ("row-2", "description")
    assert "column 'segments', entry 0, end: expected seconds" in failed.detail
    assert "[00:00-00:05] Hello (Gender: Female, Emotion: Happy)" in str(tape["row-0"].description)


def test_odd_values_fail_their_own_samples_only(tmp_path: Path) -> None:
    dataset = save_dataset(tmp_path, 5)
    rows = [json.loads(line) for line in dataset.read_text().splitlines()]
    for row in rows:
        row["loudness"] = 1.5
    rows[1]["loudness"] = 10**400
    rows[2]["segments"] = [{**TURN, "end": 10**400}]
    rows[3]["segments"] = [{**TURN, "start": 1e308, "end": None, "duration": 1e308}]
    rows[4]["segments"] = [{**TURN, "text": "", "gender": None, "emotion": None}, TURN]
    for row in rows:
        row.setdefault("segments", [])
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ["--dataset", str(dataset), "--out", str(tmp_path / "t")]
    told += ["--set", "failures.max_fraction=0.6"]
    told += ["--set", "textualize.template={speaker} {loudness:.1f} {segments}"]
    for step in ("ingest", "textualize"):
        done = CliRunner().invoke(app, [step, *told])
        assert done.exit_code == 0, done.stderr
    assert "that say nothing, so have no line: 1" in done.stderr
    tape = open_tape(tmp_path / "t")
    assert {item.sample_id for item in tape.quarantined} == {"row-1", "row-2", "row-3"}
    assert {item.reason for item in tape.quarantined} == {"description"}
    assert tape["row-0"].description == "machine 1.5 "
    assert tape.groups["descriptions"].identity["method"] == "columns.v2"
