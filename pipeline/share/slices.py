"""A slice of a tape: some of its samples, some of their signals, as a tape of its own.

The writer's name is made from what is taken, so that only the same slice finds its own shards and
continues them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from cache_schema import Tape, TapeRow, layout, open_tape, takeover
from cache_schema.committed import Shard
from cache_schema.cut import cut_shard
from cache_schema.errors import MissingSignalError, OutputError, UsageError, nearest
from cache_schema.findings import Counting
from cache_schema.maker import GroupInfo
from cache_schema.manifest import Quarantined, ShardRecord, line_of, records_of
from cache_schema.part import Selection, part_of_group, part_of_record, parts_of
from cache_schema.signals import SCHEMAS
from cache_schema.writer import TapeWriter
from pipeline.share.contents import FIRST_GROUPS

WRITER = "slice_"
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which samples are taken: those that fit everything given.

    Attributes:
        ids: these; ``None`` for any.
        fields: (field of the metadata, or ``answer``; its value as text or JSON).
        limit: the first so many of what fits.
    """

    ids: tuple[str, ...] | None = None
    fields: tuple[tuple[str, str], ...] = ()
    limit: int | None = None

    @property
    def takes_all(self) -> bool:
        """Whether nothing is asked for."""
        return self.ids is None and not self.fields and self.limit is None


def parse_filter(
    samples: Path | None = None, fields: Sequence[str] = (), limit: int | None = None
) -> Filter:
    """Read what flags ask for.

    Raises:
        UsageError: no file of ids, or not ``key=value``.
    """
    ids = None
    if samples is not None:
        try:
            ids = tuple(line for line in samples.read_text().splitlines() if line)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--samples {samples}: expected a file of ids, one a line") from error
    for text in fields:
        if "=" not in text:
            raise UsageError(f"--filter {text!r}: expected KEY=VALUE, such as speaker=ann")
    pairs = tuple((text.partition("=")[0], text.partition("=")[2]) for text in fields)
    return Filter(ids=ids, fields=pairs, limit=limit)


def chosen_ids(tape: Tape, wanted: Filter) -> list[str]:
    """Return the samples a filter takes, in the dataset's order.

    Raises:
        MissingSignalError: ids that are not on the tape, or nothing fits.
    """
    if wanted.ids is not None:
        absent = [one for one in wanted.ids if one not in tape]
        if absent:
            raise MissingSignalError(
                f"--samples: {len(absent)} of {len(wanted.ids)} ids are not on {tape.location}: "
                f"{absent[:_SHOWN]}{nearest(absent[0], tape.sample_ids)}"
            )
    named = None if wanted.ids is None else set(wanted.ids)
    found: list[str] = []
    for row in _rows(tape, named):
        if wanted.limit is not None and len(found) >= wanted.limit:
            break
        if all(_fits(row, key, value) for key, value in wanted.fields):
            found.append(row.sample_id)
    if not found:
        raise MissingSignalError(f"no sample of {tape.location} fits; nothing was written")
    return found


def _rows(tape: Tape, named: set[str] | None) -> Iterator[TapeRow]:
    return (row for row in tape if named is None or row.sample_id in named)


def _fits(row: TapeRow, key: str, value: str) -> bool:
    known: Any = row.answer if key == "answer" else row.metadata.get(key)
    if isinstance(known, str):
        return known == value
    return known is not None and json.dumps(known) == value


@dataclass
class Slice:
    """What a slice is made of.

    Attributes:
        tape: the tape.
        ids: samples that are taken; ``None`` for all.
        groups: who made what is taken.
        shards: group -> (shard, its line or that of the part that is taken).
        quarantined: samples that were not recorded, of those that are taken.
    """

    tape: Tape
    ids: frozenset[str] | None
    groups: dict[str, GroupInfo]
    shards: dict[str, list[tuple[Shard, ShardRecord]]]
    quarantined: list[Quarantined]

    @property
    def writer(self) -> str:
        """The name of the writer of this slice and of no other."""
        digest = xxhash.xxh3_64(str(self.tape.info["licence"]).encode())
        for info in self.groups.values():
            digest.update(info.to_json())
        for shards in self.shards.values():
            for _, record in shards:
                digest.update(line_of("shard", record))
        for one in ["all"] if self.ids is None else sorted(self.ids):
            digest.update(one.encode() + b"\n")
        return WRITER + digest.hexdigest()


