"""A small tape with every group that deep verification finds nothing wrong with, and its damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cache_schema.codecs.arrow_file import to_table, write_table
from cache_schema.codecs.pcm import audio_sha256
from cache_schema.codecs.sealed_json import seal
from cache_schema.maker import GroupInfo
from cache_schema.rows.values import hidden_row, sample_rows, topk_row, trace_row
from cache_schema.shard import Storage
from cache_schema.signals import AUDIO_ROW, SCHEMAS
from cache_schema.types import Sample, TopK, Trace
from cache_schema.writer import TapeWriter

K, WIDTH, LAYERS = 3, 8, [1, 3]
HIDDEN = {"layers": LAYERS, "width": WIDTH, "dtype": "bfloat16"}
MAKERS = {
    "samples": GroupInfo(group="samples", kind="samples", identity={"dataset_digest": "d"}),
    "descriptions": GroupInfo(
        group="descriptions", kind="descriptions", identity={"method": "columns"}
    ),
    "textual": GroupInfo(
        group="textual",
        kind="textual",
        signals={"trace": {}, "topk": {"k": K}, "hidden": HIDDEN},
        identity={"model_digest": "m", "tokenizer_digest": "t"},
        notes={"model": "tiny", "created": "monday"},
    ),
    "acoustic": GroupInfo(
        group="acoustic",
        kind="acoustic",
        signals={"topk": {"k": K}, "hidden": HIDDEN},
        identity={"model_digest": "n", "tokenizer_digest": "t", "responses": "trace ids"},
    ),
}
ALL = tuple(MAKERS)


@contextmanager
def uncounted(_title: str, _total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _count: None


def targets_of(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 1 << 18, 1 + index % 4)


def topk_of(rng: np.random.Generator, targets: np.ndarray) -> TopK:
    shares = -np.sort(-rng.dirichlet(np.ones(K + 2), size=len(targets)), axis=1)
    return TopK(
        target_ids=targets,
        token_ids=np.argsort(rng.random((len(targets), 50)), axis=1)[:, :K],
        logprobs=np.log(shares[:, :K]).astype(np.float32),
        tail=shares[:, K:].sum(axis=1).astype(np.float32),
    )


def add(writer: TapeWriter, group: str, index: int) -> None:
    """Add what a group records of sample ``index``, made from its number alone."""
    rng = np.random.default_rng([index, *group.encode()])
    name, targets = f"s{index}", targets_of(index)
    if group == "samples":
        audio = rng.normal(0, 0.1, 4000 + index).astype(np.float32)
        item = Sample(
            sample_id=name,
            row_index=index,
            audio=audio,
            question=f"how many, {index}?",
            choices=("one", "two"),
            answer="two",
            metadata={"speaker": "ann"},
        )
        writer.add(sample_rows(item, audio_sha256(audio), len(audio)))
    elif group == "descriptions":
        writer.add({"descriptions": [{"sample_id": name, "description": f"sound {index}"}]})
    elif group == "textual":
        trace = Trace(
            text=f"trace {index}",
            token_ids=targets,
            prompt_token_ids=np.arange(3),
            finish_reason="stop",
            answer="two",
            correct=index % 2 == 0,
            logprob=-1.5,
        )
        states = {n: rng.normal(0, n, (len(targets), WIDTH)).astype(np.float32) for n in LAYERS}
        rows = {
            "trace": [trace_row(name, 0, trace)],
            "topk": [topk_row(name, 0, topk_of(rng, targets))],
        }
        writer.add(rows, [(hidden_row(name, 0, "token", (0, 0), targets, None), states)])
    else:
        times_s = np.array([[0, 0.1], [0.1, 0.2]], np.float32)
        states = {n: rng.normal(0, n, (2, WIDTH)).astype(np.float32) for n in LAYERS}
        place = hidden_row(name, AUDIO_ROW, "audio", (0, 0), None, times_s)
        writer.add({"topk": [topk_row(name, 0, topk_of(rng, targets))]}, [(place, states)])


def make(
    root: Path,
    indexes: Iterable[int] = range(5),
    groups: Iterable[str] = ALL,
    *,
    shard_samples: int = 2,
    storage: Storage | None = None,
    changes: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write a tape; ``changes`` are fields of every maker's file."""
    numbers = list(indexes)
    for group in groups:
        info = replace(MAKERS[group], **(changes or {}))
        with TapeWriter(
            root, info, shard_samples=shard_samples, storage=storage, **options
        ) as writer:
            for index in numbers:
                add(writer, group, index)
    return root


def edit_line(root: Path, path: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest line of a shard, sealed again, and its copy in the shard."""
    for manifest in (root / "manifest").glob("*.jsonl"):
        lines = []
        for line in manifest.read_bytes().splitlines(keepends=True):
            values = json.loads(line)
            if values.get("path") == path:
                del values["xxh3_64"]
                change(values)
                line = seal(values)
                (root / path / "shard.json").write_bytes(line)
            lines.append(line)
        manifest.write_bytes(b"".join(lines))
    shutil.rmtree(root / "index", ignore_errors=True)


def edit_table(
    root: Path, path: str, table: str, change: Callable[[list[dict[str, Any]]], Any]
) -> None:
    """Change the rows of a table, as a faulty program would that seals what it writes."""
    file = root / path / f"{table}.arrow"
    rows = pa.ipc.open_file(file).read_all().to_pylist()
    change(rows)
    file.unlink()
    record = write_table(file, to_table(SCHEMAS[table], rows))

    def committed(line: dict[str, Any]) -> None:
        line["files"][file.name] = record
        line["rows"][table] = len(rows)

    edit_line(root, path, committed)
