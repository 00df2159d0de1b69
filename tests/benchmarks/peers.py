"""Top-k stores: the tape's compact form against its hot one and against those of peers.

The peers' are written from their descriptions (``peer_stores`` says how each one is kept and read,
and what it stands for), k = 64, Zipf ids over 151,936, traces of 50 to 400 tokens; the dicts hold
fewer traces. One thread, page cache warm, everything opened before. Every figure is a peer's bytes
or time over that of the compact form in the same run, more than 1 where the peer needs more; the
note has the figure itself, and the same over the hot form.

Times are the processor time of the process: nothing here waits.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from figures import Figure
from peer_stores import FILE_ROWS, Store, dicts, parquet, raw, tape, tar_zstd
from topk import QWEN_VOCABULARY, Trace, make_shard

K = 64
TRACES, DICT_TRACES = 2 * FILE_ROWS, 64
FETCHED, ROUNDS = 60, 5
HALF_ERROR = 2.0**-11
"""Relative, of float16."""

COMPACT_ERROR_NATS = 0.1
"""Of a log-probability far down the list; the codec's own bar is a divergence, in ``topk``."""


def write(folder: Path, traces: list[Trace]) -> list[Store]:
    """Return every store, the compact and the hot one first."""
    split = {
        "compression": "zstd",
        "use_dictionary": False,
        "use_byte_stream_split": ["token_ids.list.element", "logprobs.list.element"],
    }
    return [
        tape(folder / "compact", traces, "compact"),
        tape(folder / "hot", traces, "hot"),
        raw(folder / "raw", traces),
        parquet(folder / "lists", traces, "Parquet lists, float32", FILE_ROWS),
        parquet(folder / "split", traces, "Parquet lists, split + zstd", FILE_ROWS,
                **split),
        parquet(folder / "single", traces, "the same, row groups of 1", 1, **split),
        tar_zstd(folder / "batches.tar", traces),
        dicts(folder / "dicts", traces[:DICT_TRACES]),
    ]  # fmt: skip


def compare(stores: list[Store], traces: list[Trace]) -> None:
    """Ids must be those written, log-probabilities within what the form rounds to."""
    for store in stores:
        for number, (ids, logprobs) in enumerate(store.every()):
            expected = traces[number]
            assert ids.dtype == np.int64
            assert logprobs.dtype == np.float32
            assert np.array_equal(ids, expected[0]), (store.name, number)
            exact = not store.name.startswith(("tar", "the tape, compact"))
            most = COMPACT_ERROR_NATS if "compact" in store.name else HALF_ERROR
            error = np.abs(logprobs - expected[1]) / np.maximum(np.abs(expected[1]), 1)
            assert (error.max() == 0) if exact else (error.max() <= most), (store.name, error.max())


def fetch_s(stores: list[Store]) -> dict[str, list[float]]:
    """Return what each random sample took, the stores taking turns, after an unmeasured round."""
    order = random.Random(3).sample(range(TRACES), FETCHED)
    taken_s: dict[str, list[float]] = {store.name: [] for store in stores}
    for number in (*order[:3], *order):
        for store in stores:
            began_s = time.process_time()
            store.one(number % store.num_samples)
            taken_s[store.name].append(time.process_time() - began_s)
    return {name: of[3:] for name, of in taken_s.items()}


def read_s(stores: list[Store]) -> dict[str, list[float]]:
    """Return what a token took in each round over all samples, the stores taking turns."""
    taken_s: dict[str, list[float]] = {store.name: [] for store in stores}
    for _ in range(ROUNDS):
        for store in stores:
            began_s = time.process_time()
            assert sum(len(ids) for ids, _ in store.every()) == store.num_tokens
            taken_s[store.name].append((time.process_time() - began_s) / store.num_tokens)
    return taken_s


def against(
    stores: list[Store],
    costs: dict[str, float],
    what: str,
    told: Callable[[float], str],
    bar: float | None,
) -> Iterator[Figure]:
    """Yield the compact form's cost as it is, every other over it."""
    compact, hot = (costs[store.name] for store in stores[:2])
    for store in stores[1:]:
        cost, own = costs[store.name], store.name == stores[1].name
        of_hot = "" if own else f", {cost / hot:.2f} of the hot"
        yield Figure(
            name=f"{what}: {store.name}",
            value=cost / compact,
            unit="x of compact",
            bar=None if own else bar,
            note=f"{told(cost)} (compact {told(compact)}){of_hot}",
        )


def measure() -> Iterator[Figure]:
    """Bytes, random samples, all samples."""
    pa.set_cpu_count(1)
    traces = make_shard(K, QWEN_VOCABULARY, TRACES).traces
    with tempfile.TemporaryDirectory() as folder:
        stores = write(Path(folder), traces)
        compare(stores, traces)
        sizes = {store.name: store.num_bytes / store.num_tokens for store in stores}
        yield from against(stores, sizes, "bytes", lambda each: f"{each:.0f} a token", 1.0)
        fetched = {name: statistics.median(of) for name, of in fetch_s(stores).items()}
        yield from against(
            stores, fetched, "random sample, p50", lambda each: f"{each * 1e6:,.0f} us", None
        )
        read = {name: statistics.median(of) for name, of in read_s(stores).items()}
        yield from against(
            stores, read, "all in order", lambda each: f"{1e-3 / each:,.0f}k tokens/s", None
        )
