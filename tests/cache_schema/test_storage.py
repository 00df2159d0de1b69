"""Every way to store a signal gives it back: exactly, or within what the manifest says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache_schema import open_tape
from cache_schema.errors import TapeError
from cache_schema.maker import (
    GroupInfo,
)
from cache_schema.rows import hidden_row, sample_rows, sampled_row, topk_row
from cache_schema.shard import Storage
from cache_schema.signals import MAX_ENTRIES, STATES_PROFILES, TOPK_CODECS
from cache_schema.types import Sample, Sampled, TopK
from cache_schema.writer import TapeWriter

WIDTH, K, DRAWS = 64, 16, 20
SAMPLES = GroupInfo(group="samples", kind="samples")
TEXTUAL = GroupInfo(
    group="textual",
    kind="textual",
    signals={"topk": {"k": K}, "sampled": {"num_draws": DRAWS}, "hidden": {"layers": [0, 7]}},
)


def topk_of(index: int) -> TopK:
    rng = np.random.default_rng(index)
    tokens = 3 * index
    probabilities = -np.sort(
        -rng.dirichlet(np.full(2 * K, 0.3), tokens).reshape(tokens, 2 * K), axis=1
    )
    return TopK(
        target_ids=rng.integers(0, 1 << 20, tokens),
        token_ids=rng.permuted(np.tile(np.arange(K) * 65_000 + 9, (tokens, 1)), axis=1),
        logprobs=np.log(np.maximum(probabilities[:, :K], 1e-30)).astype(np.float32),
        tail=probabilities[:, K:].sum(axis=1).astype(np.float32),
    )


def drawn_of(index: int) -> Sampled:
    rng = np.random.default_rng(index)
    draws = [rng.integers(0, 30, DRAWS) * 30_000 for _ in range(3 * index)]
    unique = [np.unique(one, return_counts=True) for one in draws]
    empty = np.empty(0, np.int64)
    return Sampled(
        target_ids=topk_of(index).target_ids,
        token_ids=np.concatenate([empty, *(ids for ids, _ in unique)]),
        counts=np.concatenate([empty, *(counts for _, counts in unique)]),
        offsets=np.cumsum([0, *(len(ids) for ids, _ in unique)]),
        num_draws=DRAWS,
    )


def states_of(index: int) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(index)
    outlying = np.where(np.arange(WIDTH) % 16 == 0, 50.0, 1.0)
    shape = (3 * index, WIDTH)
    return {
        layer: (layer + rng.normal(0, 1, shape) * outlying).astype(np.float32) for layer in (0, 7)
    }


def make_tape(root: Path, storage: Storage, count: int = 9) -> Path:
    with TapeWriter(root, SAMPLES) as writer:
        for index in range(count):
            audio = np.zeros(100, np.float32)
            sample = Sample(sample_id=f"s{index}", row_index=index, audio=audio, question="?")
            writer.add(sample_rows(sample, "hash", 100))
    with TapeWriter(root, TEXTUAL, storage=storage, shard_samples=4) as writer:
        for index in range(count):
            topk = topk_of(index)
            writer.add(
                {
                    "topk": [topk_row(f"s{index}", 0, topk)],
                    "sampled": [sampled_row(f"s{index}", 0, drawn_of(index))],
                },
                [
                    (
                        hidden_row(f"s{index}", 0, "token", (0, 0), topk.target_ids, None),
                        states_of(index),
                    )
                ],
            )
    return root


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
    with TapeWriter(tmp_path / "tape", SAMPLES) as writer:
        sample = Sample(sample_id="s0", row_index=0, audio=None, question="?")
        writer.add(sample_rows(sample, "hash", 100))
    with TapeWriter(tmp_path / "tape", TEXTUAL) as writer:
        writer.add({"topk_compact": [{**packed, "packed": b"\x01"}]})
    with pytest.raises(TapeError, match=r"s0|topk_compact: .* at most"):
        open_tape(tmp_path / "tape")["s0"]["textual/topk"]
