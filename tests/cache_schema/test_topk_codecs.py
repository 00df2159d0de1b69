"""Compact top-k and sampled blobs: ids exact, log-probs within bounds, damage always named."""

from __future__ import annotations

import math
import struct
import tracemalloc
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema.codecs import sampled, topk_compact
from cache_schema.errors import TapeError

MAX_ID = (1 << 20) - 1
EDGE_IDS = [0, 255, 256, 65535, 65536, 131071, 131072, 131073, 151935, 262143, 262144, MAX_ID]

TopK = tuple[np.ndarray, np.ndarray, np.ndarray]
Sampled = tuple[np.ndarray, np.ndarray, np.ndarray, int]


# ---- oracles: the layouts of the two modules read aloud, a value at a time


def read_section(blob: bytes, at: int, size: int) -> tuple[bytes, int]:
    (stored,) = struct.unpack_from("<I", blob, at)
    data = blob[at + 4 : at + 4 + stored]
    if stored < size:
        data = pa.decompress(data, decompressed_size=size, codec="zstd", asbytes=True)
    assert len(data) == size
    return data, at + 4 + stored


def plain_topk(blob: bytes) -> tuple[list[list[int]], list[list[float]], list[float]]:
    """Decode a compact top-k blob slowly; returns ids, log-probs and tails, row by row."""
    version, num_hot, k, num_tokens, root_steps, linear_step = struct.unpack_from("<BBHIHH", blob)
    assert version == 1
    n = num_tokens * k
    symbols, at = read_section(blob, 12, n)
    packed, at = read_section(blob, at, (n + 1) // 2)
    nibbles = [packed[i // 2] >> 4 if i % 2 == 0 else packed[i // 2] & 15 for i in range(n)]
    num_cold, num_big = sum(s >= 240 for s in symbols), nibbles.count(15)
    cold_low, at = read_section(blob, at, num_cold)
    cold_mid, at = read_section(blob, at, num_cold)
    low, at = read_section(blob, at, num_hot + num_big + num_tokens)
    high, at = read_section(blob, at, 2 * num_hot + num_big + num_tokens)
    assert at == len(blob)

    top, high = high[:num_hot], high[num_hot:]
    words = [a + 256 * b for a, b in zip(low, high, strict=True)]
    hot = [word + 65536 * t for word, t in zip(words, top, strict=False)]
    big = iter(words[num_hot : num_hot + num_big])
    tail_levels = words[num_hot + num_big :]
    cold = iter([a + 256 * b for a, b in zip(cold_low, cold_mid, strict=True)])

    turn = max(0, root_steps - 8192 // linear_step)

    def logprob(level: int) -> float:
        if level == 4095:
            return -math.inf
        value = 2 * math.log(1 - min(level, turn) / root_steps)
        return value - max(0, level - turn) * linear_step / 4096

    ids, logprobs, tails = [], [], []
    for t in range(num_tokens):
        ids_K, logprobs_K, level = [], [], 0
        for i in range(t * k, (t + 1) * k):
            ids_K.append(hot[symbols[i]] if symbols[i] < 240 else (symbols[i] - 240) * 65536)
            ids_K[-1] += next(cold) if symbols[i] >= 240 else 0
            level += nibbles[i] + (next(big) if nibbles[i] == 15 else 0)
            logprobs_K.append(logprob(level))
        tail = math.exp(logprob(tail_levels[t]))
        total = math.fsum(map(math.exp, logprobs_K)) + tail
        ids.append(ids_K)
        logprobs.append([value - math.log(total) for value in logprobs_K])
        tails.append(tail / total)
    return ids, logprobs, tails


def plain_sampled(blob: bytes) -> list[dict[int, int]]:
    """Decode a sampled blob slowly; returns id -> count for each token."""
    version, zero, num_draws, num_tokens = struct.unpack_from("<BBHI", blob)
    assert (version, zero) == (1, 0)
    low, at = read_section(blob, 8, num_tokens)
    high, at = read_section(blob, at, num_tokens)
    unique = [a + 256 * b for a, b in zip(low, high, strict=True)]
    symbols, at = read_section(blob, at, sum(unique))
    id_low, at = read_section(blob, at, sum(unique))
    id_mid, at = read_section(blob, at, sum(unique))
    num_big = sum(symbol & 15 == 15 for symbol in symbols)
    big_low, at = read_section(blob, at, num_big)
    big_high, at = read_section(blob, at, num_big)
    assert at == len(blob)
    big = iter([15 + a + 256 * b for a, b in zip(big_low, big_high, strict=True)])
    rows, entry = [], 0
    for number in unique:
        row, page, rest = {}, 0, None
        for i in range(entry, entry + number):
            page += symbols[i] >> 4
            token_id = page * 65536 + id_mid[i] * 256 + id_low[i]
            code = symbols[i] & 15
            row[token_id] = next(big) if code == 15 else code
            rest = token_id if code == 0 else rest
        assert rest is not None
        row[rest] = num_draws - sum(row.values())
        rows.append(row)
        entry += number
    return rows


# ---- values


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


def rewrite(blob: bytes, at: int, new: bytes) -> bytes:
    return blob[:at] + new + blob[at + len(new) :]


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


def section(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


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


DAMAGE = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), max_size=3)


def damage(blob: bytes, flips: list[tuple[int, int]], cut: int | None) -> bytes:
    changed = bytearray(blob)
    for at, mask in flips:
        changed[at % len(blob)] ^= mask
    return bytes(changed if cut is None else changed[: cut % len(blob)])


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


# ---- sampled


def make_sampled(seed: int, num_tokens: int, num_draws: int, vocabulary: int) -> Sampled:
    rng = np.random.default_rng(seed)
    ids, counts, offsets = [], [], [0]
    for _ in range(num_tokens):
        weights = np.arange(1, 60) ** -float(rng.uniform(0, 4))
        drawn = rng.choice(59, size=num_draws, p=weights / weights.sum())
        unique, count = np.unique(drawn, return_counts=True)
        ids.append(rng.choice(vocabulary, size=unique.size, replace=False))
        counts.append(count)
        offsets.append(offsets[-1] + unique.size)
    empty = [np.empty(0, dtype=np.int64)]
    return (
        np.concatenate(ids + empty),
        np.concatenate(counts + empty),
        np.array(offsets),
        num_draws,
    )


def check_sampled(source: Sampled) -> None:
    ids, counts, offsets, num_draws = source
    num_tokens = len(offsets) - 1
    blob = sampled.encode(ids, counts, offsets, num_draws)
    got_ids, got_counts, got_offsets = sampled.decode(blob, num_tokens, num_draws)
    assert (got_ids.dtype, got_counts.dtype, got_offsets.dtype) == (np.int32, np.int32, np.int64)
    np.testing.assert_array_equal(got_offsets, offsets)
    slow = plain_sampled(blob)
    for t, (begin, end) in enumerate(pairwise(offsets)):
        wanted = dict(zip(ids[begin:end].tolist(), counts[begin:end].tolist(), strict=True))
        got = dict(zip(got_ids[begin:end].tolist(), got_counts[begin:end].tolist(), strict=True))
        assert got == wanted == slow[t]
        assert list(got) == sorted(got)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_tokens=st.integers(0, 30),
    num_draws=st.sampled_from([1, 2, 50, 255, 256, 3000]),
    vocabulary=st.sampled_from([59, 65_537, 151_936, 1 << 20]),
)
def test_sampled_round_trip(seed: int, num_tokens: int, num_draws: int, vocabulary: int) -> None:
    check_sampled(make_sampled(seed, num_tokens, num_draws, vocabulary))


def test_sampled_ids_at_the_edges_are_exact() -> None:
    counts = np.arange(len(EDGE_IDS)) * 900 + 1
    check_sampled(
        (np.array(EDGE_IDS[::-1]), counts, np.array([0, len(EDGE_IDS)]), int(counts.sum()))
    )


GOOD_SAMPLED = ([3, 1, 2], [2, 1, 3], [0, 2, 3], 3)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({0: [3, 1]}, "shapes"),
        ({2: []}, "shapes"),
        ({2: [0, 3, 3]}, "offsets"),
        ({2: [0, 2]}, "offsets"),
        ({2: [1, 2, 3]}, "offsets"),
        ({0: [3, 1, MAX_ID + 1]}, "token ids"),
        ({0: [3, -1, 2]}, "token ids"),
        ({0: [1, 1, 2]}, "repeats"),
        ({1: [3, 0, 3]}, "counts"),
        ({1: [1, 1, 3]}, "counts"),
        ({3: 0}, "draws"),
        ({3: 65536}, "draws"),
    ],
)
def test_sampled_refuses_what_is_no_sample(changed: dict[int, object], words: str) -> None:
    check_sampled(tuple(np.array(v) if isinstance(v, list) else v for v in GOOD_SAMPLED))
    values = [changed.get(i, value) for i, value in enumerate(GOOD_SAMPLED)]
    with pytest.raises(TapeError, match=words):
        sampled.encode(*values)


