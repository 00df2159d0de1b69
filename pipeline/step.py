"""What every step shares: which samples are left, who writes, and what happens to the bad ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema import Tape, TapeRow, open_tape
from cache_schema.commands.console import say
from cache_schema.errors import ModelError, QuarantineError, TapeError
from cache_schema.maker import (
    GroupInfo,
    refuse_other_maker,
)
from cache_schema.parts.pulled import own_name
from cache_schema.shard import Storage
from cache_schema.types import TEXT_SOURCE
from cache_schema.writer import TapeWriter
from pipeline.cluster.slots import taking_a_slot
from pipeline.recipe import ExtractRecipe

STEPS = ("ingest", "textualize", "textual", "acoustic")
_GROUPS = {"ingest": "samples", "textualize": "descriptions", "textual": TEXT_SOURCE}
_SHOWN = 5
"""Failed samples named in a message."""

_ENOUGH = 16
"""Failures of one run after which it may stop early: a small dataset is gone through and all of its
failures are known at once, a large one is not worked through in vain."""

_IN_MEMORY = 1 << 20
"""Bytes of failures kept in memory."""


class Failures:
    """Samples a step could not record; they are put on the tape only if few enough.

    They wait in a temporary file, in memory while it is small.

    Args:
        step: which step.
        max_fraction: how large a part of the samples may fail.
        total: this worker's samples, those of earlier runs included.
        before: how many of them earlier runs quarantined.
    """

    def __init__(self, step: str, max_fraction: float, total: int, before: int) -> None:
        self._step, self._max_fraction = step, max_fraction
        self._total, self._before = total, before
        # the rows themselves are part of what made the samples: changed ones are another tape's
        self._what = "the recordings (not what lists them)" if step == "ingest" else "the rest"
        self._count = 0
        self._reasons: Counter[str] = Counter()
        self._shown: list[str] = []
        self._waiting = SpooledTemporaryFile(  # noqa: SIM115 - closed with this object
            max_size=_IN_MEMORY, mode="w+", encoding="utf-8"
        )
        weakref.finalize(self, self._waiting.close)

    @property
    def count(self) -> int:
        """Failures of this run."""
        return self._count

    def add(self, sample_id: str, row_index: int, reason: str, detail: str) -> None:
        """Remember one.

        Raises:
            QuarantineError: more than ``max_fraction`` of the samples failed, so that nothing the
                rest may bring can change it, and ``_ENOUGH`` of them in this run.
        """
        sample_id, detail = _in_utf8(sample_id), _in_utf8(detail)
        self._count += 1
        self._reasons[reason] += 1
        if len(self._shown) < _SHOWN:
            self._shown.append(f"  {sample_id} (row {row_index}): {reason}: {detail}")
        self._waiting.write(json.dumps((sample_id, row_index, reason, detail)) + "\n")
        if self._count >= _ENOUGH:
            self._refuse_too_many("The step stopped there. ")

    def settle(self, writer: TapeWriter) -> None:
        """Quarantine the failed samples, or fail the step when they are too many.

        Raises:
            QuarantineError: more than ``max_fraction`` of the samples failed.
        """
        if not self._count:
            return
        self._refuse_too_many("")
        self._waiting.seek(0)
        for line in self._waiting:
            writer.quarantine(*json.loads(line))
        say(f"{self._step}: quarantined {self._count} of {self._total} samples:\n{self._told()}")

    def _refuse_too_many(self, stopped: str) -> None:
        failed = self._before + self._count
        if failed > self._max_fraction * self._total:
            raise QuarantineError(
                f"{self._step}: {failed} of {self._total} samples failed, more than the "
                f"{self._max_fraction:.1%} allowed (--set failures.max_fraction=...):\n"
                f"{self._told()}\n"
                f"{stopped}What succeeded is on the tape; mend {self._what} and run the same "
                "command again."
            )

    def _told(self) -> str:
        rest = self._count - len(self._shown)
        counts = ", ".join(f"{reason}: {count}" for reason, count in self._reasons.most_common())
        more = f"  ... and {rest} more ({counts})"
        return "\n".join([*self._shown, *([more] if rest else [])])


def _in_utf8(text: str) -> str:
    """Return text that can be written: half a character becomes its number, escaped."""
    return text.encode(errors="backslashreplace").decode()


def group_of(step: str, recipe: ExtractRecipe) -> str:
    """Return the group a step adds to, besides what models heard."""
    return recipe.acoustic.name if step == "acoustic" else _GROUPS[step]


def failures_of(
    step: str, group: str, tape: Tape, recipe: ExtractRecipe, since: int = 0
) -> Failures:
    """Return the count of a step over this worker's samples, earlier runs' failures included.

    Args:
        step: begins what is said.
        group: the group that is added to.
        tape: the tape as it was opened.
        recipe: says which samples are this worker's.
        since: failures that were settled since.
    """
    quarantined = tape.catalog.each_quarantined()
    before = since + sum(q.group == group and recipe.is_mine(q.row_index) for q in quarantined)
    total = int(np.count_nonzero(recipe.mine(tape.row_indices)))
    return Failures(step, recipe.failures.max_fraction, total, before)


class Pending(Sequence[TapeRow]):
    """Samples of a tape still to be recorded: their numbers, 8 bytes each; rows when asked for.

    Args:
        tape: the tape.
        numbers: int64 [n], the samples' places in the dataset's order, ascending.
    """

    def __init__(self, tape: Tape, numbers: NDArray[np.int64]) -> None:
        self.tape = tape
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        """Return one row, or the list of rows of a slice."""
        if isinstance(index, slice):
            return [TapeRow(self.tape, number) for number in self.numbers[index].tolist()]
        return TapeRow(self.tape, int(self.numbers[index]))

    @property
    def row_indices(self) -> NDArray[np.int64]:
        """Return their rows of the dataset, [n]."""
        rows: NDArray[np.int64] = self.tape.row_indices[self.numbers]
        return rows

    def where(self, mask: NDArray[np.bool_]) -> Pending:
        """Return those of them that a mask over them, bool [n], holds."""
        return Pending(self.tape, self.numbers[mask])

    def among(self, mask: NDArray[np.bool_]) -> Pending:
        """Return those of them that a mask over all samples, bool [samples], holds."""
        return Pending(self.tape, self.numbers[mask[self.numbers]])


def pending(tape: Tape, info: GroupInfo, recipe: ExtractRecipe) -> Pending:
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
    left = recipe.mine(tape.row_indices)
    if recipe.dataset.limit is not None:
        left &= tape.row_indices < recipe.dataset.limit
    left &= ~tape.recorded_mask(info.group)
    left &= ~tape.quarantined_mask(info.group)
    return Pending(tape, np.flatnonzero(left))


def open_for(recipe: ExtractRecipe) -> Tape:
    """Open the tape a step reads from and adds to."""
    return open_tape(recipe.tape.out)


@contextlib.contextmanager
def writer_for(recipe: ExtractRecipe, info: GroupInfo) -> Iterator[TapeWriter]:
    """Give the writer of a group under this recipe.

    A step that ends because too many samples failed, or because its model cannot go on, ends
    between two samples: those that are whole are committed.
    """
    with opened_writer(recipe, info) as writer:
        try:
            yield writer
        except (ModelError, QuarantineError):
            writer.seal()
            raise


def opened_writer(recipe: ExtractRecipe, info: GroupInfo) -> AbstractContextManager[TapeWriter]:
    """Return the writer of this worker's name; one that leases its rows takes a free name."""
    options: dict[str, Any] = {
        "licence": recipe.tape.licence,
        "storage": Storage(
            states_dtype=recipe.tape.states_dtype,
            profile=recipe.tape.profile,
            topk=recipe.tape.topk_codec,
        ),
        "shard_bytes": recipe.tape.shard_mb << 20,
        "shard_samples": recipe.tape.shard_samples,
    }
    root = Path(recipe.tape.out)
    if recipe.is_leased:
        return taking_a_slot(root, info, options)
    return TapeWriter(root, info, writer=own_name(root, recipe.writer), **options)


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
