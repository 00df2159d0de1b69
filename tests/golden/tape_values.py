"""Everything a tape holds, as JSON values."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema import open_tape


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
    values |= {"rejected": [vars(one) for one in row.rejected]} if row.rejected else {}
    if row.heard:
        values["heard"] = {column: dataclasses.asdict(one) for column, one in row.heard.items()}
    for name in row.signals:
        values[name] = [_plain(vars(row.signal(name, number))) for number in row.traces_of(name)]
    return values


ADDED = {"origin": "free", "draw": 0, "seed": 0}
"""Fields of a trace that tapes of the first release have not, and what they mean there."""


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in fields.items()
        if name not in ADDED or value != ADDED[name]
    }
