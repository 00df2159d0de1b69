"""Rows of logits and embeddings that break the format are refused before they are written."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classes_tape import EMBEDDED, MAKERS, TIMES

from cache_schema.errors import TapeError
from cache_schema.prepare import RowError, prepare
from cache_schema.rows.classes import embedding_row, frame_logits_row, utterance_logits_row
from cache_schema.rows.values import decode
from cache_schema.shard import Storage
from cache_schema.writer import TapeWriter

SIGNALS = MAKERS["acoustic"].signals


def frames_with(**values: Any) -> dict[str, Any]:
    """A row of two frames, some of its columns replaced."""
    return {**frame_logits_row("s", np.zeros((2, 3)), TIMES), **values}


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [
        ("utterance_logits", utterance_logits_row("s", np.zeros(3)), "3 logits, its group names 2"),
        ("utterance_logits", utterance_logits_row("s", np.zeros(0)), "0 logits, its group names 2"),
        ("utterance_logits", utterance_logits_row("s", np.array([0, np.nan])), "not finite"),
        ("utterance_logits", utterance_logits_row("s", np.array([0, np.inf])), "not finite"),
        ("utterance_logits", utterance_logits_row("s", np.array([0, 1e39])), "not finite"),
        (
            "utterance_logits",
            {**utterance_logits_row("s", np.zeros(2)), "trace_index": 0},
            "trace index 0: it is of the recording",
        ),
        ("frame_logits", frames_with(logits=np.zeros(5)), "5 logits, expected 2 frames of the 3"),
        ("frame_logits", frames_with(logits=np.zeros(9)), "9 logits, expected 2 frames of the 3"),
        ("frame_logits", frames_with(logits=np.full(6, -np.inf)), "not finite"),
        ("frame_logits", frames_with(trace_index=3), "trace index 3"),
        ("frame_logits", frames_with(times_s=[0, 1, 2]), "expected a start and an end"),
        ("frame_logits", frames_with(times_s=[]), "6 logits, expected 0 frames"),
        ("frame_logits", frames_with(times_s=[0, 1, 1, np.nan]), "negative or not finite"),
        ("frame_logits", frames_with(times_s=[0, 1, 1, np.inf]), "negative or not finite"),
        ("frame_logits", frames_with(times_s=[-1, 1, 1, 2]), "negative or not finite"),
        ("frame_logits", frames_with(times_s=[0, 2, 1, 1.5]), "do not ascend"),
        ("frame_logits", frames_with(times_s=[1, 2, 0, 2]), "do not ascend"),
        ("frame_logits", frames_with(times_s=[1, 0, 1, 2]), "do not ascend"),
        ("embedding", embedding_row("s", np.zeros(4)), "width 4, its group says 5"),
        ("embedding", embedding_row("s", np.full(5, np.nan)), "not finite"),
        ("embedding", {**embedding_row("s", np.zeros(5)), "trace_index": 0}, "trace index 0"),
    ],
    ids=map(str, itertools.count()),
)
def test_a_row_that_breaks_the_format_is_refused(
    tmp_path: Path, table: str, row: dict[str, Any], message: str
) -> None:
    with TapeWriter(tmp_path / "tape", MAKERS["acoustic"]) as writer:
        with pytest.raises(RowError, match=message):
            writer.add({table: [row]})
        writer.add({"embedding": [embedding_row("s", np.zeros(EMBEDDED))]})
    floats = row.keys() - {"sample_id", "trace_index"}
    stored = {**row, **{name: np.asarray(row[name], np.float32) for name in floats}}
    with pytest.raises(TapeError, match=message):
        decode(table, stored, SIGNALS, "row 0")


def test_a_signal_its_group_does_not_name_is_refused() -> None:
    with pytest.raises(RowError, match="its group records no signal 'embedding'"):
        prepare({"embedding": [embedding_row("s", np.zeros(2))]}, [], Storage(), {"hidden": {}})


def test_more_logits_than_a_reader_takes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_schema.rows.classes.MAX_FRAME_LOGITS", 5)
    with pytest.raises(RowError, match="6 logits of one recording, at most 5"):
        prepare({"frame_logits": [frames_with()]}, [], Storage(), SIGNALS)
