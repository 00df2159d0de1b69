"""Sampled distributions in about 32 bytes a token: ids drawn from p, with their counts, lossless.

n draws with replacement from p at T = 1 leave u unique ids a token, and count / n is an unbiased
estimate of each probability, the tail's included (Anshumann et al. 2025, "Sparse Logit Sampling").

Shapes: T tokens of one trace, M unique ids in all. Byte layout of one trace's blob, integers
little-endian::

    u8 version = 1    u8 zero    u16 n    u32 T
    then seven sections as in ``topk_compact``, in the order below, and nothing after them

    section        bytes                     holds
    unique_low     T                         low byte of the number of unique ids, 1..n
    unique_high    T                         high byte of it
    symbols        M                         high four bits: page delta; low four: count code
    id_low         M                         bits 0..7 of the ids
    id_mid         M                         bits 8..15
    big_low        number of codes 15        low byte of count - 15, in entry order
    big_high       number of codes 15        high byte of it

Entries go token by token, ids ascending within a token. The page delta is id >> 16 less that of the
token's entry before (less 0 for its first). Count code 1..14 is the count, 15 sends to the big
ones, and 0, exactly once a token, is n less the token's other counts (the encoder gives it to the
largest).

At 12 unique ids a token, uniform over 2^20, the low and mid bytes take 24 bytes a token, which
nothing compresses, and the rest 7.7. Ascending order is what saves: it brings the upper four bits
of an id down to 1.8. Page deltas and counts in separate planes were measured 0.4 larger.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache_schema.codecs.sections import Sections, join, pack
from cache_schema.codecs.topk_compact import MAX_ID
from cache_schema.errors import TapeError

VERSION = 1
MAX_DRAWS = 0xFFFF
"""The header has two bytes for n."""

_HEADER = struct.Struct("<BBHI")
_REST = 0
_ESCAPE = 15


def encode(token_ids: ArrayLike, counts: ArrayLike, offsets: ArrayLike, num_draws: int) -> bytes:
    """Return the blob of one trace, in the layout of this module.

    Args:
        token_ids: integer [M], 0..2^20 - 1, distinct within a token, in any order (not kept).
        counts: integer [M], at least 1; those of a token add up to ``num_draws``.
        offsets: integer [T + 1], from 0 to M: token t owns entries offsets[t] to offsets[t + 1].
        num_draws: n, 1..65,535.

    Raises:
        TapeError: shapes differ, an id, count or offset is out of range, or an id repeats.
    """
    ids, count, starts = _checked(token_ids, counts, offsets, num_draws)
    unique = np.diff(starts)
    rows = np.repeat(np.arange(unique.size), unique)
    order = np.lexsort((ids, rows))
    ids, count = ids[order], count[order]
    if ((np.diff(ids) <= 0) & (np.diff(rows) == 0)).any():
        raise TapeError("an id repeats within a token; add its counts up")
    code = np.minimum(count, _ESCAPE)
    if ids.size:
        largest = np.flatnonzero(count == np.maximum.reduceat(count, starts[:-1])[rows])
        code[largest[np.unique(rows[largest], return_index=True)[1]]] = _REST
    big = count[code == _ESCAPE] - _ESCAPE
    page = ids >> 16
    symbols = (_within(page, starts) << 4) | code
    planes = [unique & 255, unique >> 8, symbols, ids & 255, (ids >> 8) & 255, big & 255, big >> 8]
    header = _HEADER.pack(VERSION, 0, num_draws, unique.size)
    return header + b"".join(pack(plane) for plane in planes)


def _within(page: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the differences of ``page`` within each token, its first value left as it is."""
    deltas = np.diff(page, prepend=0)
    deltas[starts[:-1]] = page[starts[:-1]]
    return deltas


