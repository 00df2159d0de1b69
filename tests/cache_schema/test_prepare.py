"""What a reader would refuse is never written; the sample is refused whole and others follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sound_tape import uncounted
from stored_tape import SAMPLES, TEXTUAL, states_of, topk_of

from cache_schema import open_tape
from cache_schema.codecs.pcm import audio_sha256
from cache_schema.errors import ProvenanceError, TapeError
from cache_schema.prepare import RowError
from cache_schema.rows.values import hidden_row, sample_rows, topk_row, trace_row
from cache_schema.shard import Storage
from cache_schema.types import Sample, Trace
from cache_schema.validate.tape import validate
from cache_schema.writer import MAX_DETAIL, TapeWriter

Row = dict[str, Any]
States = dict[int, np.ndarray]
Change = Callable[[Row, States], None]


def add_textual(writer: TapeWriter, index: int, change: Change | None = None) -> None:
    topk = topk_of(index)
    row, states = topk_row(f"s{index}", 0, topk), states_of(index)
    if change is not None:
        change(row, states)
    trace = Trace(
        text="", token_ids=topk.target_ids, prompt_token_ids=np.arange(2), finish_reason="stop",
        answer="", correct=None, logprob=0.0,
    )  # fmt: skip
    place = hidden_row(f"s{index}", 0, "token", (0, 0), topk.target_ids, None)
    rows = {"trace": [trace_row(f"s{index}", 0, trace)], "topk": [row]}
    writer.add(rows, [(place, states)])


def put(name: str, at: int, value: float) -> Change:
    def change(row: Row, states: States) -> None:
        row[name] = row[name].copy()
        row[name][at] = value

    change.__name__ = f"{name}[{at}] = {value}"
    return change


def halve(row: Row, states: States) -> None:
    row["logprobs"], row["tail"] = row["logprobs"] - 0.7, row["tail"] / 2


def ascend(row: Row, states: States) -> None:
    row["logprobs"] = row["logprobs"].reshape(-1, row["k"])[:, ::-1].reshape(-1)


def beyond_float16(row: Row, states: States) -> None:
    states[7][0, 0] = 1e5


def no_number(row: Row, states: States) -> None:
    states[7][0, 0] = np.nan


def shorter_states(row: Row, states: States) -> None:
    states.update({layer: rows[:-1] for layer, rows in states.items()})


def other_layers(row: Row, states: States) -> None:
    states[9] = states.pop(7)


def uneven_layers(row: Row, states: States) -> None:
    states[7] = states[7][:, :-1]


def float_ids(row: Row, states: States) -> None:
    row["token_ids"] = row["token_ids"] + 0.5


def surrogate(row: Row, states: States) -> None:
    row["sample_id"] = "s\udc80"


@pytest.mark.parametrize("codec", ["hot", "compact"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("token_ids", 0, 2**32 + 5), "outside 0 to"),
        (put("target_ids", 0, 2**32 + 7), "outside 0 to"),
        (put("token_ids", 3, 1 << 20), "outside 0 to"),
        (put("tail", 0, np.nan), "do not sum to 1"),
        (put("logprobs", 0, np.nan), "ascend"),
        (halve, "do not sum to 1"),
        (ascend, "ascend"),
        (beyond_float16, "not finite as float16"),
        (no_number, "not finite as float16"),
        (shorter_states, "target ids for"),
        (other_layers, "the group says"),
        (uneven_layers, "layers of shapes"),
        (float_ids, "expected integers"),
        (surrogate, "not UTF-8"),
    ],
)
def test_a_sample_is_refused_whole(
    tmp_path: Path, change: Change, message: str, codec: str
) -> None:
    storage = Storage(states_dtype="float16", topk=codec)
    with TapeWriter(tmp_path, SAMPLES) as writer:
        for index in (1, 2, 3):
            audio = np.zeros(100, np.float32)
            sample = Sample(sample_id=f"s{index}", row_index=index, audio=audio, question="?")
            writer.add(sample_rows(sample, audio_sha256(audio), 100))
    hidden = {"layers": [0, 7], "width": 64, "dtype": "float16", "profile": "hot"}
    facts = {"trace": {}, "topk": {"k": 16, "codec": codec}, "hidden": hidden}
    with TapeWriter(tmp_path, replace(TEXTUAL, signals=facts), storage=storage) as writer:
        add_textual(writer, 1)
        with pytest.raises(RowError, match=message):
            add_textual(writer, 2, change)
        add_textual(writer, 3)
    tape = open_tape(tmp_path)
    assert tape.recorded("textual") == {"s1", "s3"}
    np.testing.assert_array_equal(tape["s3"]["textual/topk"].token_ids, topk_of(3).token_ids)
    assert validate(tmp_path, uncounted, deep=True).problems == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row_index": -1}, "row -1"),
        ({"question": "a\ud800"}, "not UTF-8"),
        ({"audio": np.array([np.nan], np.float32)}, "not finite"),
    ],
)
def test_a_sample_that_breaks_the_format(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    values = {"sample_id": "s", "row_index": 0, "audio": np.zeros(1, np.float32), "question": ""}
    with TapeWriter(tmp_path, SAMPLES) as writer, pytest.raises(RowError, match=message):
        writer.add(sample_rows(Sample(**{**values, **changes}), "0" * 64, 1))


def test_metadata_without_a_number_is_null(tmp_path: Path) -> None:
    metadata = {"x": float("nan"), "y": [1.5, float("inf")], "z": {"a": -0.5}}
    sample = Sample(sample_id="s", row_index=0, audio=None, question="", metadata=metadata)
    with TapeWriter(tmp_path, SAMPLES) as writer:
        writer.add(sample_rows(sample, "0" * 64, 1))
    assert open_tape(tmp_path)["s"].metadata == {"x": None, "y": [1.5, None], "z": {"a": -0.5}}


@pytest.mark.parametrize(
    "facts",
    [
        {"hidden": {"profile": "archive"}},
        {"hidden": {"dtype": "float32"}},
        {"topk": {"codec": "compact"}},
    ],
)
def test_a_storage_the_group_does_not_name_is_refused(
    tmp_path: Path, facts: dict[str, dict[str, Any]]
) -> None:
    with pytest.raises(TapeError, match="the writer's storage"):
        TapeWriter(tmp_path, replace(TEXTUAL, signals=facts), storage=Storage())


@pytest.mark.parametrize("profile", ["hot", "archive", "lossy2x"])
def test_without_a_storage_the_groups_facts_decide(tmp_path: Path, profile: str) -> None:
    hidden = {"layers": [0, 7], "width": 64, "dtype": "float32", "profile": profile}
    facts = {"trace": {}, "topk": {"k": 16, "codec": "compact"}, "hidden": hidden}
    with TapeWriter(tmp_path, replace(TEXTUAL, signals=facts)) as writer:
        add_textual(writer, 2)
    (shard,) = open_tape(tmp_path).shards["textual"]
    assert (shard.record.states.dtype, shard.record.states.profile) == ("float32", profile)
    assert "topk_compact" in shard.record.rows


def test_a_long_detail_does_not_break_the_tape(tmp_path: Path) -> None:
    with TapeWriter(tmp_path, SAMPLES) as writer:
        writer.quarantine("s\udc80", 0, "audio", "x" * (5 << 20))
    (record,) = open_tape(tmp_path).quarantined
    assert record.sample_id == "s\udc80"
    assert record.detail == "x" * MAX_DETAIL + " ... (cut)"


def test_another_licence_is_refused(tmp_path: Path) -> None:
    with TapeWriter(tmp_path, SAMPLES, licence="CC-BY-4.0") as writer:
        writer.quarantine("s", 0, "audio", "")
    TapeWriter(tmp_path, SAMPLES, licence="CC-BY-4.0")
    TapeWriter(tmp_path, SAMPLES)
    with pytest.raises(ProvenanceError, match="now 'proprietary'"):
        TapeWriter(tmp_path, SAMPLES, licence="proprietary")


@pytest.mark.parametrize("rows", [{}, {"trace": [], "topk": []}])
def test_a_sample_without_any_row_is_refused(tmp_path: Path, rows: dict[str, list[Row]]) -> None:
    """A shard would count it as recorded, and no reader could find it."""
    with TapeWriter(tmp_path, TEXTUAL) as writer, pytest.raises(RowError, match="nothing to rec"):
        writer.add(rows)
    assert not (tmp_path / "dataset.json").exists()


def test_more_logits_than_the_compact_form_counts_fail_one_sample(tmp_path: Path) -> None:
    k = 1 << 16
    facts = {"trace": {}, "topk": {"k": 16, "codec": "compact"}, "hidden": {"layers": [0, 7]}}

    def widen(row: Row, states: States) -> None:
        tokens = len(row["tail"])
        row["k"] = k
        row["token_ids"] = np.tile(np.arange(k), tokens)
        row["logprobs"] = np.full(tokens * k, -np.log(k), np.float32)
        row["tail"] = np.zeros(tokens, np.float32)

    with TapeWriter(tmp_path, SAMPLES) as writer:
        for index in (1, 2):
            sample = Sample(sample_id=f"s{index}", row_index=index, audio=None, question="?")
            writer.add(sample_rows(sample, "0" * 64, 1))
    info = replace(TEXTUAL, signals=facts)
    with TapeWriter(tmp_path, info, storage=Storage(topk="compact")) as writer:
        with pytest.raises(RowError, match="topk of sample 's1': k is 65536"):
            add_textual(writer, 1, widen)
        add_textual(writer, 2)
    assert open_tape(tmp_path).recorded("textual") == {"s2"}
