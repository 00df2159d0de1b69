"""Every way to store a signal gives it back: exactly, or within what the manifest says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stored_tape import TEXTUAL, WIDTH, drawn_of, make_tape, states_of, topk_of

from cache_schema import open_tape
from cache_schema.prepare import RowError
from cache_schema.rows.values import topk_row
from cache_schema.shard import Storage
from cache_schema.signals import MAX_ENTRIES, STATES_PROFILES, TOPK_CODECS
from cache_schema.writer import TapeWriter


@pytest.mark.parametrize("codec", TOPK_CODECS)
def test_topk_and_drawn_tokens_come_back(tmp_path: Path, codec: str) -> None:
    tape = open_tape(make_tape(tmp_path / "tape", Storage(topk=codec)))
    assert tape.signals == ("textual/hidden", "textual/sampled", "textual/topk")
    for index, row in enumerate(tape):
        expected, topk = topk_of(index), row["textual/topk"]
        np.testing.assert_array_equal(topk.token_ids, expected.token_ids)
        np.testing.assert_array_equal(topk.target_ids, expected.target_ids)
        if codec == "hot":
            np.testing.assert_array_equal(topk.logprobs, expected.logprobs)
            np.testing.assert_array_equal(topk.tail, expected.tail)
        kept = np.exp(expected.logprobs.astype(np.float64))
        divergence = (kept * (expected.logprobs - topk.logprobs)).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            of_tail = expected.tail * np.log(expected.tail / topk.tail)
        assert (divergence + np.nan_to_num(of_tail)).mean() <= 1e-4 if index else True
        drawn, recorded = drawn_of(index), row["textual/sampled"]
        for name in ("token_ids", "counts", "offsets", "target_ids"):
            np.testing.assert_array_equal(getattr(recorded, name), getattr(drawn, name))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("profile", STATES_PROFILES)
def test_states_come_back(tmp_path: Path, profile: str, dtype: str) -> None:
    storage = Storage(profile=profile, states_dtype=dtype)
    tape = open_tape(make_tape(tmp_path / "tape", storage))
    rounding = {"bfloat16": 2**-8, "float16": 2**-10, "float32": 0.0}[dtype]
    for index, row in enumerate(tape):
        hidden = row["textual/hidden"]
        assert hidden.layers == (0, 7)
        for place, layer in enumerate(hidden.layers):
            expected = states_of(index)[layer]
            if profile != "lossy2x":
                np.testing.assert_allclose(hidden.states[:, place], expected, rounding, 1e-6)
            elif index:
                scale = np.where(np.arange(WIDTH) % 16 == 0, 50.0, 1.0)
                error = (hidden.states[:, place] - expected) / scale
                assert np.sqrt((error**2).mean()) < 0.015
    for shard in tape.shards["textual"]:
        states = shard.record.states
        assert states is not None
        assert sorted(states.errors) == (["0", "7"] if profile == "lossy2x" else [])
        for error in states.errors.values():
            assert 0 < error["standardised_relative_error"] < 0.015
            assert error["cosine_min"] > 0.99


def test_a_packed_row_cannot_claim_more_than_a_trace_may_hold(tmp_path: Path) -> None:
    huge = {**topk_row("s0", 0, topk_of(1)), "k": MAX_ENTRIES}
    packed = {name: huge[name] for name in ("sample_id", "trace_index", "target_ids", "k")}
    with (
        TapeWriter(tmp_path / "tape", TEXTUAL) as writer,
        pytest.raises(RowError, match=r"'s0': .* at most"),
    ):
        writer.add({"topk_compact": [{**packed, "packed": b"\x01"}]})