def _checked(
    token_ids: ArrayLike, counts: ArrayLike, offsets: ArrayLike, num_draws: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    ids, count, starts = (np.asarray(a, dtype=np.int64) for a in (token_ids, counts, offsets))
    if ids.ndim != 1 or ids.shape != count.shape or starts.ndim != 1 or not starts.size:
        shapes = f"{ids.shape}, {count.shape}, {starts.shape}"
        raise TapeError(f"sampled ids of shapes {shapes}; expected [M], [M], [T + 1]")
    if not 1 <= num_draws <= MAX_DRAWS:
        raise TapeError(f"{num_draws} draws a token; expected 1..{MAX_DRAWS}")
    if starts[0] != 0 or starts[-1] != ids.size or (np.diff(starts) < 1).any():
        raise TapeError(f"offsets do not lead from 0 to {ids.size} with an id for every token")
    if ids.size and not (ids.min() >= 0 and ids.max() <= MAX_ID):
        raise TapeError(f"token ids {ids.min()}..{ids.max()}; expected 0..{MAX_ID}")
    sums = np.add.reduceat(count, starts[:-1]) if ids.size else count
    if (count < 1).any() or (count > num_draws).any() or (sums != num_draws).any():
        raise TapeError(f"counts must be at least 1 and add up to {num_draws} for every token")
    return ids, count, starts


def decode(
    blob: bytes | memoryview, num_tokens: int, num_draws: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Return token ids int32 [M], counts int32 [M] and offsets int64 [T + 1] of a blob.

    Ids ascend within a token. The blob is untrusted; memory stays within about 60 bytes an entry,
    of which there are at most ``num_tokens * num_draws``.

    Args:
        blob: what ``encode`` returned.
        num_tokens: T, known from the trace.
        num_draws: n, known from the signal.

    Raises:
        TapeError: the blob is not of this version, T and n, or is damaged in a way that shows.
    """
    _check_header(blob, num_tokens, num_draws)
    sections = Sections(blob, _HEADER.size)
    unique = join([sections.take(num_tokens, "unique ids") for _ in range(2)])
    if unique.min(initial=1) < 1 or unique.max(initial=1) > num_draws:
        raise TapeError(f"a token of 0 or of more than {num_draws} unique ids; damaged blob")
    starts = np.zeros(num_tokens + 1, dtype=np.int64)
    np.cumsum(unique, out=starts[1:])
    symbols = sections.take(int(starts[-1]), "symbols")
    low = join([sections.take(symbols.size, "ids") for _ in range(2)])
    code = symbols & 15
    at_big = np.flatnonzero(code == _ESCAPE)
    big = join([sections.take(at_big.size, "big counts") for _ in range(2)])
    sections.end()
    counts = code.astype(np.int32)
    counts[at_big] += big
    if not symbols.size:
        return low.astype(np.int32), counts, starts
    ids = _ids(symbols >> 4, low, starts, unique)
    rest = np.flatnonzero(code == _REST)
    if rest.size != num_tokens or not ((starts[:-1] <= rest) & (rest < starts[1:])).all():
        raise TapeError("not one remaining count a token; damaged blob")
    counts[rest] = num_draws - np.add.reduceat(counts, starts[:-1], dtype=np.int64)
    if counts[rest].min() < 1:
        raise TapeError(f"counts of a token add up to more than {num_draws}; damaged blob")
    return ids, counts, starts


def _check_header(blob: bytes | memoryview, num_tokens: int, num_draws: int) -> None:
    if len(blob) < _HEADER.size:
        raise TapeError(f"blob of {len(blob)} bytes has no header; copy the shard again")
    version, zero, *shape = _HEADER.unpack_from(blob)
    if version != VERSION or zero != 0:
        raise TapeError(
            f"sampled blob of version {version}, expected {VERSION}; update teachertape"
        )
    if shape != [num_draws, num_tokens]:
        expected = [num_draws, num_tokens]
        raise TapeError(f"blob of n, T = {shape}, expected {expected}; damaged shard")


def _ids(
    deltas: NDArray[Any],
    low: NDArray[np.uint16],
    starts: NDArray[np.int64],
    unique: NDArray[Any],
) -> NDArray[np.int32]:
    """Add up page deltas within each token and put the low words below them."""
    total = np.cumsum(deltas, dtype=np.int64)
    before = np.concatenate([[0], total[starts[1:-1] - 1]])
    page = total - np.repeat(before, unique)
    if page.max() > MAX_ID >> 16:
        raise TapeError(f"an id is above {MAX_ID}; damaged blob")
    ids: NDArray[np.int32] = ((page << 16) | low).astype(np.int32)
    ascends = np.diff(ids) > 0
    ascends[starts[1:-1] - 1] = True
    if not ascends.all():
        raise TapeError("ids do not ascend within a token; damaged blob")
    return ids
