"""A small sound tape with what ``sound_tape`` lacks: lens, text states, rejected traces, heard."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sound_tape
from sound_tape import WIDTH, K, targets_of, topk_of

from cache_schema.maker import GroupInfo
from cache_schema.rows.values import (
    heard_row,
    hidden_row,
    lens_row,
    rejected_row,
    topk_row,
    trace_row,
)
from cache_schema.shard import Storage
from cache_schema.signals import AUDIO_ROW, ORIGINS
from cache_schema.types import Heard, Lens, Rejected, Segment, Trace
from cache_schema.writer import TapeWriter

LENS_LAYERS = (1, 3)
ENCODER_LAYERS = (2,)
ALL = ("samples", "descriptions", "heard_transcript", "textual", "encoder", "acoustic")
TEXTUAL = "shards/textual/000/w0-000000"
HEARD = "shards/heard_transcript/000/w0-000000"
ENCODER = "shards/encoder/000/w0-000000"


def makers(codec: str) -> dict[str, GroupInfo]:
    """The groups' makers; ``codec`` is of top-k and of the lens."""
    topk = {"k": K, "codec": codec}
    lens = {"layers": list(LENS_LAYERS), **topk}
    return {
        **{name: sound_tape.MAKERS[name] for name in ("samples", "descriptions")},
        "heard_transcript": GroupInfo(
            group="heard_transcript", kind="heard", identity={"model_digest": "ear"}
        ),
        "textual": GroupInfo(
            group="textual",
            kind="textual",
            signals={"trace": {}, "topk": topk, "lens": lens},
            identity={"model_digest": "m"},
        ),
        "encoder": GroupInfo(
            group="encoder",
            kind="textual",
            signals={
                "hidden": {"layers": list(ENCODER_LAYERS), "width": WIDTH, "dtype": "bfloat16"}
            },
            identity={"model_digest": "e"},
        ),
        "acoustic": GroupInfo(
            group="acoustic",
            kind="acoustic",
            signals={"topk": topk, "lens": lens},
            identity={"model_digest": "a"},
        ),
    }


def lens_of(rng: np.random.Generator, targets: np.ndarray) -> Lens:
    """A distribution for each token and layer."""
    shape = (len(targets), len(LENS_LAYERS))
    flat = topk_of(rng, np.zeros(len(targets) * len(LENS_LAYERS), np.int64))
    return Lens(
        target_ids=targets,
        layers=LENS_LAYERS,
        token_ids=flat.token_ids.reshape(*shape, K),
        logprobs=flat.logprobs.reshape(*shape, K),
        tail=flat.tail.reshape(shape),
    )


def trace_of(index: int) -> Trace:
    """The trace of sample ``index``; their origins take turns."""
    return Trace(
        text=f"trace {index}",
        token_ids=targets_of(index),
        prompt_token_ids=np.arange(3),
        finish_reason="stop",
        answer="two",
        correct=True,
        logprob=-1.5,
        origin=ORIGINS[index % 3],
        draw=index % 3,
        seed=(1 << 63) - 1 - index,
    )


def rejected_of(index: int, number: int) -> Rejected:
    """The trace that was not kept, of sample ``index``."""
    return Rejected(
        draw=number + 1,
        text=f"no {number} of {index}" + " and so on" * 20,
        finish_reason="length" if number else "stop",
        answer="one",
        correct=None if number else False,
        logprob=-2.5,
        origin="free",
        seed=-index,
        reason=("wrong answer", "truncated", "out of words")[number],
    )


def heard_of(index: int) -> Heard:
    """What was heard in sample ``index``; nothing in the first."""
    words = ("um", "drei", "vier € plus", "five")[: index % 4]
    segments = [
        Segment(start_s=0.05 * number, end_s=0.05 * number + 0.05, text=word)
        for number, word in enumerate(words)
    ]
    return Heard(text=" ".join(words), segments=tuple(segments))


def add(writer: TapeWriter, group: str, index: int) -> None:
    """Add what a group records of sample ``index``: sample 4 has rejected traces only.

    An acoustic teacher, which records no states here, has nothing of it.
    """
    rng = np.random.default_rng([index, *group.encode()])
    name, targets = f"s{index}", targets_of(index)
    if group in ("samples", "descriptions"):
        sound_tape.add(writer, group, index)
    elif group == "heard_transcript":
        writer.add({"heard": [heard_row(name, heard_of(index))]})
    elif group == "encoder":
        ids = np.array([101, *targets, 102])
        states = {n: rng.normal(0, n, (len(ids), WIDTH)) for n in ENCODER_LAYERS}
        place = hidden_row(name, AUDIO_ROW, "text", (0, 0), ids, None)
        writer.add({}, [(place, {n: s.astype(np.float32) for n, s in states.items()})])
    else:
        rows: dict[str, list[dict[str, Any]]] = {}
        if group == "textual":
            count = 3 if index == 4 else index % 2
            rows["rejected"] = [rejected_row(name, n, rejected_of(index, n)) for n in range(count)]
        if index != 4:
            rows["topk"] = [topk_row(name, 0, topk_of(rng, targets))]
            rows["lens"] = [lens_row(name, 0, lens_of(rng, targets))]
            if group == "textual":
                rows["trace"] = [trace_row(name, 0, trace_of(index))]
        if any(rows.values()):
            writer.add(rows)


def make(
    root: Path,
    indexes: Iterable[int] = range(5),
    groups: Iterable[str] = ALL,
    codec: str = "hot",
    **options: Any,
) -> Path:
    """Write a tape, all of a group in one shard by default."""
    numbers = list(indexes)
    for group in groups:
        info = makers(codec)[group]
        with TapeWriter(root, info, storage=Storage(topk=codec), **options) as writer:
            for index in numbers:
                add(writer, group, index)
    return root
