"""Several acoustic sources on one tape; states of the recording and of traces in one source."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks.forge import Forge
from classes_tape import (
    ACOUSTIC,
    ALL,
    MAKERS,
    QUARANTINED,
    WAVLM,
    make,
    states_of,
)
from sound_tape import edit_table, targets_of, uncounted

from cache_schema import open_tape
from cache_schema.compare.tapes import compare
from cache_schema.errors import MissingSignalError, TapeError
from cache_schema.maker import GroupInfo
from cache_schema.merge.tapes import merge
from cache_schema.prepare import RowError, prepare
from cache_schema.rows.values import hidden_row
from cache_schema.shard import Storage
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import Hidden
from cache_schema.validate.tape import validate
from cache_schema.writer import TapeWriter

SIGNALS = (
    "acoustic/embedding", "acoustic/frame_logits", "acoustic/hidden", "acoustic/topk",
    "acoustic/utterance_logits", "textual/hidden", "textual/topk", "textual/trace",
    "wavlm/embedding", "wavlm/hidden",
)  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make(tmp_path_factory.mktemp("good") / "tape", shard_samples=2)
    with TapeWriter(root, MAKERS["wavlm"]) as writer:
        writer.quarantine(*QUARANTINED)
    return root


def told(root: Path) -> set[tuple[str, str]]:
    """(location, kind) of every problem."""
    found = validate(root, uncounted, deep=True)
    return {(problem.location, problem.kind) for problem in found.problems}


def states(row: Any, name: str, trace: int | None = None) -> Hidden:
    """The states of a sample, one layer after another compared with those given."""
    hidden = row.signal(name, trace)
    assert isinstance(hidden, Hidden)
    expected = states_of(row.row_index, hidden.kind)
    assert list(hidden.layers) == sorted(expected)
    for number, layer in enumerate(hidden.layers):
        np.testing.assert_array_equal(hidden.states[:, number], expected[layer])
    return hidden


def test_each_source_has_its_own(good: Path) -> None:
    tape = open_tape(good)
    assert tape.signals == SIGNALS
    assert all(row.signals == SIGNALS for row in tape)
    assert tape.recorded("wavlm") == tape.recorded("acoustic") == set(tape.sample_ids)
    found = [shard.record.states for shard in tape.shards["wavlm"]]
    assert [one.width for one in found if one is not None] == [4] * 3
    for row in tape:
        assert states(row, "acoustic/hidden").kind == "audio"
        assert states(row, "wavlm/hidden").kind == "frame"
    assert [(one.group, one.sample_id) for one in tape.quarantined] == [("wavlm", "s9")]
    assert told(good) == set()


def test_both_sources_are_read_without_the_index_too(good: Path, tmp_path: Path) -> None:
    root = shutil.copytree(good, tmp_path / "tape")
    shutil.rmtree(root / "index")
    assert [row.signals for row in open_tape(root)] == [SIGNALS] * 5
    for row in open_tape(root):
        states(row, "acoustic/hidden")
        states(row, "wavlm/hidden")


def test_a_source_is_added_by_a_merge_and_missed_by_a_diff(good: Path, tmp_path: Path) -> None:
    one = make(tmp_path / "one", groups=ALL[:-1], shard_samples=2)
    two = make(tmp_path / "two", groups=("samples", "wavlm"), shard_samples=2)
    with TapeWriter(two, MAKERS["wavlm"]) as writer:
        writer.quarantine(*QUARANTINED)
    merge([one, two], tmp_path / "out", uncounted)
    out = open_tape(tmp_path / "out")
    assert told(tmp_path / "out") == set()
    assert compare(out, open_tape(good), uncounted).equal
    found = compare(open_tape(one), out, uncounted)
    differing = {name for name, some in found.contents.items() if not some.equal}
    assert differing == {"wavlm/hidden", "wavlm/embedding"}
    assert [change.field for change in found.makers] == ["group"]
    assert found.quarantined == {"only_a": [], "only_b": ["wavlm: s9: audio"]}


def test_a_change_in_one_source_is_told_of_that_source(good: Path, tmp_path: Path) -> None:
    root = make(tmp_path / "tape")
    edit_table(root, WAVLM, "hidden", lambda rows: rows[0].update(kind="audio"))
    found = compare(open_tape(good), open_tape(root), uncounted)
    differing = {name: list(some.fields) for name, some in found.contents.items() if not some.equal}
    assert differing == {"wavlm/hidden": ["kind"]}
    assert told(root) == {(WAVLM, "totals")}


FORBIDDEN = (
    ("samples", "acoustic", "'samples'"),
    ("Samples", "acoustic", "'samples'"),
    ("descriptions", "acoustic", "'descriptions'"),
    ("textual", "acoustic", "'textual'"),
    ("heard", "acoustic", "'heard'"),
    ("heard_transcript", "acoustic", "'heard'"),
    ("Heard_x", "acoustic", "'heard'"),
    ("acoustic", "textual", "'acoustic'"),
    ("samples", "textual", "'samples'"),
    ("heard_transcript", "textual", "'heard'"),
)


@pytest.mark.parametrize(("name", "kind", "other"), FORBIDDEN)
def test_a_source_is_not_called_as_other_groups_are(
    good: Path, tmp_path: Path, name: str, kind: str, other: str
) -> None:
    message = f"group '{name}' of kind '{kind}' is called as groups of kind {other} are"
    with pytest.raises(TapeError, match=message):
        TapeWriter(tmp_path / "new", GroupInfo(group=name, kind=kind))
    assert not (tmp_path / "new").exists()
    root = shutil.copytree(good, tmp_path / "tape")
    (root / f"groups/{name}.json").write_bytes(GroupInfo(group=name, kind=kind).to_json())
    with pytest.raises(TapeError, match=message):
        open_tape(root)
    assert (f"groups/{name}.json", "group file") in told(root)


@pytest.mark.parametrize("name", ["wavlm", "acoustic_tower", "heards", "sample", "A", "_", "ear_2"])
def test_a_source_may_be_called_anything_else(tmp_path: Path, name: str) -> None:
    make(tmp_path / "tape", [0], groups=["samples"])
    with TapeWriter(tmp_path / "tape", replace(MAKERS["wavlm"], group=name)) as writer:
        place = hidden_row("s0", AUDIO_ROW, "frame", (0, 0), None, None)
        writer.add({}, [(place, states_of(0, "frame"))])
    assert open_tape(tmp_path / "tape")["s0"].hidden_place(f"{name}/hidden").count == 3
    assert told(tmp_path / "tape") == set()


def test_signals_of_a_kind_that_holds_none_of_them_are_found(good: Path, tmp_path: Path) -> None:
    root = shutil.copytree(good, tmp_path / "tape")
    forge = Forge(root, "hot", None)  # type: ignore[arg-type]  # nothing is drawn
    facts = {"width": 5, "pooling": "mean"}
    forge.put_json("groups/textual.json", lambda values: values["signals"].update(embedding=facts))
    with pytest.raises(TapeError, match="'embedding' in a group of kind 'textual'"):
        open_tape(root)


# States of the recording and of the response in one source


def test_the_recording_comes_first_and_a_trace_is_asked_for_by_number(good: Path) -> None:
    for row in open_tape(good):
        assert row.traces_of("acoustic/hidden") == (AUDIO_ROW, 0)
        assert states(row, "acoustic/hidden").kind == "audio"
        assert states(row, "acoustic/hidden", AUDIO_ROW).kind == "audio"
        token = states(row, "acoustic/hidden", 0)
        assert token.kind == "token"
        np.testing.assert_array_equal(token.target_ids, targets_of(row.row_index))
        assert row.hidden_place("acoustic/hidden").kind == "audio"
        assert row.hidden_place("acoustic/hidden", 0).kind == "token"
        assert row.hidden_place("acoustic/hidden", 0, (3,)).layers == (3,)
        assert row.hidden_place("textual/hidden").kind == "token"
        assert row.traces_of("wavlm/hidden") == (AUDIO_ROW,)
        assert row.traces_of("textual/topk") == row.traces_of("acoustic/topk") == (0,)
        assert row.traces_of("acoustic/lens") == row.traces_of("nobody/hidden") == ()
        np.testing.assert_array_equal(
            row["acoustic/topk"].target_ids, row["textual/topk"].target_ids
        )


def test_a_signal_of_no_states_has_no_place(good: Path) -> None:
    with pytest.raises(MissingSignalError, match="'acoustic/topk' holds no states"):
        open_tape(good)["s1"].hidden_place("acoustic/topk")


@pytest.mark.parametrize(
    ("name", "trace"),
    [
        ("wavlm/hidden", 0),
        ("acoustic/hidden", 1),
        ("acoustic/embedding", 0),
        ("acoustic/topk", AUDIO_ROW),
        ("textual/hidden", AUDIO_ROW),
    ],
)
def test_a_row_that_was_asked_for_is_no_other(good: Path, name: str, trace: int) -> None:
    row = open_tape(good)["s1"]
    assert name in row
    with pytest.raises(MissingSignalError, match=rf"has no '{name}' \(trace {trace}\)"):
        row.signal(name, trace)


def test_an_acoustic_source_with_states_of_the_response_only(tmp_path: Path) -> None:
    root = make(tmp_path / "tape", [0, 1], groups=("samples", "textual"))
    with TapeWriter(root, MAKERS["acoustic"]) as writer:
        for index in range(2):
            place = hidden_row(f"s{index}", 0, "token", (0, 0), targets_of(index), None)
            writer.add({}, [(place, states_of(index, "token"))])
    for row in open_tape(root):
        assert "acoustic/hidden" in row
        assert states(row, "acoustic/hidden").kind == "token"
    assert told(root) == set()


def test_totals_of_both_kinds(good: Path) -> None:
    records = [shard.record for shard in open_tape(good).shards["acoustic"]]
    audio = sum(record.totals["hidden_audio_positions"] for record in records)
    token = sum(record.totals["hidden_token_positions"] for record in records)
    assert (audio, token) == (10, sum(len(targets_of(index)) for index in range(5)))
    assert sum(record.positions for record in records) == audio + token


def test_states_of_other_tokens_than_the_traces_are_found(good: Path, tmp_path: Path) -> None:
    root = make(tmp_path / "tape")
    edit_table(root, ACOUSTIC, "hidden", lambda rows: rows[1].update(target_ids=[7]))
    assert told(root) == {("acoustic/hidden", "tokens"), ("acoustic/topk", "tokens")}


def test_states_of_no_trace_are_found(tmp_path: Path) -> None:
    root = make(tmp_path / "tape")
    edit_table(root, ACOUSTIC, "hidden", lambda rows: rows[1].update(trace_index=4))
    assert told(root) == {("acoustic/hidden", "no trace")}


def test_merge_and_diff_take_both_rows(good: Path, tmp_path: Path) -> None:
    parts = [make(tmp_path / "a", [0, 2]), make(tmp_path / "b", [1, 3, 4])]
    merge(parts, tmp_path / "out", uncounted)
    found = compare(open_tape(tmp_path / "out"), open_tape(good), uncounted)
    assert found.contents["acoustic/hidden"].equal
    assert found.contents["acoustic/hidden"].compared == 10
    edit_table(parts[0], ACOUSTIC, "hidden", lambda rows: rows[1].update(target_ids=[7]))
    found = compare(open_tape(parts[0]), open_tape(good), uncounted)
    assert found.contents["acoustic/hidden"].fields == {"target_ids": 1}
    assert found.contents["acoustic/hidden"].only_b.count == 6


@pytest.mark.parametrize(
    "times_s", [[0.1, 0.2, 0, 0.1], [0, np.nan, 0, 1], [-1, 0, 0, 1], [0, np.inf, 0, np.inf]]
)
def test_states_at_no_time_are_refused_by_writer_reader_and_verify(
    good: Path, tmp_path: Path, times_s: list[float]
) -> None:
    given = np.array(times_s, np.float32)
    place = hidden_row("s0", AUDIO_ROW, "audio", (0, 0), None, given)
    with pytest.raises(RowError, match="times"):
        prepare({}, [(place, states_of(0, "audio"))], Storage(), {})
    root = shutil.copytree(good, tmp_path / "tape")
    edit_table(root, ACOUSTIC, "hidden", lambda rows: rows[0].update(times_s=times_s))
    assert (f"{ACOUSTIC}/hidden.arrow row 0", "row") in told(root)
    with pytest.raises(TapeError, match="times"):
        open_tape(root)["s0"].hidden_place("acoustic/hidden")