def sampled_blob(unique: int, symbols: list[int], ids: list[int]) -> bytes:
    """Return a blob of one token, 20 draws, without big counts."""
    planes = [[unique], [0], symbols, [i & 255 for i in ids], [i >> 8 for i in ids], [], []]
    return struct.pack("<BBHI", 1, 0, 20, 1) + b"".join(section(bytes(p)) for p in planes)


def test_sampled_names_damage() -> None:
    good = sampled_blob(2, [0x00, 0x13], [5, 4])
    ids, counts, _ = sampled.decode(good, 1, 20)
    assert (ids.tolist(), counts.tolist()) == ([5, 65540], [17, 3])
    for words, blob in {
        "no header": b"",
        "version 2": rewrite(good, 0, b"\x02"),
        "version 1": rewrite(good, 1, b"\x02"),
        "damaged shard": rewrite(good, 2, b"\x15"),
        "unique ids; damaged": sampled_blob(0, [], []),
        "more than 20 unique": sampled_blob(21, [0] * 21, [0] * 21),
        "id is above": sampled_blob(2, [0xF0, 0x13], [5, 4]),
        "do not ascend": sampled_blob(2, [0x00, 0x03], [5, 5]),
        "not one remaining": sampled_blob(2, [0x00, 0x10], [5, 4]),
        "remaining count": sampled_blob(2, [0x02, 0x12], [5, 4]),
        "add up to more": sampled_blob(3, [0x00, 0x1E, 0x16], [5, 4, 3]),
        "cut off": good[:-4],
        "expected; damaged": good + b"\0",
    }.items():
        with pytest.raises(TapeError, match=words):
            sampled.decode(blob, 1, 20)


SAMPLED_BLOBS = [
    sampled.encode(*make_sampled(seed, 20, 50, vocabulary))
    for seed, vocabulary in enumerate([60, 4000, 1 << 20])
] + [sampled.encode(*make_sampled(5, 150, 50, 60))]


@settings(deadline=None, max_examples=400)
@given(which=st.integers(0, 3), flips=DAMAGE, cut=st.none() | st.integers(0, 1 << 20))
def test_sampled_damage_never_escapes(
    which: int, flips: list[tuple[int, int]], cut: int | None
) -> None:
    num_tokens = 150 if which == 3 else 20
    try:
        ids, counts, offsets = sampled.decode(
            damage(SAMPLED_BLOBS[which], flips, cut), num_tokens, 50
        )
    except TapeError:
        return
    assert ids.shape == counts.shape == (offsets[-1],)
    assert ids.min() >= 0
    assert ids.max() <= MAX_ID
    assert counts.min() >= 1
    assert (np.add.reduceat(counts, offsets[:-1]) == 50).all()
