"""Top-k distributions in 2.3 bytes an entry at k = 64: ids exact, log-probs on a fine grid.

Shapes: T tokens of one trace, k kept ids, n = T * k entries in row order (token by token, most
probable first). Byte layout of one trace's blob, all integers little-endian::

    u8 version = 1    u8 num_hot (0..240)    u16 k    u32 T
    u16 root_steps (1..4094)    u16 linear_step (1..4096)
    then six sections, in the order below, and nothing after them

    section    bytes                holds
    symbols    n                    s < num_hot: the s-th hot id; s >= 240: a cold id whose bits
                                    16..19 are s - 240; nothing in between is used
    nibbles    ceil(n / 2)          min(delta, 15) of entry 2i in the high four bits of byte i, of
                                    entry 2i + 1 in the low four; 0 past the end
    cold_low   cold                 bits 0..7 of the cold ids, in entry order
    cold_mid   cold                 bits 8..15
    low        num_hot + big + T    bits 0..7 of the hot ids, ascending; low bytes of delta - 15, in
                                    entry order; low bytes of the tails' levels
    high       2 num_hot + big + T  bits 16..19 of the hot ids; their bits 8..15; the high bytes of
                                    delta - 15; those of the tails' levels

"cold" is the number of symbols >= 240, "big" the number of nibbles 15 among the n. A section is a
u32 count of stored bytes and those bytes: raw if the count is the size above, one Zstandard frame
of exactly that size if it is less.

Levels: an entry's level is the sum of its row's deltas up to and including its own, 0..4095. With
N = root_steps, step = linear_step / 4096 nat and c = max(0, N - floor(8192 / linear_step)), level j
stands for the log-probability ::

    G(j) = 2 ln(1 - j / N)           0 <= j <= c       a uniform grid of sqrt(p)
    G(j) = G(c) - (j - c) * step     c <  j <= 4094
    G(4095) = -inf                                     probability exactly zero

The decoder normalises: with Z = the row's sum of exp(G(level)) + exp(G(tail's level)), log-probs
are G(level) - ln Z and the tail is exp(G(tail's level)) / Z: the k + 1 buckets sum to 1.

Why so: KL weighs an error e by p e^2 / 2, hence a step that grows as 1 / sqrt(p), up to a bound
that keeps every log-prob within 0.05. Integer levels keep deltas exact, so nothing drifts.

Bytes a token at k = 64, Zipf ids over 151,936 in random order, of what was tried:

- ids as byte planes 141.5, with hot ids of the trace 119 (taken), as frequency ranks of the shard
  106 and some 5 of table, with 8,400 hot ids of the shard 107: 8 % less in all, but then no blob
  decodes alone, survives a merge, or is written before its shard is complete.
- log-probs as a byte a delta 24.4, as nibbles 21 (taken: a Huffman code cannot go below 1 bit).
- zstd level 13 is 1.5 % smaller than 1 and decodes faster, 3 to 12 are larger. A frame takes 11 us
  to open: hence few sections, raw unless zstd saves 3 %.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache_schema.codecs.sections import Sections, join, pack
from cache_schema.errors import TapeError
from cache_schema.signals import MAX_VOCABULARY

VERSION = 1
MAX_ID = MAX_VOCABULARY - 1
MAX_K = 0xFFFF
"""The header has two bytes for k."""

ROOT_STEPS = 512
LINEAR_STEP = 256
"""Default grid: sqrt(p) in 1/512, then 1/16 nat; KL 1.3e-5 nats mean, 6e-5 on the worst token."""

_HEADER = struct.Struct("<BBHIHH")
_ZERO_LEVEL = 4095
_PAGES = 240
_ESCAPE = 15
_HOT_COUNT = 4
_CHUNK_ENTRIES = 12 << 10  # temporaries of less than 128 KiB: in L2, and malloc keeps them
_NIBBLES: NDArray[np.uint16] = np.array(
    [[byte >> 4, byte & 15] for byte in range(256)], dtype=np.uint8
).view(np.uint16)[:, 0]


@lru_cache(maxsize=16)
def grid(root_steps: int, linear_step: int) -> NDArray[np.float32]:
    """Return the log-probability of every level, float32 [4096], or raise ``TapeError``."""
    if not (1 <= root_steps <= _ZERO_LEVEL - 1 and 1 <= linear_step <= 4096):
        raise TapeError(
            f"grid of root_steps {root_steps}, linear_step {linear_step}; expected 1..4094, 1..4096"
        )
    turn = max(0, root_steps - 8192 // linear_step)
    level = np.arange(_ZERO_LEVEL + 1, dtype=np.float64)
    logprob = 2 * np.log1p(-np.minimum(level, turn) / root_steps)
    logprob -= np.maximum(level - turn, 0) * (linear_step / 4096)
    logprob[_ZERO_LEVEL] = -np.inf
    return logprob.astype(np.float32)


def encode(
    token_ids: ArrayLike,
    logprobs: ArrayLike,
    tail: ArrayLike,
    root_steps: int = ROOT_STEPS,
    linear_step: int = LINEAR_STEP,
) -> bytes:
    """Return the blob of one trace, in the layout of this module.

    Args:
        token_ids: integer [T, k], 0..2^20 - 1, most probable first; k is 1..65,535.
        logprobs: float32 [T, k], natural log at T = 1, not ascending; ``-inf`` where p is zero.
        tail: float32 [T], probability outside the k, 0..1; rounding noise below 0 counts as 0.
        root_steps: levels of sqrt(p) between 0 and 1.
        linear_step: the largest step, in 1/4096 nat.

    Raises:
        TapeError: shapes differ, an id is out of range, a row ascends, holds NaN, or does not sum
            to 1 within 0.05.
    """
    ids_TK, logprobs_TK, tail_T = _checked(token_ids, logprobs, tail)
    levels_TK, tail_levels_T = _levels(logprobs_TK, tail_T, grid(root_steps, linear_step))
    num_tokens, k = ids_TK.shape
    flat = ids_TK.reshape(-1)
    known, counts = np.unique(flat, return_counts=True)
    often = np.argsort(-counts, kind="stable")[:_PAGES]
    hot = known[np.sort(often[counts[often] >= _HOT_COUNT])]
    at = np.searchsorted(hot, flat)
    symbols = np.where(np.append(hot, -1)[at] == flat, at, _PAGES + (flat >> 16))
    cold = flat[symbols >= _PAGES]
    deltas = np.diff(levels_TK, axis=1, prepend=0).reshape(-1)
    big = deltas[deltas >= _ESCAPE] - _ESCAPE
    nibbles = np.zeros(deltas.size + deltas.size % 2, dtype=np.int64)
    nibbles[: deltas.size] = np.minimum(deltas, _ESCAPE)
    small = np.concatenate([hot & 0xFFFF, big, tail_levels_T])
    planes = [symbols, (nibbles[::2] << 4) | nibbles[1::2], cold & 255, (cold >> 8) & 255]
    planes += [small & 255, np.concatenate([hot >> 16, small >> 8])]
    header = _HEADER.pack(VERSION, hot.size, k, num_tokens, root_steps, linear_step)
    return header + b"".join(pack(plane) for plane in planes)


def _checked(
    token_ids: ArrayLike, logprobs: ArrayLike, tail: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    ids_TK = np.asarray(token_ids, dtype=np.int64)
    logprobs_TK = np.asarray(logprobs, dtype=np.float64)
    tail_T = np.asarray(tail, dtype=np.float64)
    if ids_TK.ndim != 2 or ids_TK.shape != logprobs_TK.shape or tail_T.shape != ids_TK.shape[:1]:
        shapes = f"{ids_TK.shape}, {logprobs_TK.shape}, {tail_T.shape}"
        raise TapeError(f"top-k of shapes {shapes}; expected [T, k], [T, k], [T]")
    if not 1 <= ids_TK.shape[1] <= MAX_K:
        raise TapeError(f"k is {ids_TK.shape[1]}; expected 1..{MAX_K}")
    if ids_TK.size and not (ids_TK.min() >= 0 and ids_TK.max() <= MAX_ID):
        raise TapeError(f"token ids {ids_TK.min()}..{ids_TK.max()}; expected 0..{MAX_ID}")
    if not (logprobs_TK[:, 1:] <= logprobs_TK[:, :-1]).all():
        raise TapeError("log-probs ascend within a row or are NaN; expected most probable first")
    with np.errstate(over="ignore"):
        total_T = np.exp(logprobs_TK).sum(axis=1) + tail_T
    if not ((np.abs(total_T - 1) <= 0.05).all() and tail_T.min(initial=0) >= -0.05):
        raise TapeError("a row's probabilities and tail do not sum to 1 within 0.05; T = 1?")
    return ids_TK, logprobs_TK, tail_T


def _levels(
    logprobs_TK: NDArray[np.float64], tail_T: NDArray[np.float64], levels: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the nearest levels; only an exact zero takes the level of zero probability."""
    middles = (levels[1:-1].astype(np.float64) + levels[:-2]) / 2

    def nearest(values: NDArray[np.float64]) -> NDArray[np.int64]:
        found = np.searchsorted(-middles, -values).astype(np.int64)
        return np.where(np.isneginf(values), _ZERO_LEVEL, found)

    with np.errstate(divide="ignore"):
        return nearest(logprobs_TK), nearest(np.log(np.maximum(tail_T, 0)))


