"""Compact blobs of drawn tokens: ids and counts exact, damage always named."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
from blob_oracles import DAMAGE, EDGE_IDS, MAX_ID, damage, plain_sampled, rewrite, section
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema.codecs import sampled
from cache_schema.errors import TapeError

Sampled = tuple[np.ndarray, np.ndarray, np.ndarray, int]


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