def plan_slice(location: str, selection: Selection, wanted: Filter) -> Slice:
    """Decide what to take.

    Raises:
        MissingSignalError: what is asked for is not there.
    """
    tape = open_tape(location)
    parts = parts_of(tape.groups, selection)
    ids = None if wanted.takes_all else frozenset(chosen_ids(tape, wanted))
    order = sorted(parts, key=lambda name: (name not in FIRST_GROUPS, name != "samples", name))
    shards: dict[str, list[tuple[Shard, ShardRecord]]] = {}
    for group in order:
        records = (
            (shard, part_of_record(shard.record, parts[group]))
            for shard in tape.shards.get(group, [])
        )
        shards[group] = [
            (shard, record)
            for shard, record in records
            if record is not None and _has_some(shard, record, ids)
        ]
    return Slice(
        tape=tape,
        ids=ids,
        groups={name: part_of_group(tape.groups[name], parts[name]) for name in order},
        shards=shards,
        quarantined=[
            one
            for one in tape.quarantined
            if one.group in parts and (ids is None or one.sample_id in ids)
        ],
    )


def _has_some(shard: Shard, record: ShardRecord, ids: frozenset[str] | None) -> bool:
    if ids is None:
        return True
    tables = [name for name in record.rows if name in SCHEMAS and name != "audio"]
    return any(
        not ids.isdisjoint(shard.table(name).column("sample_id").to_pylist()) for name in tables
    )


def write_slice(plan: Slice, out: Path, counting: Counting) -> None:
    """Write a slice; one that was stopped is continued by the same call.

    Raises:
        OutputError: the folder holds something else, or the disk is full.
        TapeError: the tape is damaged.
    """
    name, licence = plan.writer, str(plan.tape.info["licence"])
    _check_out(out, name)
    total = sum(_size(record) for shards in plan.shards.values() for _, record in shards)
    with counting("slice", total) as count:
        for group, info in plan.groups.items():
            with TapeWriter(out, info, licence=licence, writer=name) as writer:
                done = writer.open()
                for number, (shard, record) in enumerate(plan.shards[group]):
                    if number >= done:
                        _adopt(writer, shard, record, plan.ids)
                    count(_size(record))
                _quarantine(writer, plan, group, out / layout.manifest_file(name))


def _adopt(
    writer: TapeWriter, shard: Shard, record: ShardRecord, ids: frozenset[str] | None
) -> None:
    def fill(directory: Path) -> ShardRecord:
        cut = cut_shard(shard, record, ids, directory)
        assert cut is not None, "a shard of no chosen sample was planned"
        return cut

    writer.adopt(fill)


def _quarantine(writer: TapeWriter, plan: Slice, group: str, manifest: Path) -> None:
    told = set()
    if manifest.exists():
        records = records_of(manifest.read_bytes(), str(manifest))
        told = {record for record in records if isinstance(record, Quarantined)}
    for one in plan.quarantined:
        if one.group == group and one not in told:
            writer.quarantine(one.sample_id, one.row_index, one.reason, one.detail)


def _size(record: ShardRecord) -> int:
    return sum(file["bytes"] for file in record.files.values())


def _check_out(out: Path, writer: str) -> None:
    if takeover.check_output(out) and any(
        path.suffix == ".jsonl" and path.stem != writer
        for path in (out / layout.MANIFEST_DIR).glob("[!.]*")
    ):
        raise OutputError(
            f"{out} holds another tape, or another slice; nothing was changed. Give a new or empty "
            "folder; pipeline merge unites slices."
        )
