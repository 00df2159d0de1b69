"""What every step shares: which samples are left, who writes, and what happens to the bad ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cache_schema import Tape, TapeRow, open_tape
from cache_schema.console import say
from cache_schema.errors import QuarantineError, TapeError
from cache_schema.maker import (
    GroupInfo,
    refuse_other_maker,
)
from cache_schema.shard import Storage
from cache_schema.writer import TapeWriter
from pipeline.recipe import ExtractRecipe

STEPS = ("ingest", "textualize", "textual", "acoustic")


@dataclass
class Failures:
    """Samples a step could not record; they are put on the tape only if few enough.

    Attributes:
        step: which step.
        max_fraction: how large a part of the samples may fail.
        total: this worker's samples, those of earlier runs included.
        before: how many of them earlier runs quarantined.
        items: sample id, row, reason and detail of each that failed now.
    """

    step: str
    max_fraction: float
    total: int
    before: int
    items: list[tuple[str, int, str, str]] = field(default_factory=list)

    def add(self, sample_id: str, row_index: int, reason: str, detail: str) -> None:
        """Remember one."""
        self.items.append((sample_id, row_index, reason, detail))

    def settle(self, writer: TapeWriter) -> None:
        """Quarantine the failed samples, or fail the step when they are too many.

        Raises:
            QuarantineError: more than ``max_fraction`` of the samples failed.
        """
        if not self.items:
            return
        shown = "\n".join(f"  {i} (row {r}): {why}: {what}" for i, r, why, what in self.items[:5])
        more = f"\n  ... and {len(self.items) - 5} more" if len(self.items) > 5 else ""
        failed = self.before + len(self.items)
        if failed > self.max_fraction * self.total:
            raise QuarantineError(
                f"{self.step}: {failed} of {self.total} samples failed, more than the "
                f"{self.max_fraction:.1%} allowed (--set failures.max_fraction=...):\n"
                f"{shown}{more}\n"
                "What succeeded is on the tape; mend the rest and run the same command again."
            )
        for sample_id, row_index, reason, detail in self.items:
            writer.quarantine(sample_id, row_index, reason, detail)
        say(f"{self.step}: quarantined {len(self.items)} of {self.total} samples:\n{shown}{more}")


def failures_of(step: str, group: str, tape: Tape, recipe: ExtractRecipe) -> Failures:
    """Return the count of a step over this worker's samples, earlier runs' failures included."""
    before = [q for q in tape.quarantined if q.group == group and recipe.is_mine(q.row_index)]
    total = sum(recipe.is_mine(row.row_index) for row in tape)
    return Failures(step, recipe.failures.max_fraction, total, len(before))


def pending(tape: Tape, info: GroupInfo, recipe: ExtractRecipe) -> list[TapeRow]:
    """Return this worker's samples that a group has neither recorded nor quarantined.

    Args:
        tape: the tape as it is.
        info: who would add to the group.
        recipe: says which samples are this worker's.

    Raises:
        ProvenanceError: the group was recorded by another maker or with other settings.
        TapeError: the tape holds no samples yet.
    """
    if len(tape) == 0:
        raise TapeError(f"{tape.location}: no samples yet; run the ingest step first")
    if info.group in tape.groups:
        refuse_other_maker(tape.groups[info.group], info)
    settled = tape.recorded(info.group)
    settled |= {q.sample_id for q in tape.quarantined if q.group == info.group}
    limit = recipe.dataset.limit or math.inf
    return [
        row
        for row in tape
        if row.sample_id not in settled and row.row_index < limit and recipe.is_mine(row.row_index)
    ]


def open_for(recipe: ExtractRecipe) -> Tape:
    """Open the tape a step reads from and adds to."""
    return open_tape(recipe.tape.out)


def writer_for(recipe: ExtractRecipe, info: GroupInfo) -> AbstractContextManager[TapeWriter]:
    """Return the writer of a group under this recipe."""
    return TapeWriter(
        Path(recipe.tape.out),
        info,
        licence=recipe.tape.licence,
        writer=recipe.writer,
        storage=Storage(
            states_dtype=recipe.tape.states_dtype,
            profile=recipe.tape.profile,
            topk=recipe.tape.topk_codec,
        ),
        shard_bytes=recipe.tape.shard_mb << 20,
        shard_samples=recipe.tape.shard_samples,
    )


def kept_logits(step: str, top_k: int, vocab_size: int) -> int:
    """Return how many logits a token to keep: ``top_k``, or all of a smaller vocabulary."""
    if top_k > vocab_size:
        say(f"{step}: --top-k {top_k} exceeds the vocabulary, all {vocab_size} logits are kept")
    return min(top_k, vocab_size)


def notes(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the notes of a group: what may differ between runs."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {**extra, "software": f"teachertape {version('teachertape')}", "created": now}


def seed_of(seed: int, sample_id: str) -> int:
    """Return the seed of one sample: the same in any order, batch or process; 31 bits."""
    text = f"{seed}/{sample_id}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "little") >> 1
