"""Compact top-k and sampled codecs: bytes, error and decoding speed on seeded synthetic shards.

Sizes count all a shard would hold: blobs, the target id (4 bytes a token) and an Arrow offset of 8
bytes a trace. Ids follow Zipf's law over a vocabulary in random order, without repeats in a row.
Log-probs fall by exponential gaps of mean scale / rank, as the order statistics of an exponential
tail do; 6 tokens of 10 have a first id that stands out by some nats. Traces are 50 to 400 tokens.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from figures import Figure
from numpy.typing import NDArray

from cache_schema.codecs import sampled, topk_compact

QWEN_VOCABULARY = 151_936
NUM_DRAWS = 50
ALIKE, MIXED = (1.785, 1.785), (1.065, 3.07)
"""Steepness of sampled tokens, such that 12 unique ids a token are drawn on average."""
ARROW_OFFSET_BYTES = 8
TARGET_ID_BYTES = 4

Trace = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Shard:
    """Traces and their blobs."""

    traces: list[Trace]
    blobs: list[bytes]

    @property
    def num_tokens(self) -> int:
        return sum(len(tail) for *_, tail in self.traces)


def make_shard(
    k: int, vocabulary: int, num_traces: int, exponent: float = 1.0, **grid: int
) -> Shard:
    rng = np.random.default_rng(k + vocabulary)
    names = rng.permutation(vocabulary).astype(np.int32)
    cumulative = np.cumsum(np.arange(1, vocabulary + 1) ** -exponent)
    cumulative /= cumulative[-1]
    traces = []
    for num_tokens in rng.integers(50, 401, num_traces):
        ids = np.stack([distinct(rng, cumulative, k) for _ in range(num_tokens)])
        traces.append((names[ids], *make_logprobs(rng, num_tokens, k, vocabulary)))
    return Shard(traces, [topk_compact.encode(*trace, **grid) for trace in traces])


def distinct(rng: np.random.Generator, cumulative: NDArray[np.float64], k: int) -> NDArray[np.intp]:
    """Return the first k different ranks drawn."""
    drawn = np.searchsorted(cumulative, rng.random(2 * k + 32))
    while True:
        unique, first = np.unique(drawn, return_index=True)
        if unique.size >= k:
            return drawn[np.sort(first)[:k]]
        drawn = np.append(drawn, np.searchsorted(cumulative, rng.random(2 * k)))


def make_logprobs(
    rng: np.random.Generator, num_tokens: int, k: int, vocabulary: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    scale = rng.uniform(0.9, 2.0, num_tokens)
    gaps = rng.exponential(size=(num_tokens, k)) * scale[:, None] / np.maximum(np.arange(k), 1)
    gaps[:, 0] = 0
    if k > 1:
        gaps[:, 1] += np.where(rng.random(num_tokens) < 0.6, rng.exponential(4, num_tokens), 0)
    logits = -np.cumsum(gaps, axis=1)
    power = 1 - scale  # what i^-scale sums to from rank k + 1/2 to the last
    beyond = (vocabulary**power - (k + 0.5) ** power) / power
    tail = np.exp(logits[:, -1]) * k**scale * beyond
    total = np.exp(logits).sum(axis=1) + tail
    logprobs = logits - np.log(total)[:, None]
    return logprobs.astype(np.float32), (tail / total).astype(np.float32)


def bytes_a_token(blobs: list[bytes], num_tokens: int) -> float:
    """Return everything counted, per token."""
    return TARGET_ID_BYTES + sum(len(blob) + ARROW_OFFSET_BYTES for blob in blobs) / num_tokens


def kl_nats(shard: Shard) -> NDArray[np.float64]:
    """Return KL(source || decoded) over the k + 1 buckets of every token; checks the ids too."""
    found = []
    for (ids, logprobs, tail), blob in zip(shard.traces, shard.blobs, strict=True):
        got_ids, got_logprobs, got_tail = topk_compact.decode(blob, *ids.shape)
        assert np.array_equal(got_ids, ids)
        p, q = (
            np.column_stack([np.exp(of.astype(np.float64)), rest.astype(np.float64)])
            for of, rest in ((logprobs, tail), (got_logprobs, got_tail))
        )
        assert np.abs(q.sum(axis=1) - 1).max() < 1e-5
        found.append((p * np.log(p / q)).sum(axis=1))
    return np.concatenate(found)


def size(name: str, shard: Shard, bar: float | None = None) -> Figure:
    k = shard.traces[0][0].shape[1]
    each = bytes_a_token(shard.blobs, shard.num_tokens)
    kl = kl_nats(shard)
    return Figure(
        name=f"size, k={k}, {name}",
        value=each / k,
        unit="bytes an entry",
        bar=bar,
        at_least=False,
        note=f"{each:.1f} a token; KL mean {kl.mean():.1e}, worst token {kl.max():.1e}",
    )


def sizes() -> list[Figure]:
    main = make_shard(64, QWEN_VOCABULARY, 200)
    kl = kl_nats(main)
    found = [size("Zipf over 151,936", main, 2.6)]
    found.append(
        Figure(
            name="KL(source || decoded), k=64, Zipf over 151,936",
            value=kl.mean(),
            unit="nats mean",
            bar=1e-4,
            at_least=False,
            note=f"worst of {kl.size} tokens {kl.max():.1e}; ids exact",
        )
    )
    found += [size("Zipf over 151,936", make_shard(k, QWEN_VOCABULARY, 40)) for k in (16, 32, 128)]
    found.append(size("Zipf over 262,144", make_shard(64, 262_144, 40)))
    uniform = {"vocabulary": QWEN_VOCABULARY, "num_traces": 40, "exponent": 0.0}
    found.append(size("uniform over 151,936", make_shard(64, **uniform)))
    coarse = make_shard(64, **uniform, root_steps=256, linear_step=512)
    found.append(size("uniform over 151,936, grid 1/256, 1/8 nat", coarse))
    found.append(size("uniform over 2^20", make_shard(64, 1 << 20, 20, exponent=0.0)))
    return found


def thread_seconds(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return each job's CPU seconds, round by round, the jobs taking turns.

    CPU time of this one thread, as the bar is a thread's speed: on a machine shared with other
    processes wall time measures them. On an idle one the two are the same.
    """
    taken_s: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            began_s = time.thread_time()
            job()
            taken_s[name].append(time.thread_time() - began_s)
    return {name: of[1:] for name, of in taken_s.items()}


