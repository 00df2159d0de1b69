from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cache_schema import Tape, open_tape
from cache_schema.codecs import bfloat16
from cache_schema.errors import TapeError
from cache_schema.maker import GroupInfo
from cache_schema.rows.values import hidden_row, sample_rows, trace_row
from cache_schema.shard import Storage
from cache_schema.types import Sample, Trace
from cache_schema.writer import TapeWriter
from train.batch.build import BatchPlan, Needs, plan_batch
from train.batch.states import damaged_states, start_states
from train.steps.ring import HostBuffer, Readers
from train.terms.resolve import StatesAt

LAYERS = (1, 3, 4)
WIDTH = 8
NAMES = [f"s{number}" for number in range(9)]
AT = StatesAt("textual", at="token")
NEEDS = Needs(states={AT: (1, 4)})


def trace_ids(number: int) -> NDArray[np.int64]:
    return np.arange(2 + 5 * number % 11, dtype=np.int64)


def states_of(number: int, dtype: str) -> dict[int, NDArray[np.float32]]:
    rng = np.random.default_rng(number)
    shape = (len(trace_ids(number)), WIDTH)
    wide = {layer: rng.standard_normal(shape).astype(np.float32) for layer in LAYERS}
    return {layer: bfloat16.decode(bfloat16.encode(s, dtype)) for layer, s in wide.items()}


def write(root: Path, *dtypes: str, bad: str = "", width: int = WIDTH) -> Tape:
    """Write nine samples, their states in turn in the given types."""
    with TapeWriter(root, GroupInfo(group="samples", kind="samples")) as writer:
        for number, name in enumerate(NAMES):
            sample = Sample(sample_id=name, row_index=number, audio=None, question="?")
            writer.add(sample_rows(sample, "0", 9))
    signals = {"trace": {}, "hidden": {"layers": list(LAYERS)}}
    info = GroupInfo(group="textual", kind="textual", signals=signals)
    for turn, dtype in enumerate(dtypes):
        with TapeWriter(root, info, storage=Storage(states_dtype=dtype), shard_samples=2) as writer:
            for number in range(turn, len(NAMES), len(dtypes)):
                name, ids = NAMES[number], trace_ids(number)
                one = Trace(
                    text="", token_ids=ids, prompt_token_ids=ids, finish_reason="stop", answer="",
                    correct=None, logprob=0.0,
                )  # fmt: skip
                states = states_of(number, dtype)
                if turn:
                    states = {k: np.resize(s, (len(ids), width)) for k, s in states.items()}
                if name == bad:
                    states[4][-1, -1] = np.inf
                place = hidden_row(name, 0, "token", (0, 0), ids, None)
                writer.add({"trace": [trace_row(name, 0, one)]}, [(place, states)])
    return open_tape(root)


def read(plan: BatchPlan, threads: int, buffer: HostBuffer | None = None) -> torch.Tensor:
    buffer = buffer or HostBuffer()
    buffer.reserve(plan.sizes)
    with Readers(threads) as readers:
        tensor = start_states(plan.states[AT], buffer, readers)
        buffer.wait()
    return tensor


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_states_arrive_in_the_type_they_are_stored_in(
    tmp_path: Path, dtype: str, threads: int
) -> None:
    tape = write(tmp_path / "tape", dtype)
    order = [7, 0, 3, 8]
    plan = plan_batch(tape, [(NAMES[number], 0) for number in order], NEEDS)
    states_LND = read(plan, threads)
    assert states_LND.dtype == getattr(torch, dtype)
    for index, layer in enumerate(NEEDS.states[AT]):
        expected = np.concatenate([states_of(number, dtype)[layer] for number in order])
        assert states_LND[index].is_contiguous()
        np.testing.assert_array_equal(states_LND[index].float(), expected)


def test_a_buffer_serves_batches_of_any_size(tmp_path: Path) -> None:
    tape = write(tmp_path / "tape", "bfloat16")
    buffer = HostBuffer()
    for names in (NAMES[:1], NAMES, NAMES[2:4], NAMES[::-1]):
        plan = plan_batch(tape, [(name, 0) for name in names], NEEDS)
        states_LND = read(plan, 2, buffer)
        expected = np.concatenate([states_of(int(name[1:]), "bfloat16")[4] for name in names])
        np.testing.assert_array_equal(states_LND[1].float(), expected)
    assert buffer.capacity < sum(plan.sizes) + 64


def test_shards_of_different_types_meet_in_float32(tmp_path: Path) -> None:
    tape = write(tmp_path / "tape", "bfloat16", "float16")
    plan = plan_batch(tape, [(name, 0) for name in NAMES], NEEDS)
    states_LND = read(plan, 2)
    assert states_LND.dtype == torch.float32
    dtypes = ["bfloat16", "float16"]
    expected = [states_of(number, dtypes[number % 2])[1] for number in range(len(NAMES))]
    np.testing.assert_array_equal(states_LND[0], np.concatenate(expected))


def test_shards_of_different_widths_are_refused(tmp_path: Path) -> None:
    tape = write(tmp_path / "tape", "bfloat16", "bfloat16", width=4)
    with pytest.raises(TapeError, match=r"textual/hidden has states of widths \[4, 8\]"):
        plan_batch(tape, [(name, 0) for name in NAMES], NEEDS)


def test_the_row_whose_states_are_not_finite_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache_schema.codecs.bfloat16.is_finite", lambda values: True)
    tape = write(tmp_path / "tape", "bfloat16", bad="s5")
    rows = [(name, 0) for name in NAMES]
    (found,) = damaged_states(tape, rows, {AT: (1, 4)})
    assert "textual/hidden of sample 's5'" in found
    assert damaged_states(tape, rows, {AT: (1, 3)}) == []


def test_a_truncated_array_is_an_error_of_the_read(tmp_path: Path) -> None:
    tape = write(tmp_path / "tape", "bfloat16")
    plan = plan_batch(tape, [(name, 0) for name in NAMES], NEEDS)
    for file in (tmp_path / "tape").rglob("c/0/0"):
        if "L004" in str(file):
            file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(TapeError, match="L004"):
        read(plan, 2)
