"""Compact top-k blobs: ids exact, log-probs within bounds, damage always named."""

from __future__ import annotations

import math
import struct
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from blob_oracles import DAMAGE, EDGE_IDS, MAX_ID, damage, plain_topk, rewrite, section
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema.codecs import topk_compact
from cache_schema.errors import TapeError

TopK = tuple[np.ndarray, np.ndarray, np.ndarray]


def make_topk(seed: int, num_tokens: int, k: int, vocabulary: int, sharpness: float) -> TopK:
    """Return ids, log-probs and tail of random distributions over ``vocabulary`` >= k ids."""
    rng = np.random.default_rng(seed)
    width = min(vocabulary, k + 40)
    logits = rng.normal(size=(num_tokens, width)) * sharpness
    logits[rng.random(logits.shape) < 0.05] = -np.inf
    logits[:, 0] = np.maximum(logits[:, 0], 0)
    logits = -np.sort(-logits, axis=1)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    pool = rng.choice(vocabulary, size=min(vocabulary, k + 500), replace=False)
    ids = np.empty((num_tokens, k), dtype=np.int64)
    for row in ids:
        row[:] = rng.choice(pool, size=k, replace=False)
    tail = np.exp(logprobs[:, k:]).sum(axis=1)
    return ids, logprobs[:, :k].astype(np.float32), tail.astype(np.float32)