def speeds() -> list[Figure]:
    shard = make_shard(128, QWEN_VOCABULARY, 20)
    raw = [b"".join(np.ascontiguousarray(a).tobytes() for a in trace) for trace in shard.traces]
    shapes = [trace[0].shape for trace in shard.traces]
    whole = np.frombuffer(b"".join(raw), dtype=np.uint8)
    into = np.empty_like(whole)

    def compact() -> None:
        for blob, (num_tokens, k) in zip(shard.blobs, shapes, strict=True):
            topk_compact.decode(blob, num_tokens, k)

    def hot() -> None:
        for blob, (num_tokens, k) in zip(raw, shapes, strict=True):
            np.frombuffer(blob, "<i4", num_tokens * k).reshape(num_tokens, k).copy()
            np.frombuffer(blob, "<f4", num_tokens * k, 4 * num_tokens * k).copy()
            np.frombuffer(blob, "<f4", num_tokens, 8 * num_tokens * k).copy()

    jobs: dict[str, Callable[[], object]] = {
        "compact": compact,
        "hot": hot,
        "memcpy": lambda: np.copyto(into, whole),
    }
    taken_s = thread_seconds(jobs, rounds=61)
    note = f"k=128, {shard.num_tokens / len(raw):.0f} tokens a trace, CPU time of one thread; "
    encoding = {"encode": lambda: [topk_compact.encode(*trace) for trace in shard.traces]}
    (encode_s,) = thread_seconds(encoding, rounds=5).values()
    return [
        speed("decode, compact", taken_s["compact"], shard.num_tokens, note, 500),
        speed("decode, raw int32 + float32 (hot)", taken_s["hot"], shard.num_tokens, note),
        speed("memcpy of the decoded bytes", taken_s["memcpy"], shard.num_tokens, note),
        speed("encode, compact", encode_s, shard.num_tokens, note),
    ]


def speed(
    name: str, taken_s: list[float], num_tokens: int, note: str, bar: float | None = None
) -> Figure:
    best = num_tokens / min(taken_s) / 1e3
    return Figure(
        name=name,
        value=num_tokens / statistics.median(taken_s) / 1e3,
        unit="thousand tokens/s",
        bar=bar,
        note=f"{note}median of {len(taken_s)} rounds, best {best:.0f}",
    )


def make_draws(
    rng: np.random.Generator, steepness: tuple[float, float], names: NDArray[np.int32] | None
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Return ids, counts and offsets of a trace of 200 tokens, ``NUM_DRAWS`` draws a token.

    Probabilities fall as rank^-s, s uniform within ``steepness``; which ids the ranks are is
    uniform over 2^20, or Zipf over ``names``.
    """
    ids, counts = [], []
    ranks = np.arange(1, 2001)
    for _ in range(200):
        weights = ranks ** -rng.uniform(*steepness)
        drawn = rng.choice(ranks.size, NUM_DRAWS, p=weights / weights.sum())
        count = np.unique_counts(drawn).counts
        if names is None:
            ids.append(rng.choice(1 << 20, count.size, replace=False).astype(np.int32))
        else:
            cumulative = np.cumsum(1 / np.arange(1, names.size + 1))
            ids.append(names[distinct(rng, cumulative / cumulative[-1], count.size)])
        counts.append(rng.permutation(count))
    offsets = np.cumsum([0] + [count.size for count in counts])
    return np.concatenate(ids), np.concatenate(counts), offsets


def sampled_figures() -> list[Figure]:
    rng = np.random.default_rng(12)
    names = rng.permutation(QWEN_VOCABULARY).astype(np.int32)
    found = []
    for name, steepness, of in (
        ("uniform over 2^20, tokens alike", ALIKE, None),
        ("uniform over 2^20, flat and peaked tokens", MIXED, None),
        ("Zipf over 151,936, tokens alike", ALIKE, names),
    ):
        traces = [make_draws(rng, steepness, of) for _ in range(10)]
        blobs = [sampled.encode(*trace, NUM_DRAWS) for trace in traces]
        num_tokens = 200 * len(traces)
        unique = sum(len(trace[0]) for trace in traces) / num_tokens
        jobs = {"decode": lambda b=blobs: [sampled.decode(blob, 200, NUM_DRAWS) for blob in b]}
        (taken_s,) = thread_seconds(jobs, 7).values()
        found.append(
            Figure(
                name=f"sampled, {name}",
                value=bytes_a_token(blobs, num_tokens),
                unit="bytes a token",
                bar=36 if of is None else None,
                at_least=False,
                note=f"{unique:.2f} unique ids of {NUM_DRAWS} draws; target id counted; decodes "
                f"{num_tokens / min(taken_s) / 1e3:.0f} thousand tokens/s",
            )
        )
    return found


def measure() -> list[Figure]:
    """Return the figures; about 20 s, one thread."""
    pa.set_cpu_count(1)
    return [*sizes(), *speeds(), *sampled_figures()]
