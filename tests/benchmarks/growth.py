"""How cost grows: with samples, with k, with the layers that are read, with the vocabulary.

A figure is the exponent e of cost ~ size^e, fitted by least squares to the logarithms over all
sizes: 1 is linear, 0 does not grow. Costs of small sizes hold what every call costs, which lowers
it; the note has each cost, and the last one over its linear continuation from the one before. The
sizes of a kind take turns in one run.

- samples: tapes of ``opening`` (100 samples a shard): opening and counting, fields of one row of an
  open tape by its id (rows read before, their shards mapped), planning an epoch of so many rows.
- k: the compact codec on the data of ``topk``: bytes with everything counted, decoding.
- layers: a tape of 32 layers, 2,048 wide, bfloat16, warm; and the bytes that came from the disk
  with the page cache dropped, opening and checksums included, over the bytes asked for.
- vocabulary: the trainer's top-k 64 KL, forward and backward, float32; memory beyond the gradients
  that any loss leaves, over a chunk of logits.

Times are one thread's processor time; writing is by the clock. Planning has no bar: what it does is
linear (shuffle, sort pools of bounded size, cut), but beyond 1e4 rows their lengths are read in
random order from memory instead of the processor's cache, four times as slow.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import opening
import topk
import torch
from figures import Figure, growth
from reading import WIDTH, Room, find, lengths, read, write_tape
from torch import nn
from trainer import fused_kl, in_turns, peak_bytes

from cache_schema import Tape, open_tape
from cache_schema.codecs import topk_compact
from train.data import Example
from train.losses import vocabulary
from train.steps.order import plan_epoch

SAMPLES = (100, 1_000, 10_000, 100_000)
KEPT = (16, 32, 64, 128)
LAYERS = (1, 4, 8, 16, 32)
VOCABULARIES = (1 << 15, 1 << 16, 1 << 17, 1 << 18)
ROWS, PLAN_TOKENS = 200, 8192
STATES_BYTES = 192 << 20
POSITIONS, CHUNK, INNER, TOP_K = 256, 128, 256, 64
AT_MOST_LINEAR = 1.1
"""As an exponent; n log n is 1.14 from 1e2 to 1e5."""

DOES_NOT_GROW = 0.15
"""A binary search of 1e5 ids beside one of 1e2 is 2.5 times the steps: 0.13."""


def medians(taken_s: Mapping[str, list[float]]) -> dict[int, float]:
    """Size -> its median; names are sizes."""
    return {int(name): statistics.median(of) for name, of in taken_s.items()}


def by_turns(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[int, float]:
    """Size -> the median of the thread's processor time."""
    return medians(topk.thread_seconds(jobs, rounds))


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us"


def of_samples(folder: Path) -> Iterator[Figure]:
    """Tapes, each ten times as large as the one before."""
    roots = {size: folder / str(size) for size in SAMPLES}
    written: dict[int, float] = {}
    for size, root in roots.items():
        began_s = time.perf_counter()
        opening.write_tape(root, size)
        written[size] = time.perf_counter() - began_s
    yield growth("writing samples", written, lambda each: f"{each:.3g} s", AT_MOST_LINEAR)
    jobs: dict[str, Callable[[], object]] = {
        str(size): lambda root=root: len(open_tape(root)) for size, root in roots.items()
    }
    yield growth("opening, counting", by_turns(jobs, 9), milliseconds, AT_MOST_LINEAR)
    rng = np.random.default_rng(0)
    jobs = {}
    for size, root in roots.items():
        jobs[str(size)] = partial(rows, open_tape(root), rng.integers(0, size, ROWS).tolist())
    fetched = {size: each / ROWS for size, each in by_turns(jobs, 9).items()}
    yield growth("a row's fields, by id", fetched, microseconds, DOES_NOT_GROW)
    jobs = {
        str(size): partial(plan_epoch, examples(size), PLAN_TOKENS, seed=0, epoch=0)
        for size in SAMPLES
    }
    yield growth("planning an epoch", by_turns(jobs, 7), milliseconds, None)


def rows(tape: Tape, numbers: list[int]) -> None:
    """Read fields of some rows of an open tape."""
    for number in numbers:
        row = tape[f"recording-{number:07d}"]
        assert (row.question, row.choices, row.answer) == ("What is said?", ("yes", "no"), "yes")
        assert row.metadata


def examples(count: int) -> list[Example]:
    """Rows of log-normal lengths."""
    many = np.random.default_rng(0).lognormal(5.6, 0.6, count).astype(int)
    return [
        Example(sample_id=f"recording-{number:07d}", trace_index=0, num_tokens=int(tokens))
        for number, tokens in enumerate(many)
    ]


