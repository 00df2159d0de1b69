"""The layouts of compact blobs read aloud, a value at a time, and ways to damage a blob."""

from __future__ import annotations

import math
import struct

import pyarrow as pa
from hypothesis import strategies as st

MAX_ID = (1 << 20) - 1
EDGE_IDS = [0, 255, 256, 65535, 65536, 131071, 131072, 131073, 151935, 262143, 262144, MAX_ID]


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


def rewrite(blob: bytes, at: int, new: bytes) -> bytes:
    return blob[:at] + new + blob[at + len(new) :]


def section(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


DAMAGE = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), max_size=3)


def damage(blob: bytes, flips: list[tuple[int, int]], cut: int | None) -> bytes:
    changed = bytearray(blob)
    for at, mask in flips:
        changed[at % len(blob)] ^= mask
    return bytes(changed if cut is None else changed[: cut % len(blob)])