def kl_nats(source: TopK, logprobs: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """Return KL(source || decoded) over the k + 1 buckets, nats, float64 [T]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.concatenate([source[1], np.log(source[2])[:, None]], axis=1).astype(np.float64)
        q = np.concatenate([logprobs, np.log(tail)[:, None]], axis=1).astype(np.float64)
        p -= np.log(np.exp(p).sum(axis=1, keepdims=True))
        return np.where(np.isneginf(p), 0, np.exp(p) * (p - q)).sum(axis=1)


def check_topk(source: TopK) -> None:
    num_tokens, k = source[0].shape
    blob = topk_compact.encode(*source)
    ids, logprobs, tail = topk_compact.decode(blob, num_tokens, k)
    assert (ids.dtype, logprobs.dtype, tail.dtype) == (np.int32, np.float32, np.float32)
    np.testing.assert_array_equal(ids, source[0])
    # KL is at most sum p e^2 / 2 with |e| half a step: 1 / 16 nat, or 2 / 512 / sqrt(p).
    assert kl_nats(source, logprobs, tail).max(initial=0) < 1.1 * (1 / 16**2 + (k + 1) / 256**2) / 8
    np.testing.assert_allclose(np.exp(logprobs).sum(axis=1) + tail, 1, atol=1e-5)
    assert (logprobs[:, 1:] <= logprobs[:, :-1]).all()
    np.testing.assert_array_equal(np.isneginf(logprobs), np.isneginf(source[1]))
    np.testing.assert_array_equal(tail == 0, source[2] == 0)
    seen = source[1] > -200
    assert np.abs(logprobs[seen] - source[1][seen]).max(initial=0) < 0.05
    slow_ids, slow_logprobs, slow_tail = plain_topk(blob)
    np.testing.assert_array_equal(ids, np.reshape(slow_ids, ids.shape))
    np.testing.assert_allclose(logprobs, np.reshape(slow_logprobs, ids.shape), atol=1e-4)
    np.testing.assert_allclose(tail, slow_tail, rtol=1e-4, atol=1e-30)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_tokens=st.integers(0, 12),
    k=st.integers(1, 70),
    vocabulary=st.sampled_from([70, 300, 151_936, 1 << 20]),
    sharpness=st.sampled_from([0.0, 0.5, 3.0, 30.0]),
)
def test_topk_round_trip(
    seed: int, num_tokens: int, k: int, vocabulary: int, sharpness: float
) -> None:
    check_topk(make_topk(seed, num_tokens, k, vocabulary, sharpness))


@pytest.mark.parametrize(("num_tokens", "k"), [(0, 1), (1, 1), (3, 1024), (600, 128), (2, 7000)])
def test_topk_of_every_size(num_tokens: int, k: int) -> None:
    check_topk(make_topk(0, num_tokens, k, 1 << 20, 2.0))


@pytest.mark.parametrize("repeats", [1, 9])
def test_topk_ids_at_the_edges_are_exact(repeats: int) -> None:
    """Once each they are cold ids, nine times each hot ones."""
    ids = np.tile(EDGE_IDS, (repeats, 1))
    logprobs = np.full(ids.shape, math.log(1 / 16), dtype=np.float32)
    check_topk((ids, logprobs, np.full(repeats, 0.25, dtype=np.float32)))


@pytest.mark.parametrize(
    ("logprobs", "tail"),
    [
        ([0.0, -np.inf], 0.0),
        ([-np.inf, -np.inf], 1.0),
        ([-1e-7, -16.0], 0.0),
        ([-20.0, -20.0], 1.0),
        ([-103.0, -104.0], 1.0),
        ([0.0, -199.0], 1e-38),
        ([-0.6931472, -0.6931472], 0.0),
        ([-0.001, -8.0], 6.6e-4),
    ],
)
def test_topk_of_extreme_rows(logprobs: list[float], tail: float) -> None:
    check_topk((np.array([[5, 3]]), np.array([logprobs], np.float32), np.array([tail], np.float32)))


def test_topk_counts_rounding_noise_as_an_empty_tail() -> None:
    blob = topk_compact.encode([[1]], [[1e-7]], [-1e-7])
    _, logprobs, tail = topk_compact.decode(blob, 1, 1)
    assert (logprobs[0, 0], tail[0]) == (0.0, 0.0)


def test_topk_mean_kl_and_size_hold_the_bars() -> None:
    source = make_topk(1, 300, 64, 151_936, 2.0)
    blob = topk_compact.encode(*source)
    _, logprobs, tail = topk_compact.decode(blob, 300, 64)
    assert kl_nats(source, logprobs, tail).mean() < 1e-4
    assert (len(blob) + 8 + 4 * 300) / (300 * 64) < 2.6


@pytest.mark.parametrize(
    ("root_steps", "linear_step"), [(1, 1), (4094, 1), (4094, 4096), (64, 512)]
)
def test_topk_grids_descend(root_steps: int, linear_step: int) -> None:
    levels = topk_compact.grid(root_steps, linear_step)
    assert levels.shape == (4096,)
    assert (np.diff(levels) < 0).all()
    assert levels[0] == 0
    source = make_topk(2, 20, 30, 1000, 3.0)
    ids, _, _ = topk_compact.decode(topk_compact.encode(*source, root_steps, linear_step), 20, 30)
    np.testing.assert_array_equal(ids, source[0])


GOOD_TOPK = ([[1, 2]], [[-1.0, -2.0]], [0.49678])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({0: [[1, 2, 3]]}, "shapes"),
        ({2: [0.1, 0.1]}, "shapes"),
        ({0: np.empty((1, 0)), 1: np.empty((1, 0))}, "k is 0"),
        ({0: [[1, MAX_ID + 1]]}, "token ids"),
        ({0: [[-1, 1]]}, "token ids"),
        ({1: [[-2.0, -1.0]]}, "ascend"),
        ({1: [[-1.0, np.nan]]}, "NaN"),
        ({1: [[np.nan, -1.0]]}, "NaN"),
        ({2: [np.nan]}, "sum to 1"),
        ({1: [[9.0, 8.0]]}, "sum to 1"),
        ({1: [[np.inf, 8.0]]}, "sum to 1"),
        ({1: [[-np.inf, -np.inf]], 2: [0.0]}, "sum to 1"),
        ({1: [[0.09, -2.0]], 2: [-0.2]}, "sum to 1"),
    ],
)
def test_topk_refuses_what_is_no_distribution(changed: dict[int, object], words: str) -> None:
    topk_compact.encode(*GOOD_TOPK)
    values = [changed.get(i, value) for i, value in enumerate(GOOD_TOPK)]
    with pytest.raises(TapeError, match=words):
        topk_compact.encode(*values)


def test_topk_names_damage() -> None:
    source = make_topk(3, 40, 16, 5000, 2.0)
    blob = topk_compact.encode(*source)
    symbols_bytes = struct.unpack_from("<I", blob, 12)[0]
    bad = {
        "no header": b"",
        "version 9": rewrite(blob, 0, b"\x09"),
        "hot ids": rewrite(blob, 1, b"\xff"),
        "root_steps 0": rewrite(blob, 8, b"\0\0"),
        "root_steps 4095": rewrite(blob, 8, b"\xff\x0f"),
        "linear_step 0": rewrite(blob, 10, b"\0\0"),
        "linear_step 4097": rewrite(blob, 10, b"\x01\x10"),
        "bytes stored": rewrite(blob, 12, b"\xff\xff\xff\xff"),
        "cut off": blob[: 16 + symbols_bytes],
        "expected; damaged": blob + b"\0",
        "does not decompress": rewrite(blob, 16, bytes(20)),
    }
    for words, damaged in bad.items():
        with pytest.raises(TapeError, match=words):
            topk_compact.decode(damaged, 40, 16)
    for num_tokens, k in [(39, 16), (40, 15), (16, 40), (1 << 31, 16)]:
        with pytest.raises(TapeError, match="damaged shard"):
            topk_compact.decode(blob, num_tokens, k)


def topk_blob(symbols: bytes, nibbles: bytes, words: list[int], num_hot: int = 0) -> bytes:
    """Return a blob of one token of two entries, without cold ids."""
    header = struct.pack("<BBHIHH", 1, num_hot, 2, 1, 512, 256)
    low, high = bytes(w & 255 for w in words), bytes(w >> 8 & 255 for w in words)
    high = bytes(w >> 16 for w in words[:num_hot]) + high
    return header + b"".join(map(section, [symbols, nibbles, b"", b"", low, high]))


def test_topk_names_values_out_of_range() -> None:
    hot = [7, 9]
    ids, _, _ = topk_compact.decode(topk_blob(b"\0\1", b"\x11", [*hot, 0], 2), 1, 2)
    assert ids.tolist() == [[7, 9]]
    for words, blob in {
        "neither": topk_blob(b"\0\2", b"\x11", [*hot, 0], 2),
        "hot id": topk_blob(b"\0\1", b"\x11", [7, MAX_ID + 1, 0], 2),
        "or a tail": topk_blob(b"\0\1", b"\x11", [*hot, 4096], 2),
        "log-prob is out": topk_blob(b"\0\1", b"\x1f", [*hot, 4080, 0], 2),
        "no probability": topk_blob(b"\0\1", b"\xf0", [*hot, 4080, 4095], 2),
    }.items():
        with pytest.raises(TapeError, match=words):
            topk_compact.decode(blob, 1, 2)


def test_a_bomb_is_not_unpacked() -> None:
    """A frame of 256 MiB where 640 bytes belong: refused within a fraction of that memory."""
    bomb = pa.compress(bytes(1 << 28), codec="zstd", asbytes=True)[:600]
    whole = pa.compress(bytes(1 << 22), codec="zstd", asbytes=True)
    for frame in (bomb, whole):
        assert len(frame) < 640
        header = struct.pack("<BBHIHH", 1, 0, 16, 40, 512, 256)
        tracemalloc.start()
        before = pa.total_allocated_bytes()
        with pytest.raises(TapeError, match="does not decompress to 640 bytes"):
            topk_compact.decode(header + section(frame), 40, 16)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20
        assert pa.total_allocated_bytes() == before


TOPK_BLOBS = [
    topk_compact.encode(*make_topk(seed, 12, 9, vocabulary, 4.0))
    for seed, vocabulary in enumerate([60, 4000, 1 << 20])
] + [topk_compact.encode(*make_topk(9, 200, 9, 40, 4.0))]


@settings(deadline=None, max_examples=400)
@given(
    which=st.integers(0, 3),
    flips=DAMAGE,
    cut=st.none() | st.integers(0, 1 << 20),
)
def test_topk_damage_never_escapes(
    which: int, flips: list[tuple[int, int]], cut: int | None
) -> None:
    num_tokens = 200 if which == 3 else 12
    try:
        ids, logprobs, tail = topk_compact.decode(
            damage(TOPK_BLOBS[which], flips, cut), num_tokens, 9
        )
    except TapeError:
        return
    assert ids.shape == logprobs.shape == (num_tokens, 9)
    assert ids.min() >= 0
    assert ids.max() <= MAX_ID
    np.testing.assert_allclose(np.exp(logprobs).sum(axis=1) + tail, 1, atol=1e-5)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200), st.integers(0, 4), st.integers(1, 4))
def test_topk_of_any_bytes(junk: bytes, num_tokens: int, k: int) -> None:
    header = struct.pack("<BBHIHH", 1, 0, k, num_tokens, 512, 256)
    for blob in (junk, header + junk):
        try:
            topk_compact.decode(blob, num_tokens, k)
        except TapeError:
            continue
