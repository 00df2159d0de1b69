"""A tape with every group, table and profile, a few kilobytes small, and every value read back."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema import Tape, open_tape
from cache_schema.codecs.pcm import audio_sha256
from cache_schema.maker import GroupInfo
from cache_schema.rows.values import hidden_row, sample_rows, sampled_row, topk_row, trace_row
from cache_schema.shard import Storage
from cache_schema.signals import AUDIO_ROW, STATES_PROFILES
from cache_schema.types import Hidden, Sample, Sampled, TopK, Trace
from cache_schema.writer import TapeWriter, complete_index

K = 3
DRAWS = 20
WIDTH = 8
LAYERS = (1, 3)
PROFILES = STATES_PROFILES

GROUPS = {
    "samples": GroupInfo(
        group="samples", kind="samples", identity={"dataset_digest": "d"}, notes={"by": "a test"}
    ),
    "descriptions": GroupInfo(
        group="descriptions", kind="descriptions", identity={"method": "columns"}
    ),
    "textual": GroupInfo(
        group="textual",
        kind="textual",
        signals={
            "trace": {},
            "topk": {"k": K},
            "sampled": {"num_draws": DRAWS},
            "hidden": {"layers": list(LAYERS), "width": WIDTH, "dtype": "bfloat16"},
        },
        identity={"model_digest": "m", "tokenizer_digest": "t"},
    ),
    "acoustic": GroupInfo(
        group="acoustic",
        kind="acoustic",
        signals={
            "topk": {"k": K},
            "hidden": {"layers": list(LAYERS), "width": WIDTH, "dtype": "bfloat16"},
        },
        identity={"model_digest": "n", "tokenizer_digest": "t"},
    ),
}
QUARANTINED = ("q0", 1000, "audio", "cannot decode")


def storage_of(profile: str) -> Storage:
    """Small profiles go with compact top-k, so that three tapes have every table."""
    return Storage(profile=profile, topk="hot" if profile == "hot" else "compact")


def topk_of(rng: np.random.Generator, targets: np.ndarray) -> TopK:
    """A distribution a token, exact in the tail."""
    shares = -np.sort(-rng.dirichlet(np.ones(K + 2), size=len(targets)).reshape(-1, K + 2), axis=1)
    return TopK(
        target_ids=targets,
        token_ids=rng.integers(0, 1 << 20, (len(targets), K)),
        logprobs=np.log(shares[:, :K]).astype(np.float32),
        tail=shares[:, K:].sum(axis=1).astype(np.float32),
    )


def sampled_of(rng: np.random.Generator, targets: np.ndarray) -> Sampled:
    """Two ids a token."""
    first = rng.integers(1, DRAWS, len(targets))
    ids = np.sort(np.stack([rng.integers(0, 1 << 19, len(targets)), first + (1 << 19)], axis=1))
    return Sampled(
        target_ids=targets,
        token_ids=ids.reshape(-1),
        counts=np.stack([first, DRAWS - first], axis=1).reshape(-1),
        offsets=np.arange(len(targets) + 1) * 2,
        num_draws=DRAWS,
    )


def states_of(rng: np.random.Generator, count: int) -> dict[int, np.ndarray]:
    """A layer with outlier channels, and one without."""
    outliers = np.where(np.arange(WIDTH) == 2, 60.0, 1.0)
    return {n: (rng.normal(0, n, (count, WIDTH)) * outliers).astype(np.float32) for n in LAYERS}


def add(writer: TapeWriter, group: str, index: int) -> None:
    """Add what a group records of sample ``index``, made from its number alone."""
    rng = np.random.default_rng([index, *group.encode()])
    name = f"s{index}"
    targets = rng.integers(0, 1 << 18, index % 4)
    if group == "samples":
        audio = rng.normal(0, 0.1, 40 + index).astype(np.float32)
        item = Sample(
            sample_id=name,
            row_index=index,
            audio=audio,
            question=f"how many, {index}?",
            choices=("one", "two"),
            answer="two",
            metadata={"speaker": "ann", "index": index},
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
            correct=(True, False, None)[index % 3],
            logprob=-1.5,
        )
        place = hidden_row(name, 0, "token", (0, 0), targets, None)
        rows = {
            "trace": [trace_row(name, 0, trace)],
            "topk": [topk_row(name, 0, topk_of(rng, targets))],
            "sampled": [sampled_row(name, 0, sampled_of(rng, targets))],
        }
        writer.add(rows, [(place, states_of(rng, len(targets)))])
    else:
        times_s = (np.arange(6, dtype=np.float32) / 3000).reshape(3, 2)
        place = hidden_row(name, AUDIO_ROW, "audio", (0, 0), None, times_s)
        rows = {"topk": [topk_row(name, 0, topk_of(rng, targets))]}
        writer.add(rows, [(place, states_of(rng, 3))])


def fill(
    root: Path,
    profile: str = "hot",
    groups: Iterable[str] = tuple(GROUPS),
    indexes: Iterable[int] = range(3),
    **options: Any,
) -> None:
    """Record what is not recorded yet; running it again continues, as the command does."""
    for group in groups:
        exists = (root / "dataset.json").exists()
        tape = open_tape(root) if exists else None
        done = tape.recorded(group) if tape else set()
        bad = {q.sample_id for q in tape.quarantined} if tape else set()
        size = {"shard_samples": 2, "storage": storage_of(profile), **options}
        with TapeWriter(root, GROUPS[group], **size) as writer:
            for index in indexes:
                if f"s{index}" not in done:
                    add(writer, group, index)
            writer.seal()
            first = options.get("writer", "w0") == "w0"
            if first and group == "samples" and QUARANTINED[0] not in bad:
                writer.quarantine(*QUARANTINED)
        complete_index(root)


def make(root: Path, profile: str = "hot", **options: Any) -> Path:
    """Write a whole tape."""
    fill(root, profile, **options)
    return root


def plain(value: Any) -> Any:
    """Return a value in a form that ``==`` compares exactly, NaN included."""
    if isinstance(value, np.ndarray):
        content = np.ascontiguousarray(value).tobytes()
        return value.dtype.str, value.shape, hashlib.sha256(content).hexdigest()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def everything(tape: Tape) -> dict[str, Any]:
    """Read every value of a tape the way training does; return it in a form to compare."""
    found: dict[str, Any] = {}
    for row in tape:
        values: dict[str, Any] = {
            "row": (row.row_index, row.question, row.choices, row.answer, dict(row.metadata)),
            "audio": row.audio,
            "sha256": row.audio_sha256,
            "description": row.description,
            "traces": [vars(trace) for trace in row.traces],
            "rejected": [vars(rejected) for rejected in row.rejected],
            "heard": {column: asdict(heard) for column, heard in row.heard.items()},
        }
        for name in row.signals:
            values[name] = vars(signal := row[name])
            if isinstance(signal, Hidden):
                place = row.hidden_place(name)
                out = np.empty((place.count, place.states.width), np.uint16)
                place.read_into(place.layers[0], out)
                values[f"{name} raw"] = out
            for trace in row.traces_of(name):
                values[f"{name} {trace}"] = vars(row.signal(name, trace))
        found[row.sample_id] = plain(values)
    return {
        "licence": tape.info["licence"],
        "groups": {name: vars(group) for name, group in tape.groups.items()},
        "quarantined": sorted(sorted(map(str, vars(q).items())) for q in tape.quarantined),
        "order": tape.sample_ids,
        "rows": found,
    }


def content(root: Path | str) -> dict[str, Any]:
    """Open a tape and read everything."""
    return everything(open_tape(root))


def read_all(root: str) -> int:
    """Read everything; return how many rows there are."""
    return len(content(root)["rows"])


def leftovers(root: Path) -> list[str]:
    """Return what no manifest line, group or index accounts for."""
    tape = open_tape(root)
    known = {"dataset.json", "index/lock", *(f"groups/{name}.json" for name in tape.groups)}
    folders = set()
    for shards in tape.shards.values():
        for shard in shards:
            known |= {f"{shard.record.path}/{name}" for name in [*shard.record.files, "shard.json"]}
    for name in known:
        folders |= {str(parent) for parent in Path(name).parents}
    known |= {f"manifest/{p.name}" for p in (root / "manifest").glob("w*.jsonl")}
    known |= {f"manifest/{p.name}" for p in (root / "manifest").glob("w*.lock")}
    indexes = sorted(f"index/{p.name}" for p in (root / "index").glob("*.arrow"))
    known |= set(indexes[:1])
    folders |= {"manifest", "index", "groups", "shards"}
    folders |= {f"shards/{group}" for group in tape.groups}
    found = {str(path.relative_to(root)): path.is_dir() for path in root.rglob("*")}
    odd = [name for name, is_dir in found.items() if name not in (folders if is_dir else known)]
    return sorted(odd) + sorted(f"missing {name}" for name in known - found.keys())


@contextmanager
def fast_folder() -> Iterator[Path]:
    """A temporary folder in memory where there is one: fsync costs nothing there."""
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="teachertape-test-", dir=where) as folder:
        yield Path(folder).resolve()