def decode(
    blob: bytes | memoryview, num_tokens: int, k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Return token ids int32 [T, k], log-probs float32 [T, k] and tail float32 [T] of a blob.

    Ids and their order are exact; log-probs do not ascend within a row; exp(log-probs) and the tail
    sum to 1 within 1e-5. The blob is untrusted; memory stays within about 20 bytes an entry.

    Raises:
        TapeError: the blob is not of this version, T and k, or is damaged in a way that shows.
    """
    num_hot, levels = _header(blob, num_tokens, k)
    sections = Sections(blob, _HEADER.size)
    size = num_tokens * k
    symbols = sections.take(size, "symbols")
    deltas = _NIBBLES[sections.take((size + 1) // 2, "nibbles")].view(np.uint8)[:size]
    is_cold, is_big = symbols >= _PAGES, deltas == _ESCAPE
    num_cold, num_big = int(np.count_nonzero(is_cold)), int(np.count_nonzero(is_big))
    cold = join([sections.take(num_cold, "cold ids") for _ in range(2)])
    low = sections.take(num_hot + num_big + num_tokens, "low bytes")
    high = sections.take(2 * num_hot + num_big + num_tokens, "high bytes")
    sections.end()
    words = join([low, high[num_hot:]])
    big, tails = words[num_hot : num_hot + num_big], words[num_hot + num_big :]
    base = np.full(256, -1, dtype=np.int32)
    base[:num_hot] = words[:num_hot] + (high[:num_hot].astype(np.int32) << 16)
    base[_PAGES:] = np.arange(16) << 16
    if words[num_hot:].max(initial=0) > _ZERO_LEVEL or base.max() > MAX_ID:
        raise TapeError("a hot id, a log-prob or a tail is out of range; damaged blob")
    ids_TK = np.empty((num_tokens, k), dtype=np.int32)
    logprobs_TK = np.empty((num_tokens, k), dtype=np.float32)
    tail_T = levels[tails]
    cold_at, big_at, step = 0, 0, max(1, _CHUNK_ENTRIES // k)
    for row in range(0, num_tokens, step):
        rows, part = slice(row, row + step), slice(row * k, (row + step) * k)
        ids = np.take(base, symbols[part], out=ids_TK[rows].reshape(-1), mode="clip")
        cold_at += _add(ids, is_cold[part], cold[cold_at:])
        delta = deltas[part].astype(np.intp)
        big_at += _add(delta, is_big[part], big[big_at:])
        _fill(delta.reshape(-1, k), levels, logprobs_TK[rows], tail_T[rows])
    if ids_TK.min(initial=0) < 0:
        raise TapeError("a symbol is neither a hot id nor a page; damaged blob")
    return ids_TK, logprobs_TK, tail_T


def _header(blob: bytes | memoryview, num_tokens: int, k: int) -> tuple[int, NDArray[np.float32]]:
    if len(blob) < _HEADER.size:
        raise TapeError(f"blob of {len(blob)} bytes has no header; copy the shard again")
    version, num_hot, *shape, root_steps, linear_step = _HEADER.unpack_from(blob)
    if version != VERSION:
        raise TapeError(f"top-k blob of version {version}, expected {VERSION}; update teachertape")
    if shape != [k, num_tokens]:
        raise TapeError(f"blob of k, T = {shape}, expected {[k, num_tokens]}; damaged shard")
    if num_hot > _PAGES:
        raise TapeError(f"{num_hot} hot ids; expected at most {_PAGES}; damaged blob")
    return num_hot, grid(root_steps, linear_step)


def _add(values: NDArray[Any], where: NDArray[np.bool_], extra: NDArray[np.uint16]) -> int:
    """Add ``extra`` to the values marked by ``where``, in place; return how many there were."""
    at = np.flatnonzero(where)
    np.add.at(values, at, extra[: at.size].astype(values.dtype))  # 0.8 ns an entry; += takes 1.4
    return int(at.size)


def _fill(
    delta_TK: NDArray[np.intp],
    levels: NDArray[np.float32],
    logprobs_TK: NDArray[np.float32],
    tail_T: NDArray[np.float32],
) -> None:
    """Turn deltas into normalised log-probs, and the tail's log-probs into probabilities."""
    level_TK = np.cumsum(delta_TK, axis=1, out=delta_TK)
    if level_TK[:, -1].max(initial=0) > _ZERO_LEVEL:
        raise TapeError("a log-prob is out of range; damaged blob")
    np.take(levels, level_TK, out=logprobs_TK, mode="clip")
    tail_T[:] = np.exp(tail_T)
    total_T = np.einsum("tk->t", np.exp(logprobs_TK)) + tail_T  # twice as fast as sum
    if not total_T.all():
        raise TapeError("a row holds no probability; damaged blob")
    logprobs_TK -= np.log(total_T)[:, None]
    tail_T /= total_T