def of_k() -> Iterator[Figure]:
    """Shards of 40 traces."""
    shards = {k: topk.make_shard(k, topk.QWEN_VOCABULARY, 40) for k in KEPT}
    sizes = {k: topk.bytes_a_token(shard.blobs, shard.num_tokens) for k, shard in shards.items()}
    yield growth("bytes a token by k", sizes, lambda each: f"{each:.0f}", AT_MOST_LINEAR)

    def decode(shard: topk.Shard, k: int) -> None:
        for blob, (*_, tail) in zip(shard.blobs, shard.traces, strict=True):
            topk_compact.decode(blob, len(tail), k)

    jobs = {str(k): lambda s=shard, k=k: decode(s, k) for k, shard in shards.items()}
    taken = by_turns(jobs, 9)
    each = {k: taken[k] / shard.num_tokens for k, shard in shards.items()}
    yield growth("decoding a token by k", each, microseconds, AT_MOST_LINEAR)


def of_layers(folder: Path) -> Iterator[Figure]:
    """Every example of a tape, in order, so many layers of it."""
    root, chosen = folder / "states", tuple(range(1, max(LAYERS) + 1))
    counts = lengths(STATES_BYTES * 4 // len(chosen))  # it counts four layers
    asked = {n: sum(counts.values()) * WIDTH * 2 * n for n in LAYERS}
    order, room = list(counts), Room(STATES_BYTES)
    yield warm(write_tape(root, counts, chosen), order, room)
    gc.collect()  # what is mapped stays in the page cache
    for layers in (LAYERS[0], LAYERS[-1]):
        drop(root)
        before = bytes_from_disk()
        read(find(open_tape(root), order, chosen[:layers]), room, chosen[:layers])
        found = bytes_from_disk() - before
        gc.collect()
        yield Figure(
            name=f"bytes from the disk, {layers} of {len(chosen)} layers",
            value=found / asked[layers], unit="x of those asked for", bar=1.1, at_least=False,
            note=f"{found / 2**20:.1f} MiB; the tape's tables and index among them",
        )  # fmt: skip


def warm(tape: Tape, order: list[str], room: Room) -> Figure:
    """The tape's first layers, from the page cache."""
    chosen = {n: tuple(range(1, n + 1)) for n in LAYERS}
    places = {n: find(tape, order, layers) for n, layers in chosen.items()}
    jobs = {str(n): partial(read, places[n], room, layers) for n, layers in chosen.items()}
    return growth("reading states by layers", by_turns(jobs, 9), milliseconds, AT_MOST_LINEAR)


def drop(root: Path) -> None:
    """Write a tape's files back and drop their pages."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_from_disk() -> int:
    """Return what the system has read for this process so far."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("read_bytes"):
            return int(line.split()[1])
    raise RuntimeError("no read_bytes in /proc/self/io")


def of_vocabulary() -> Iterator[Figure]:
    """The same positions before unembeddings of growing height."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    jobs: dict[str, Callable[[], object]] = {}
    for size in VOCABULARIES:
        layer = nn.Linear(INNER, size, bias=False, device=device)
        inputs = torch.randn(POSITIONS, INNER, generator=generator).to(device).requires_grad_()
        said = torch.randn(POSITIONS, size, generator=generator).to(device).log_softmax(-1)
        logprobs, ids = said.topk(TOP_K)
        p_NB = vocabulary.teacher_buckets(logprobs, 1 - logprobs.exp().sum(-1))
        jobs[str(size)] = fused_kl(layer, inputs, ids, p_NB, CHUNK)
        del said
    taken = medians(in_turns(jobs, 3))
    what = f"top-k {TOP_K} KL, {POSITIONS} positions"
    yield growth(f"{what}: time", taken, milliseconds, AT_MOST_LINEAR)
    peaks = {int(name): float(peak_bytes(job)) for name, job in jobs.items()}
    yield growth(f"{what}: memory", peaks, lambda each: f"{each / 2**20:.0f} MiB", AT_MOST_LINEAR)
    for size in (VOCABULARIES[0], VOCABULARIES[-1]):
        own = peaks[size] - 4 * INNER * (size + POSITIONS)
        yield Figure(
            name=f"the same beside the gradients, V = {size:,}",
            value=own / (4 * CHUNK * size), unit="x of a chunk's logits", bar=1.1, at_least=False,
            note=f"{own / 2**20:.1f} MiB, {CHUNK} positions a chunk",
        )  # fmt: skip


def measure() -> Iterator[Figure]:
    """Samples, k, layers, vocabularies."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        yield from of_samples(Path(folder))
        yield from of_k()
        yield from of_layers(Path(folder))
    yield from of_vocabulary()
