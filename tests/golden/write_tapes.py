"""How the golden tapes of a version were made: ``python tests/golden/write_tapes.py FOLDER``.

It is kept to show what is in them, and for the first tape of a new version. Tapes that are there
are never made again: what they hold is what a later reader must still read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema import open_tape
from cache_schema.codecs.pcm import audio_sha256
from cache_schema.maker import (
    GroupInfo,
)
from cache_schema.rows import hidden_row, sample_rows, sampled_row, topk_row, trace_row
from cache_schema.shard import Storage
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import Sample, Sampled, TopK, Trace
from cache_schema.writer import TapeWriter

WIDTH, K, DRAWS = 8, 4, 10
LAYERS = (0, 12)
TAPES = {
    "hot": Storage(),
    "archive": Storage(profile="archive", states_dtype="float16"),
    "lossy2x": Storage(profile="lossy2x", topk="compact"),
}


def main(folder: Path) -> None:
    """Write every tape and what it holds."""
    for name, storage in TAPES.items():
        root = folder / name
        if root.exists():
            raise SystemExit(f"{root} is there; a golden tape is never made again")
        write(root, storage)
        text = json.dumps(values_of(root), indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def write(root: Path, storage: Storage) -> None:
    """Write one tape: three samples, the last without a trace, and one quarantined."""
    samples = GroupInfo(group="samples", kind="samples", identity={"dataset_digest": "golden"})
    with TapeWriter(root, samples, licence="CC0-1.0", shard_samples=2) as writer:
        for index in range(3):
            audio = sample(index).audio
            writer.add(sample_rows(sample(index), audio_sha256(audio), audio.size))
        writer.quarantine("broken", 3, "audio", "no sound in it")
    descriptions = GroupInfo(group="descriptions", kind="descriptions", identity={"method": "hand"})
    with TapeWriter(root, descriptions) as writer:
        for index in range(3):
            row = {"sample_id": f"golden-{index}", "description": f"Sprecher sagt: „{index}“"}
            writer.add({"descriptions": [row]})
    facts = {"layers": list(LAYERS), "width": WIDTH, "dtype": storage.states_dtype}
    hidden = {**facts, "profile": storage.profile}
    textual = GroupInfo(
        group="textual",
        kind="textual",
        signals={
            "trace": {},
            "topk": {"k": K, "codec": storage.topk},
            "sampled": {"num_draws": DRAWS},
            "hidden": hidden,
        },
        identity={"model_digest": "golden text"},
        notes={"model": "golden"},
    )
    with TapeWriter(root, textual, storage=storage, shard_samples=1) as writer:
        for index in range(2):
            writer.add(*spoken(index))
    acoustic = GroupInfo(
        group="acoustic", kind="acoustic", signals={"hidden": hidden}, identity={"model": "ear"}
    )
    with TapeWriter(root, acoustic, storage=storage, writer="w1") as writer:
        for index in range(3):
            writer.add({}, [heard(index)])


def sample(index: int) -> Sample:
    """Return sample ``index``; the audio of the second is no 16-bit words."""
    ramp = np.arange(600 + index, dtype=np.float32) / 1024 - 0.1 * (index == 1)
    return Sample(
        sample_id=f"golden-{index}",
        row_index=index,
        audio=ramp.astype(np.float32),
        question="Wie viele?",
        choices=("one", "zwei", "三"),
        answer="三",
        metadata={"speaker": "ann", "index": index, "nested": {"a": [1, None]}},
    )


def spoken(index: int) -> tuple[dict[str, list[dict[str, Any]]], list[Any]]:
    """Return the textual teacher's rows of sample ``index``: two traces, one of them empty."""
    rows: dict[str, list[dict[str, Any]]] = {"trace": [], "topk": [], "sampled": []}
    hidden = []
    for number, tokens in enumerate((3 + index, 0)):
        rng = np.random.default_rng(10 * index + number)
        ids = np.array([131_071, 131_072, 262_143, (1 << 20) - 1, 0])[:tokens]
        kept = np.array([0.5, 0.25, 0.125, 0.0625])
        trace = Trace(
            text=f"<RESPONSE>{number}</RESPONSE>",
            token_ids=ids,
            prompt_token_ids=np.arange(2),
            finish_reason="length" if number else "stop",
            answer=str(number),
            correct=(True, None)[number],
            logprob=-1.25,
        )
        topk = TopK(
            target_ids=ids,
            token_ids=np.tile([5, 131_072, (1 << 20) - 1, 7], (tokens, 1)),
            logprobs=np.tile(np.log(kept), (tokens, 1)).astype(np.float32),
            tail=np.full(tokens, 0.0625, np.float32),
        )
        drawn = Sampled(
            target_ids=ids,
            token_ids=np.tile([3, 70_000, (1 << 20) - 1], tokens),
            counts=np.tile([7, 2, 1], tokens),
            offsets=np.arange(tokens + 1) * 3,
            num_draws=DRAWS,
        )
        name = f"golden-{index}"
        rows["trace"].append(trace_row(name, number, trace))
        rows["topk"].append(topk_row(name, number, topk))
        rows["sampled"].append(sampled_row(name, number, drawn))
        states = {n: (n + rng.normal(0, 2, (tokens, WIDTH))).astype(np.float32) for n in LAYERS}
        hidden.append((hidden_row(name, number, "token", (0, 0), ids, None), states))
    return rows, hidden


def heard(index: int) -> Any:
    """Return the acoustic teacher's states of sample ``index``."""
    rng = np.random.default_rng(100 + index)
    count = 2 + index
    edges_s = np.linspace(0, 0.0375, count + 1, dtype=np.float32)
    times_s = np.stack([edges_s[:-1], edges_s[1:]], axis=1)
    states = {n: rng.normal(0, 3, (count, WIDTH)).astype(np.float32) for n in LAYERS}
    return hidden_row(f"golden-{index}", AUDIO_ROW, "audio", (0, 0), None, times_s), states


def values_of(root: Path) -> dict[str, Any]:
    """Return everything a tape holds as JSON values; floats exactly."""
    tape = open_tape(root)
    return {
        "licence": tape.info["licence"],
        "signals": list(tape.signals),
        "quarantined": [vars(q) for q in tape.quarantined],
        "samples": {row.sample_id: _values(row) for row in tape},
    }


def _values(row: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        name: getattr(row, name)
        for name in ("row_index", "question", "answer", "audio_sha256", "description")
    }
    values |= {"choices": list(row.choices), "metadata": dict(row.metadata)}
    values["audio"] = row.audio.tolist()
    for name in row.signals:
        many = max(len(row.traces), 1) if name.startswith("textual/") else 1
        values[name] = [_plain(vars(row.signal(name, number))) for number in range(many)]
    return values


ADDED = {"origin": "free", "draw": 0, "seed": 0}
"""Fields of a trace that tapes of the first release have not, and what they mean there."""


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in fields.items()
        if name not in ADDED or value != ADDED[name]
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
