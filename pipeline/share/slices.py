"""A slice of a tape: some of its samples, some of their signals, as a tape of its own.

The writer's name is made from what is taken, so that only the same slice finds its own shards and
continues them.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import xxhash

from cache_schema import Tape, layout, open_tape, takeover
from cache_schema.committed import Shard
from cache_schema.errors import OutputError
from cache_schema.maker import GroupInfo
from cache_schema.manifest import Quarantined, ShardRecord, line_of, records_of
from cache_schema.parts.cut import cut_shard
from cache_schema.parts.part import Selection, part_of_group, part_of_record, parts_of
from cache_schema.signals import FIRST_GROUPS, SCHEMAS
from cache_schema.validate.findings import Counting
from cache_schema.writer import TapeWriter
from pipeline.share.filters import Filter, chosen_ids

WRITER = "slice_"


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
        for one in () if self.ids is None else sorted(self.ids):
            digest.update(b"%d " % len(one) + one.encode())
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
        try:
            cut = cut_shard(shard, record, ids, directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
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
            f"{out} holds another tape, another slice, or one of the tape before it grew; nothing "
            "was changed. Give a new or empty folder; pipeline merge unites slices."
        )
