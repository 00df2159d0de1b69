"""Top-k stores as peers keep them, written here from their descriptions, and the tape's own two.

Each returns a sample's token ids, int64 [tokens, k], and log-probabilities, float32 [tokens, k], in
memory of their own: what a trainer gathers with. All hold the target id too; only the tape holds
the tail's mass, and checks ranges and masses whenever it reads.

- raw: int32 ids and float32 log-probabilities end to end in one file, mapped, offsets beside it:
  what record files of arrays are without their frames, and the limit of reading.
- Parquet lists: a row a sample, 256 rows a file, pyarrow's defaults. ``split + zstd`` has
  byte-stream-split columns, the bytes of a number apart; ``row groups of 1`` is that with a row
  group a sample, the most that can be done for random access.
- tar + zstd: a member a batch of 32 samples: float16 log-probabilities, ids packed in 18 bits, in a
  zip of arrays compressed as a whole, found by number. A peer packs 17 bits, which do not hold a
  vocabulary of 151,936, and pads its batches; here they are not padded, and ids are unpacked of
  the wanted sample only, four at a time.
- dicts: a list of {token, log-probability} a token, the token a text, in a ``datasets`` folder,
  read as Python's own lists and dicts.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from topk import Trace

from cache_schema import layout, open_tape
from cache_schema.maker import GroupInfo
from cache_schema.rows.values import sample_rows, topk_row
from cache_schema.types import Sample, TopK
from cache_schema.writer import TapeWriter

FILE_ROWS = 256
BATCH_SAMPLES = 32
ID_BITS = 18
ZSTD_LEVEL = 3
TOKEN_PREFIX = "token_id:"
SIGNAL = "textual/topk"

Pair = tuple[NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Store:
    """Samples in one form.

    Attributes:
        name: what it stands for.
        num_bytes: on disk, everything counted.
        num_tokens: of all its samples.
        num_samples: how many there are.
        one: number -> that sample.
        every: all of them in order.
    """

    name: str
    num_bytes: int
    num_tokens: int
    num_samples: int
    one: Callable[[int], Pair]
    every: Callable[[], Iterator[Pair]]


def targets_of(trace: Trace) -> NDArray[np.int32]:
    """Return a target for each token; which one changes no size."""
    return trace[0][:, 0]


def count_tokens(traces: Sequence[Trace]) -> int:
    return sum(len(tail) for *_, tail in traces)


def bytes_under(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def made(
    name: str,
    traces: Sequence[Trace],
    num_bytes: int,
    one: Callable[[int], Pair],
    every: Callable[[], Iterator[Pair]] | None = None,
) -> Store:
    """Return a store; without ``every`` that is one sample after another."""
    num_samples = len(traces)
    return Store(
        name=name, num_bytes=num_bytes, num_tokens=count_tokens(traces), num_samples=num_samples,
        one=one, every=every or (lambda: map(one, range(num_samples))),
    )  # fmt: skip


def raw(folder: Path, traces: Sequence[Trace]) -> Store:
    ends = np.cumsum([0] + [trace[0].size for trace in traces])
    k = traces[0][0].shape[1]
    folder.mkdir()
    for name, arrays in (
        ("ids", [trace[0] for trace in traces]),
        ("logprobs", [trace[1] for trace in traces]),
        ("targets", [targets_of(trace) for trace in traces]),
    ):
        np.concatenate([array.reshape(-1) for array in arrays]).tofile(folder / name)
    ends.tofile(folder / "offsets")
    ids = np.memmap(folder / "ids", np.int32, "r")
    logprobs = np.memmap(folder / "logprobs", np.float32, "r")

    def one(number: int) -> Pair:
        where = slice(ends[number], ends[number + 1])
        return ids[where].reshape(-1, k).astype(np.int64), np.array(logprobs[where]).reshape(-1, k)

    return made("raw ids and float32, one file", traces, bytes_under(folder), one)


def parquet(
    folder: Path, traces: Sequence[Trace], name: str, group_rows: int, **options: Any
) -> Store:
    """Write lists of ids and log-probabilities, a row a sample."""
    folder.mkdir()
    k = traces[0][0].shape[1]
    for start in range(0, len(traces), FILE_ROWS):
        some = traces[start : start + FILE_ROWS]
        offsets = np.cumsum([0] + [trace[0].size for trace in some], dtype=np.int32)
        of_targets = np.cumsum([0] + [len(trace[0]) for trace in some], dtype=np.int32)
        table = pa.table(
            {
                "sample_id": [f"s{start + i:06d}" for i in range(len(some))],
                "target_ids": lists(of_targets, [targets_of(trace) for trace in some]),
                "token_ids": lists(offsets, [trace[0] for trace in some]),
                "logprobs": lists(offsets, [trace[1] for trace in some]),
            }
        )
        pq.write_table(table, folder / f"{start:06d}.parquet", row_group_size=group_rows, **options)
    files = [pq.ParquetFile(path, memory_map=True) for path in sorted(folder.glob("*.parquet"))]

    def group(file: int, number: int) -> list[Pair]:
        columns = ["token_ids", "logprobs"]
        found = files[file].read_row_group(number, columns=columns, use_threads=False)
        batch = found.combine_chunks().to_batches()[0]
        ids, logprobs = (batch.column(name).values.to_numpy() for name in columns)
        wide = ids.astype(np.int64)
        ends = batch.column("token_ids").offsets.to_numpy()
        return [(wide[a:b].reshape(-1, k), logprobs[a:b].reshape(-1, k)) for a, b in pairwise(ends)]

    def one(number: int) -> Pair:
        file, row = divmod(number, FILE_ROWS)
        return group(file, row // group_rows)[row % group_rows]

    def every() -> Iterator[Pair]:
        for number, file in enumerate(files):
            for index in range(file.num_row_groups):
                yield from group(number, index)

    return made(name, traces, bytes_under(folder), one, every)


def lists(offsets: NDArray[np.int32], arrays: list[NDArray[Any]]) -> pa.ListArray:
    return pa.ListArray.from_arrays(offsets, np.concatenate([each.reshape(-1) for each in arrays]))


def tar_zstd(path: Path, traces: Sequence[Trace]) -> Store:
    """Write a compressed zip of arrays a batch, each a member of one tar."""
    codec, k = pa.Codec("zstd", compression_level=ZSTD_LEVEL), traces[0][0].shape[1]
    with tarfile.open(path, "w") as tar:
        for start in range(0, len(traces), BATCH_SAMPLES):
            some = traces[start : start + BATCH_SAMPLES]
            arrays = {
                "ids": np.frombuffer(b"".join(pack(trace[0]) for trace in some), dtype=np.uint8),
                "logprobs": np.concatenate([trace[1] for trace in some]).astype(np.float16),
                "targets": np.concatenate([targets_of(trace) for trace in some]),
                "ends": np.cumsum([0] + [len(trace[0]) for trace in some]),
            }
            plain = io.BytesIO()
            np.savez(plain, **arrays)
            small = codec.compress(plain.getvalue(), asbytes=True)
            member = tarfile.TarInfo(f"{start // BATCH_SAMPLES:06d}.{plain.tell()}.zst")
            member.size = len(small)
            tar.addfile(member, io.BytesIO(small))
    with tarfile.open(path) as tar:
        members = [
            (member.offset_data, member.size, int(member.name.split(".")[1])) for member in tar
        ]
    mapped = np.memmap(path, np.uint8, "r")

    def batch(number: int) -> dict[str, NDArray[Any]]:
        offset, size, plain_size = members[number]
        small = pa.py_buffer(mapped[offset : offset + size])
        plain = codec.decompress(small, decompressed_size=plain_size, asbytes=True)
        with np.load(io.BytesIO(plain)) as arrays:
            return dict(arrays)

    def cut(arrays: dict[str, NDArray[Any]], number: int) -> Pair:
        begin, end = arrays["ends"][number : number + 2]
        ids = unpack(arrays["ids"], begin, end, k)
        return ids, arrays["logprobs"][begin:end].astype(np.float32)

    def one(number: int) -> Pair:
        return cut(batch(number // BATCH_SAMPLES), number % BATCH_SAMPLES)

    def every() -> Iterator[Pair]:
        for number in range(len(members)):
            arrays = batch(number)
            yield from (cut(arrays, index) for index in range(len(arrays["ends"]) - 1))

    return made("tar + zstd, float16 + 18-bit ids", traces, path.stat().st_size, one, every)


def pack(ids: NDArray[np.int32]) -> bytes:
    """Return ids [tokens, k] in ``ID_BITS`` each, k a multiple of four: nine bytes hold four."""
    assert ids.shape[1] % 4 == 0
    bits = (ids[..., None] >> np.arange(ID_BITS)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def unpack(packed: NDArray[np.uint8], begin: int, end: int, k: int) -> NDArray[np.int64]:
    """Return the ids of tokens ``begin`` to ``end``, int64 [tokens, k]: four strided passes."""
    row_bytes = k * ID_BITS // 8
    some = np.append(packed[begin * row_bytes : end * row_bytes], np.uint8(0))
    ids = np.empty((end - begin, k), dtype=np.int64)
    for lane in range(4):
        byte, shift = divmod(lane * ID_BITS, 8)
        words = np.ndarray((end - begin, k // 4), "<u4", some, byte, (row_bytes, 9))
        ids[:, lane::4] = (words >> np.uint32(shift)) & np.uint32((1 << ID_BITS) - 1)
    return ids


def dicts(folder: Path, traces: Sequence[Trace]) -> Store:
    """Write a ``datasets`` folder whose rows hold a list of dicts a token."""
    from datasets import Dataset, disable_progress_bars, load_from_disk

    disable_progress_bars()
    k, num_tokens = traces[0][0].shape[1], count_tokens(traces)
    texts = [f"{TOKEN_PREFIX}{token}" for trace in traces for token in trace[0].flat]
    values = np.concatenate([trace[1].reshape(-1) for trace in traces]).astype(np.float64)
    entries = pa.StructArray.from_arrays([pa.array(texts), pa.array(values)], ["token", "logprob"])
    of_tokens = pa.array(np.arange(num_tokens + 1, dtype=np.int32) * k)
    ends = np.cumsum([0] + [len(trace[0]) for trace in traces], dtype=np.int32)
    table = pa.table(
        {
            "sample_id": [f"s{number:06d}" for number in range(len(traces))],
            "target_ids": lists(ends, [targets_of(trace) for trace in traces]),
            "logprobs": pa.ListArray.from_arrays(
                ends, pa.ListArray.from_arrays(of_tokens, entries)
            ),
        }
    )
    Dataset(table).save_to_disk(folder)
    rows = load_from_disk(folder).select_columns(["logprobs"])

    def one(number: int) -> Pair:
        tokens = rows[number]["logprobs"]
        ids = [[int(entry["token"][len(TOKEN_PREFIX) :]) for entry in token] for token in tokens]
        logprobs = [[entry["logprob"] for entry in token] for token in tokens]
        return np.array(ids, dtype=np.int64), np.array(logprobs, dtype=np.float32)

    return made("dicts of token and log-prob", traces, bytes_under(folder), one)


def tape(root: Path, traces: Sequence[Trace], codec: str) -> Store:
    """Write and open a tape; the samples' own questions and hashes are not counted."""
    names = [f"s{number:06d}" for number in range(len(traces))]
    with TapeWriter(root, GroupInfo(group="samples", kind="samples")) as writer:
        for number, name in enumerate(names):
            sample = Sample(sample_id=name, row_index=number, audio=None, question="?")
            writer.add(sample_rows(sample, "0" * 64, 16_000))
    signals = {"topk": {"k": traces[0][0].shape[1], "codec": codec}}
    info = GroupInfo(group="textual", kind="textual", signals=signals)
    with TapeWriter(root, info) as writer:
        for name, trace in zip(names, traces, strict=True):
            ids, logprobs, tail = trace
            targets = targets_of(trace).astype(np.int64)
            topk = TopK(target_ids=targets, token_ids=ids, logprobs=logprobs, tail=tail)
            writer.add({"topk": [topk_row(name, 0, topk)]})
    opened = open_tape(root)

    def one(number: int) -> Pair:
        topk = opened[names[number]].signal(SIGNAL)
        assert isinstance(topk, TopK)
        return topk.token_ids, topk.logprobs

    num_bytes = bytes_under(root) - bytes_under(root / layout.group_dir("samples"))
    return made(f"the tape, {codec}", traces, num_bytes, one)
