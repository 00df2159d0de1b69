"""What a merge would do, and whether it may: decided before anything is written."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash

from cache_schema.committed import Shard
from cache_schema.compare.makers import identity_changes
from cache_schema.errors import ProvenanceError, TapeError
from cache_schema.maker import GroupInfo
from cache_schema.manifest import (
    Quarantined,
    line_of,
)
from cache_schema.reader import Tape
from cache_schema.signals import FIRST_GROUPS, SCHEMAS, SIGNAL_OF

_SHOWN = 5
_Key = tuple[str, str, int]
"""A row: signal or table, sample and trace; two tables of one signal hold the same row."""


@dataclass
class Plan:
    """What a merge takes.

    Attributes:
        licence: of the result.
        groups: group -> its maker, as the first tape that has it says.
        shards: group -> the shards to take, in order.
        samples: how many samples the result has.
        skipped: group -> shards left out: every row of theirs is recorded before.
        repeated: group -> rows that the shards taken repeat; the first tape's count.
        quarantined: samples that no tape recorded.
    """

    licence: str
    groups: dict[str, GroupInfo] = field(default_factory=dict)
    shards: dict[str, list[Shard]] = field(default_factory=dict)
    samples: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    quarantined: list[Quarantined] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """What makes this merge this merge: its licence, makers and lines, 16 hex digits."""
        digest = xxhash.xxh3_64(self.licence.encode())
        for info in self.groups.values():
            digest.update(f"{info.group} {info.fingerprint}\n".encode())
        for shard in itertools.chain.from_iterable(self.shards.values()):
            digest.update(line_of("shard", shard.record))
        for record in self.quarantined:
            digest.update(line_of("quarantine", record))
        return digest.hexdigest()


def plan_merge(tapes: Sequence[Tape], licence: str | None) -> Plan:
    """Decide what to take from which tape.

    Raises:
        ProvenanceError: a group was made by different makers.
        TapeError: one id names two samples, or licences differ and none is given.
    """
    plan = Plan(licence=_licence(tapes, licence))
    _refuse_other_makers(plan, tapes)
    plan.groups = {name: plan.groups[name] for name in sorted(plan.groups, key=_order)}
    plan.samples = _refuse_other_samples(tapes)
    for group in plan.groups:
        _choose(plan, group, tapes)
    return plan


def _order(group: str) -> tuple[int, str]:
    known = group in FIRST_GROUPS
    return (FIRST_GROUPS.index(group) if known else len(FIRST_GROUPS), group)


def _licence(tapes: Sequence[Tape], given: str | None) -> str:
    licences = {tape.location: str(tape.info["licence"]) for tape in tapes}
    if given is not None:
        return given
    if len(set(licences.values())) > 1:
        listed = "\n".join(f"  {where}: {licence}" for where, licence in licences.items())
        raise TapeError(
            f"the tapes' licences differ:\n{listed}\nSay what the result may be used for: "
            "--licence TEXT."
        )
    return next(iter(licences.values()))


def _refuse_other_makers(plan: Plan, tapes: Sequence[Tape]) -> None:
    """Collect the groups' makers.

    Raises:
        ProvenanceError: naming every field in which two makers of a group differ.
    """
    told = []
    for tape in tapes:
        for name, info in tape.groups.items():
            known = plan.groups.setdefault(name, info)
            changes = identity_changes(known, info)
            told += [f"  {change} ({tape.location})" for change in changes]
    if told:
        raise ProvenanceError(
            "groups of one name were made differently (first tape | another):\n"
            + "\n".join(told)
            + "\nNothing was written; only signals of equal makers are united."
        )


def _refuse_other_samples(tapes: Sequence[Tape]) -> int:
    """Return how many samples the tapes have together.

    Raises:
        TapeError: naming ids that are not the same sample on every tape.
    """
    owners: dict[str, int] = {}
    conflicts: list[str] = []
    total = 0
    for place, tape in enumerate(tapes):
        for sample_id in tape.sample_ids:
            other = tapes[owners.setdefault(sample_id, place)]
            fields = [] if other is tape else _differing(other, tape, sample_id)
            total += bool(fields)
            if fields and len(conflicts) < _SHOWN:
                told = f"  {sample_id!r} on {other.location} and {tape.location}: "
                conflicts.append(told + ", ".join(fields))
    if total:
        raise TapeError(
            f"{total} sample ids name different samples; nothing was written:\n"
            + "\n".join(conflicts)
        )
    return len(owners)


def _differing(one: Tape, two: Tape, sample_id: str) -> list[str]:
    first, second = _sample(one, sample_id), _sample(two, sample_id)
    return sorted(name for name in first if first[name] != second[name])


def _sample(tape: Tape, sample_id: str) -> dict[str, Any]:
    row = tape[sample_id]
    return {
        "question": row.question,
        "choices": row.choices,
        "answer": row.answer,
        "metadata": row.metadata,
        "audio": (row.audio_sha256, row.num_audio_samples),
    }


def _choose(plan: Plan, group: str, tapes: Sequence[Tape]) -> None:
    """Choose the shards of a group, and the quarantined samples that none of them has."""
    recorded: set[_Key] = set()
    chosen = plan.shards.setdefault(group, [])
    for tape in tapes:
        for shard in tape.shards.get(group, []):
            keys = _keys_of(shard)
            known = len(keys & recorded)
            if known == len(keys):
                plan.skipped[group] += 1
                continue
            plan.repeated[group] += known
            recorded |= keys
            chosen.append(shard)
    samples = {sample_id for _, sample_id, _ in recorded}
    seen: set[tuple[str, int]] = set()
    for tape in tapes:
        for record in tape.quarantined:
            key = (record.sample_id, record.row_index)
            if record.group == group and key not in seen and record.sample_id not in samples:
                seen.add(key)
                plan.quarantined.append(record)


def _keys_of(shard: Shard) -> set[_Key]:
    """Return which rows a shard has; a recording goes with the row of ``samples``."""
    keys: set[_Key] = set()
    for name in shard.record.rows.keys() & SCHEMAS.keys() - {"audio"}:
        table = shard.table(name)
        ids = table.column("sample_id").to_pylist()
        numbered = "trace_index" in SCHEMAS[name].names
        traces = table.column("trace_index").to_pylist() if numbered else [0] * len(ids)
        what = SIGNAL_OF.get(name, name)
        keys |= {(what, *key) for key in zip(ids, traces, strict=True)}
    return keys
