"""What a pull brings: which part of each group is wanted, which shards, which of their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cache_schema import takeover
from cache_schema.errors import OutputError
from cache_schema.maker import GroupInfo, PartNote, part_note
from cache_schema.manifest import Quarantined, ShardRecord, line_of
from cache_schema.parts.part import Selection, part_of_group, part_of_record, parts_of, union
from cache_schema.remote.files import difference
from cache_schema.signals import FIRST_GROUPS
from pipeline.share.contents import Contents, Line, read_contents


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A shard as it is to be here.

    Attributes:
        line: its manifest line.
        record: what that says.
        folder: where its files are put, relative to the tape: its path, or hidden beside it.
        has: those of its files that are there.
    """

    line: bytes
    record: ShardRecord
    folder: str
    has: frozenset[str]

    @property
    def missing(self) -> list[str]:
        """The files that travel."""
        return sorted(self.record.files.keys() - self.has)


@dataclass
class PullPlan:
    """What a pull does.

    Attributes:
        source: the tape that is pulled.
        groups: who made what is here in the end.
        parts: group -> what is left out of it.
        lines: manifest -> the lines that are here in the end, in order.
        earlier: manifest -> the lines that are here now.
        shards: the shards, in the order they travel.
        damaged: files here that are not what was committed, and are fetched again.
    """

    source: Contents
    groups: dict[str, GroupInfo] = field(default_factory=dict)
    parts: dict[str, PartNote] = field(default_factory=dict)
    lines: dict[str, list[Line]] = field(default_factory=dict)
    earlier: dict[str, list[bytes]] = field(default_factory=dict)
    shards: list[Wanted] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    @property
    def files(self) -> int:
        """Files that travel."""
        return sum(len(shard.missing) for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(
            shard.record.files[name]["bytes"] for shard in self.shards for name in shard.missing
        )

    @property
    def kept(self) -> int:
        """Bytes that are here already."""
        return sum(shard.record.files[name]["bytes"] for shard in self.shards for name in shard.has)


def plan_pull(location: str, out: Path, selection: Selection, *, check: bool = False) -> PullPlan:
    """Decide what to bring.

    Args:
        location: path or URL of the tape.
        out: a new or empty folder, or an earlier pull of the same tape.
        selection: what is wanted; what an earlier pull brought stays.
        check: compare the content of the files that are here, not their size alone.

    Raises:
        TapeError: the tape is damaged, or lacks what is asked for.
        OutputError: the folder holds something else.
    """
    if "://" not in location and Path(location).resolve() == out.resolve():
        raise OutputError(f"{out} is the tape to pull; give another folder")
    here = read_contents(out) if takeover.check_output(out) else None
    source = read_contents(location)
    asked = parts_of(source.groups, selection)
    plan = PullPlan(source=source, parts=asked)
    known: dict[str, ShardRecord] = {}
    if here is not None:
        _refuse_another(here, source, out)
        had = {name: part_note(info) for name, info in here.groups.items() if name in source.groups}
        plan.parts = {**asked, **{group: _both(group, had, plan) for group in had}}
        plan.earlier = {
            name: [line.content for line in lines]
            for name, lines in here.lines.items()
            if name in source.lines or not _is_own(lines)
        }
        known = {record.path: record for _, _, record in here.shards()}
    for name in source.lines:
        plan.lines[name] = list(_parts_of_lines(source.lines[name], plan.parts))
    if here is not None:
        _refuse_grown_apart(plan, had, out)
    for group, part in plan.parts.items():
        plan.groups[group] = part_of_group(source.groups[group], part)
    for line, record in _in_travelling_order(plan):
        plan.shards.append(_wanted(plan, line, record, out, known.get(record.path), check))
    return plan


def _both(group: str, had: Mapping[str, PartNote], plan: PullPlan) -> PartNote:
    asked = plan.parts.get(group)
    return had[group] if asked is None else union(had[group], asked, plan.source.groups[group])


def _is_own(lines: list[Line]) -> bool:
    """Whether a manifest that the tape has not is of sources that were added here."""
    return all(line.record.group not in FIRST_GROUPS for line in lines)


def _refuse_another(here: Contents, source: Contents, out: Path) -> None:
    """Refuse a folder that holds anything but an earlier pull of the tape, and sources added to it.

    Raises:
        OutputError: saying what differs.
    """
    theirs = {line.record.group for name in source.lines for line in here.lines.get(name, ())}
    if here.dataset != source.dataset:
        raise OutputError(f"{out} holds another tape (dataset.json differs); give a new folder")
    for group, info in here.groups.items():
        known = source.groups.get(group)
        if known is None and group not in (*theirs, *FIRST_GROUPS):
            continue
        if known is None or known.fingerprint != info.fingerprint:
            raise OutputError(
                f"{out}: group {group!r} is not one of {source.files.location}: it was added here, "
                "or this is another tape. Pull into a new folder; pipeline merge unites the two."
            )


def _refuse_grown_apart(plan: PullPlan, had: Mapping[str, PartNote], out: Path) -> None:
    """Refuse lines that the tape does not begin with.

    Raises:
        OutputError: naming the manifest.
    """
    for name, local in plan.earlier.items():
        lines = plan.source.lines.get(name, [])
        before = [line.content for line in _parts_of_lines(lines, had)]
        now = [line.content for line in plan.lines.get(name, [])]
        if local not in (before[: len(local)], now[: len(local)]):
            raise OutputError(
                f"{out}/{name} does not begin as that of {plan.source.files.location}: lines were "
                "added here, or this is another tape. Pull into a new folder."
            )


def _in_travelling_order(plan: PullPlan) -> Iterator[tuple[Line, ShardRecord]]:
    """Yield the wanted shards: samples first, then in order."""
    by_path = {
        line.record.path: line
        for lines in plan.lines.values()
        for line in lines
        if isinstance(line.record, ShardRecord)
    }
    for _, _, record in plan.source.shards():
        line = by_path.get(record.path)
        if line is not None and isinstance(line.record, ShardRecord):
            yield line, line.record


def _wanted(
    plan: PullPlan,
    line: Line,
    record: ShardRecord,
    out: Path,
    known: ShardRecord | None,
    check: bool,
) -> Wanted:
    """Look at which files of a shard are here."""
    in_place = known is not None or (out / record.path).is_dir()
    folder = record.path if in_place else beside(record.path)
    has = set()
    for name, file in record.files.items():
        path = out / folder / name
        if path.is_symlink() or not path.is_file():
            continue
        size = path.stat().st_size
        wrong = "" if size == file["bytes"] else f"has {size} bytes, not {file['bytes']}"
        if not wrong and (check or known is None):
            wrong = difference(path, file)
        if not wrong:
            has.add(name)
        elif known is not None and name in known.files:
            plan.damaged.append(f"{record.path}/{name} {wrong}")
    return Wanted(line=line.content, record=record, folder=folder, has=frozenset(has))


def _parts_of_lines(lines: list[Line], parts: Mapping[str, PartNote]) -> Iterator[Line]:
    """Yield lines as they are here, those of which something is."""
    for line in lines:
        part = parts.get(line.record.group)
        if part is None:
            continue
        if isinstance(line.record, Quarantined) or part.is_whole:
            yield line
        elif (record := part_of_record(line.record, part)) is not None:
            same = record == line.record
            yield line if same else replace(line, content=line_of("shard", record), record=record)


def beside(path: str) -> str:
    """Return where a shard is put together: beside the folders of its group, hidden."""
    folder = Path(path)
    return str(folder.parent.parent / f".{folder.name}")
