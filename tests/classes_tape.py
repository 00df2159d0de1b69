"""A small sound tape of two acoustic sources: logits of classes, embeddings, kinds of states."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sound_tape
from sound_tape import HIDDEN, LAYERS, WIDTH, K, targets_of, topk_of

from cache_schema.maker import GroupInfo
from cache_schema.rows.classes import embedding_row, frame_logits_row, utterance_logits_row
from cache_schema.rows.values import hidden_row, topk_row
from cache_schema.signals import AUDIO_ROW
from cache_schema.writer import TapeWriter

LABELS = ["Speech", "Musik „laut“", "dog, bark"]
MOODS = ["calm", "angry"]
TIMES = np.array([[0, 0.1], [0.1, 0.2]], np.float32)
"""Of two frames."""
EMBEDDED = 5
QUARANTINED = ("s9", 9, "audio", "no sound in it")
ALL = ("samples", "descriptions", "textual", "acoustic", "wavlm")
ACOUSTIC = "shards/acoustic/000/w0-000000"
WAVLM = "shards/wavlm/000/w0-000000"

MAKERS = {
    **{name: sound_tape.MAKERS[name] for name in ("samples", "descriptions", "textual")},
    "acoustic": GroupInfo(
        group="acoustic",
        kind="acoustic",
        signals={
            "topk": {"k": K},
            "hidden": HIDDEN,
            "utterance_logits": {"labels": MOODS, "multi_label": False},
            "frame_logits": {"labels": LABELS, "multi_label": True},
            "embedding": {"width": EMBEDDED, "pooling": "classifier input"},
        },
        identity={"model_digest": "n", "tokenizer_digest": "t", "responses": "trace ids"},
    ),
    "wavlm": GroupInfo(
        group="wavlm",
        kind="acoustic",
        signals={
            "hidden": {"layers": [2], "width": 4, "dtype": "bfloat16"},
            "embedding": {"width": 2, "pooling": "x-vector"},
        },
        identity={"model_digest": "w"},
    ),
}


def logits_of(index: int) -> np.ndarray:
    """The logits of sample ``index``, float32 [2]."""
    return np.random.default_rng([index, 1]).normal(0, 4, len(MOODS)).astype(np.float32)


def frames_of(index: int) -> tuple[np.ndarray, np.ndarray]:
    """The logits and times of the frames of sample ``index``, of which the first has none."""
    count = index % 4
    edges_s = np.linspace(0, 0.25, count + 1, dtype=np.float32)
    logits = np.random.default_rng([index, 2]).normal(0, 4, (count, len(LABELS)))
    return logits.astype(np.float32), np.stack([edges_s[:-1], edges_s[1:]], axis=1)


def embedding_of(index: int, width: int = EMBEDDED) -> np.ndarray:
    """The embedding of sample ``index``, float32 [width]."""
    return np.random.default_rng([index, 3, width]).normal(0, 1, width).astype(np.float32)


def states_of(index: int, kind: str) -> dict[int, np.ndarray]:
    """The states of sample ``index``: of 2 audio positions, of its response, or of 3 frames."""
    count = {"audio": 2, "token": len(targets_of(index)), "frame": 3}[kind]
    layers, width = ([2], 4) if kind == "frame" else (LAYERS, WIDTH)
    rng = np.random.default_rng([index, *kind.encode()])
    values = {n: rng.integers(-8, 8, (count, width)) for n in layers}  # exact as bfloat16
    return {n: rows.astype(np.float32) for n, rows in values.items()}


def add(writer: TapeWriter, group: str, index: int) -> None:
    """Add what a group records of sample ``index``, made from its number alone."""
    name, targets = f"s{index}", targets_of(index)
    if group == "acoustic":
        times_s = np.array([[0, 0.1], [0.1, 0.2]], np.float32)
        audio = hidden_row(name, AUDIO_ROW, "audio", (0, 0), None, times_s)
        token = hidden_row(name, 0, "token", (0, 0), targets, None)
        rows = {
            "topk": [topk_row(name, 0, topk_of(np.random.default_rng(index), targets))],
            "utterance_logits": [utterance_logits_row(name, logits_of(index))],
            "frame_logits": [frame_logits_row(name, *frames_of(index))],
            "embedding": [embedding_row(name, embedding_of(index))],
        }
        states = [(audio, states_of(index, "audio")), (token, states_of(index, "token"))]
        writer.add(rows, states)
    elif group == "wavlm":
        times_s = np.array([[0, 0.1], [0.05, 0.15], [0.1, 0.2]], np.float32)
        frame = hidden_row(name, AUDIO_ROW, "frame", (0, 0), None, times_s)
        rows = {"embedding": [embedding_row(name, embedding_of(index, 2))]}
        writer.add(rows, [(frame, states_of(index, "frame"))])
    else:
        sound_tape.add(writer, group, index)


def make(
    root: Path, indexes: Iterable[int] = range(5), groups: Iterable[str] = ALL, **options: Any
) -> Path:
    """Write a tape, all of a group in one shard by default."""
    numbers = list(indexes)
    for group in groups:
        with TapeWriter(root, MAKERS[group], **options) as writer:
            for index in numbers:
                add(writer, group, index)
    return root
