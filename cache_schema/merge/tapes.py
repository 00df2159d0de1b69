"""Uniting tapes: other signals of the same samples, other samples of the same makers, or both.

Shards are taken whole, by hard link where the disk allows it, and committed as any other. The
writer's name is made from what is united, so that only the same merge finds its own shards and
continues them. A sample that several tapes recorded in one group counts once: a shard that only
repeats is left out, one that repeats in part is taken, and readers keep the row committed first.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cache_schema import layout
from cache_schema.codecs.files import CHECKSUM, HashedFile, make_dirs, sync_dir, sync_file
from cache_schema.committed import Shard
from cache_schema.errors import OutputError, TapeError, UsageError
from cache_schema.maker import GroupInfo
from cache_schema.manifest import (
    Quarantined,
    ShardRecord,
    records_of,
)
from cache_schema.merge.plan import Plan, plan_merge
from cache_schema.reader import open_tape
from cache_schema.takeover import check_output
from cache_schema.validate.findings import Counting
from cache_schema.writer import TapeWriter

_READ_BYTES = 8 << 20


@dataclass
class Merged:
    """What a merge did.

    Attributes:
        plan: what was to be united.
        shards: shards committed now.
        earlier: shards that an earlier run of the same merge had committed.
        files: ``linked`` and ``copied`` -> files taken so.
    """

    plan: Plan
    shards: int = 0
    earlier: int = 0
    files: Counter[str] = field(default_factory=Counter)


def merge(
    locations: Sequence[str | Path], out: Path, counting: Counting, licence: str | None = None
) -> Merged:
    """Unite tapes into a new one; a merge that was stopped is continued by the same call.

    Args:
        locations: at least one tape on this machine; of what several recorded, the first counts.
        out: a new or empty folder, or what an earlier run of this merge left.
        counting: draws progress.
        licence: of the result; needed where the tapes' licences differ.

    Raises:
        UsageError: a tape is not on this machine, or is ``out`` itself.
        ProvenanceError: a group was made by different makers.
        TapeError: a tape is damaged, one id names two samples, or licences differ.
        OutputError: ``out`` holds something else, or the disk is full.
    """
    tapes = [open_tape(_local(location, out)) for location in locations]
    plan = plan_merge(tapes, licence)
    writer_name = layout.MERGE_WRITER + plan.digest
    _check_out(out, writer_name, plan.licence)
    merged = Merged(plan=plan)
    total = sum(_size(shard) for shards in plan.shards.values() for shard in shards)
    with counting("merge", total) as count:
        for info in plan.groups.values():
            with TapeWriter(out, info, licence=plan.licence, writer=writer_name) as writer:
                _unite_group(writer, info, out / layout.manifest_file(writer_name), merged, count)
    return merged


def _unite_group(
    writer: TapeWriter,
    info: GroupInfo,
    manifest: Path,
    merged: Merged,
    count: Callable[[int], None],
) -> None:
    """Commit what is left of a group's shards, in the plan's order, then its quarantine."""
    shards = merged.plan.shards[info.group]
    done = writer.open()
    for shard in shards[:done]:
        merged.earlier += 1
        count(_size(shard))
    for shard in shards[done:]:
        writer.adopt(_filler(shard, merged.files))
        merged.shards += 1
        count(_size(shard))
    told = set()
    if manifest.exists():
        records = records_of(manifest.read_bytes(), str(manifest))
        told = {record for record in records if isinstance(record, Quarantined)}
    for record in merged.plan.quarantined:
        if record.group == info.group and record not in told:
            writer.quarantine(record.sample_id, record.row_index, record.reason, record.detail)


def _filler(shard: Shard, files: Counter[str]) -> Callable[[Path], ShardRecord]:
    """Return what puts a shard's files into a directory, each compared with its checksum."""

    def fill(directory: Path) -> ShardRecord:
        try:
            for name in sorted(shard.record.files):
                source, target = shard.local(name), directory / name  # compared on its way
                make_dirs(target.parent)
                linked = _link(source, target)
                if not linked:
                    _copy(shard, name, target)
                files["linked" if linked else "copied"] += 1
            for folder in [path for path in directory.rglob("*") if path.is_dir()]:
                sync_dir(folder)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return shard.record

    return fill


def _link(source: Path, target: Path) -> bool:
    """Make a hard link, if the file system allows it: committed files never change."""
    try:
        os.link(source, target)
    except OSError:
        return False
    sync_file(target)
    return True


def _copy(shard: Shard, name: str, target: Path) -> None:
    with shard.local(name).open("rb") as source, HashedFile(target) as file:
        while block := source.read(_READ_BYTES):
            file.write(block)
        copied = file.close()
    if copied[CHECKSUM] != shard.record.files[name][CHECKSUM]:
        raise TapeError(f"{shard.record.path}/{name} changed while it was copied")


def _size(shard: Shard) -> int:
    return sum(file["bytes"] for file in shard.record.files.values())


def _local(location: str | Path, out: Path) -> Path:
    if "://" in str(location):
        raise UsageError(f"{location}: only tapes on this machine are merged; copy it first")
    if Path(location).resolve() == out.resolve():
        raise UsageError(f"--out {out} is one of the tapes to merge; give a new folder")
    return Path(location)


def _check_out(out: Path, writer_name: str, licence: str) -> None:
    """Refuse a folder that holds anything but the beginning of this merge."""
    if not check_output(out):
        return
    foreign = [
        path.name
        for path in (out / layout.MANIFEST_DIR).glob("*")
        if path.stem != writer_name and not path.name.startswith(".")
    ]
    if foreign or open_tape(out).info["licence"] != licence:
        raise OutputError(
            f"{out} holds another tape, or a merge of other tapes; nothing was changed. "
            "Give --out a new or empty folder."
        )
