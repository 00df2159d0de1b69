"""The logit lens comes back from both codecs, and what breaks it is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import full_tape
import numpy as np
import pytest
from full_tape import LENS_LAYERS, TEXTUAL, lens_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sound_tape import K, edit_table, uncounted

from cache_schema import open_tape
from cache_schema.codecs.arrow_file import to_table
from cache_schema.codecs.columns import Columns
from cache_schema.errors import TapeError
from cache_schema.prepare import RowError, prepare
from cache_schema.rows.values import DECODERS, lens_row, topk_row
from cache_schema.shard import Storage
from cache_schema.signals import CODEC_OF, SCHEMAS
from cache_schema.types import Lens, TopK
from cache_schema.validate.tape import validate
from cache_schema.writer import TapeWriter

GRID_NATS = 0.05
"""Log-probabilities of the compact codec are on a grid of at most 1/16 nat."""


class _Uncut:
    def check(self) -> None:
        """Never cut: it is in memory."""


@st.composite
def lenses(draw: st.DrawFn) -> Lens:
    num_tokens, num_layers, k = (draw(st.integers(low, 4)) for low in (0, 1, 1))
    layers = draw(st.sets(st.integers(0, 4096), min_size=num_layers, max_size=num_layers))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    shape = (num_tokens, num_layers)
    shares = rng.dirichlet(np.full(k + 1, draw(st.sampled_from([0.05, 1.0, 50.0]))), shape)
    kept = -np.sort(-shares[..., :k], axis=2)
    with np.errstate(divide="ignore"):
        logprobs = np.log(kept).astype(np.float32)
    return Lens(
        target_ids=rng.integers(0, 1 << 20, num_tokens),
        layers=tuple(sorted(layers)),
        token_ids=rng.integers(0, 1 << 20, (*shape, k)),
        logprobs=logprobs,
        tail=shares[..., k].astype(np.float32),
    )


def stored(lens: Lens, codec: str) -> Lens:
    """Return a lens as a reader sees it: prepared, as a table, decoded."""
    rows = prepare({"lens": [lens_row("s", 0, lens)]}, [], Storage(topk=codec), {}).rows
    ((table, items),) = rows.items()
    assert CODEC_OF[table] == ("lens", codec)
    columns = Columns(to_table(SCHEMAS[table], items), _Uncut())  # type: ignore[arg-type]
    read: Lens = DECODERS[table](columns.row(0), "here")
    return read


@settings(max_examples=60, deadline=None)
@given(lenses(), st.sampled_from(["hot", "compact"]))
def test_a_lens_comes_back(lens: Lens, codec: str) -> None:
    read = stored(lens, codec)
    assert read.layers == lens.layers
    for name in ("target_ids", "token_ids"):
        one, two = getattr(read, name), getattr(lens, name)
        assert (one.dtype, one.shape) == (np.int64, two.shape)
        np.testing.assert_array_equal(one, two)
    assert read.logprobs.shape == lens.logprobs.shape
    if codec == "hot":
        np.testing.assert_array_equal(read.logprobs, lens.logprobs)
        np.testing.assert_array_equal(read.tail, lens.tail)
        return
    likely = lens.logprobs > -8  # further down an error weighs nothing, see the codec
    error = np.abs(read.logprobs[likely] - lens.logprobs[likely])
    assert error.max(initial=0) <= GRID_NATS
    total = np.exp(read.logprobs).sum(axis=2) + read.tail
    np.testing.assert_allclose(total, 1, atol=1e-5)


@pytest.mark.parametrize("codec", ["hot", "compact"])
def test_a_layer_of_the_lens_is_stored_as_top_k_is(codec: str) -> None:
    """Of the last layer it is the model's own distribution: both read alike."""
    lens = lens_of(np.random.default_rng(0), np.arange(5))
    last = TopK(
        target_ids=lens.target_ids,
        token_ids=lens.token_ids[:, -1],
        logprobs=lens.logprobs[:, -1],
        tail=lens.tail[:, -1],
    )
    rows = prepare({"topk": [topk_row("s", 0, last)]}, [], Storage(topk=codec), {}).rows
    ((table, items),) = rows.items()
    own, read = DECODERS[table](items[0], "here"), stored(lens, codec)
    for name in ("token_ids", "logprobs", "tail"):
        np.testing.assert_array_equal(getattr(own, name), getattr(read, name)[:, -1])


def _changed(**changes: Any) -> dict[str, Any]:
    row = lens_row("s0", 0, lens_of(np.random.default_rng(0), np.arange(3)))
    return {**row, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": []}, "expected ascending numbers"),
        ({"layers": [3, 1]}, "expected ascending numbers"),
        ({"layers": [1, 1]}, "expected ascending numbers"),
        ({"layers": [-1, 3]}, "expected ascending numbers"),
        ({"layers": [1, 5000]}, "expected ascending numbers"),
        ({"layers": [1, 3, 4]}, "reshape"),
        ({"k": 0}, "expected 1 to"),
        ({"k": 4}, "reshape"),
        ({"k": 1 << 30}, "expected 1 to"),
        ({"k": 1 << 20, "layers": range(4096)}, "entries in one trace"),
        ({"tail": np.full(6, 0.9)}, "do not sum to 1"),
        ({"tail": np.full(5, 0.1)}, "5 tails for 6 tokens"),
        ({"token_ids": np.full(18, 1 << 20)}, "token_ids outside"),
        ({"target_ids": [-1, 2, 3]}, "target_ids outside"),
    ],
)
@pytest.mark.parametrize("codec", ["hot", "compact"])
def test_a_lens_that_is_none_is_refused(codec: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=message):
        prepare({"lens": [_changed(**changes)]}, [], Storage(topk=codec), {})


@pytest.mark.parametrize("facts", [{"layers": [1, 2]}, {"k": K + 1}])
def test_a_lens_other_than_its_group_says_is_refused(facts: dict[str, Any], tmp_path: Path) -> None:
    signals = {"lens": {"layers": list(LENS_LAYERS), "k": K, **facts}}
    with pytest.raises(RowError, match="the group says"):
        prepare({"lens": [_changed()]}, [], Storage(), signals)


def test_a_lens_in_another_codec_than_its_group_says_is_refused(tmp_path: Path) -> None:
    info = full_tape.makers("compact")["acoustic"]
    with pytest.raises(TapeError, match=r"lens\.codec|topk\.codec"):
        TapeWriter(tmp_path, info, storage=Storage(topk="hot"))
    lens_only = replace(info, signals={"lens": info.signals["lens"]})
    with TapeWriter(tmp_path / "tape", lens_only) as writer:
        writer.add({"lens": [_changed()]})
    (shard,) = open_tape(tmp_path / "tape").shards["acoustic"]
    assert list(shard.record.rows) == ["lens_compact"]


def test_a_lens_that_contradicts_its_trace_is_told(tmp_path: Path) -> None:
    root = full_tape.make(tmp_path / "tape")
    edit_table(root, TEXTUAL, "lens", lambda rows: rows[1].update(target_ids=[7, 8]))
    edit_table(root, TEXTUAL, "lens", lambda rows: rows.pop())
    found = {(p.location, p.kind, p.message) for p in validate(root, uncounted, deep=True).problems}
    assert (
        "textual/lens",
        "tokens",
        "sample 's1', trace 0: other token ids than textual/trace",
    ) in found
    assert (
        "textual/lens",
        "no row",
        "sample 's3', trace 0: has a row in textual/trace only",
    ) in found
