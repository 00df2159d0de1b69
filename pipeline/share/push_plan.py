"""What a push sends: what is missing there, of manifests that are this tape's to write.

A manifest that has grown where the tape is pushed to, or that is here only in part, is left as it
is: what was added to a pulled tape stands in a manifest of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cache_schema import layout
from cache_schema.errors import OutputError, UsageError
from cache_schema.maker import GroupInfo, group_from_json, part_note
from cache_schema.manifest import ShardRecord, line_of, parse_line, whole_lines
from cache_schema.parts.part import part_of_record
from cache_schema.remote.files import is_url
from pipeline.share.contents import Contents, Line, read_contents
from pipeline.share.store import Store


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A file of a shard that travels, or is looked at first.

    Attributes:
        record: its shard.
        line: that one's manifest line, which is the content of ``shard.json``.
        name: of the file, relative to the shard.
        found: whether a file of its size is there that no line names yet.
    """

    record: ShardRecord
    line: bytes
    name: str
    found: bool

    @property
    def path(self) -> str:
        """The file, relative to the tape."""
        return f"{self.record.path}/{self.name}"

    @property
    def bytes(self) -> int:
        """Its size."""
        is_copy = self.name == layout.SHARD_FILE
        return len(self.line) if is_copy else int(self.record.files[self.name]["bytes"])


@dataclass
class PushPlan:
    """What a push sends.

    Attributes:
        source: the tape.
        store: where to.
        named: manifest -> its content there.
        sent: the files that travel, or are looked at first.
        kept: bytes that are there already.
        damaged: files there that a line names and that are not what it says; they are sent again.
        indexes: files of indexes there.
        metadata: ``dataset.json`` and files of groups there.
        left: manifests there that are left as they are; what this tape has of them is there.
    """

    source: Contents
    store: Store
    named: dict[str, bytes] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    kept: int = 0
    damaged: list[str] = field(default_factory=list)
    indexes: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    left: set[str] = field(default_factory=set)

    @property
    def files(self) -> int:
        """Files that travel."""
        return sum(not one.found for one in self.sent)

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(one.bytes for one in self.sent if not one.found)


def plan_push(location: str, store: Store, *, check: bool = False) -> PushPlan:
    """Decide what to send.

    Args:
        location: a tape on this machine.
        store: where to.
        check: compare the content of named files that are there, not their size alone.

    Raises:
        UsageError: the tape is not on this machine.
        OutputError: another tape is there, or more of this one than here.
    """
    if is_url(location):
        raise UsageError(f"{location}: a tape on this machine is pushed; pull it first")
    plan = PushPlan(source=read_contents(location), store=store)
    listing = store.listing()
    named = _refuse_another(plan, listing)
    plan.indexes = [name for name in listing if name.startswith(f"{layout.INDEX_DIR}/")]
    for manifest, line, record in plan.source.shards():
        if manifest in plan.left:
            continue
        for name in sorted([*record.files, layout.SHARD_FILE]):
            one = Sent(record=record, line=line.content, name=name, found=False)
            size = listing.get(one.path)
            same = size == one.bytes
            if record.path not in named:
                plan.sent.append(Sent(record=record, line=line.content, name=name, found=same))
                plan.kept += one.bytes if same else 0
            elif same and not (check and differs(plan, one)):
                plan.kept += one.bytes
            else:
                wrong = "is missing" if size is None else "is not what was committed"
                plan.damaged.append(f"{one.path} {wrong}")
                plan.sent.append(one)
    return plan


def _refuse_another(plan: PushPlan, listing: dict[str, int]) -> set[str]:
    """Return the shards that lines there name; read those lines.

    Raises:
        OutputError: what is there is neither an earlier push of this tape nor what it was pulled
            from.
    """
    source, store = plan.source, plan.store
    groups: dict[str, GroupInfo] = {}
    for name in listing:
        if name.startswith(f"{layout.GROUPS_DIR}/") or name == layout.DATASET_FILE:
            _refuse_other_metadata(plan, name, store.read(name), groups)
            plan.metadata.append(name)
        elif name.startswith(f"{layout.MANIFEST_DIR}/") and name.endswith(".jsonl"):
            plan.named[name] = store.read(name)
    if groups and "samples" not in groups.keys() & source.groups.keys():
        raise OutputError(f"{store.location} holds another tape (of other samples)")
    shards = set()
    for name, content in plan.named.items():
        lines = {line.content: line.record for line in source.lines.get(name, [])}
        there = [line for _, line in whole_lines(content)]
        if foreign := [line for line in there if line not in lines]:
            if not _has_all(there, source.lines.get(name, []), source, f"{store.location}/{name}"):
                raise OutputError(
                    f"{store.location}/{name} has {len(foreign)} lines that this tape has not: it "
                    "is another tape, or a later state of it; pull it, or push to another URL"
                )
            plan.left.add(name)
            continue
        records = (lines[line] for line in there)
        shards |= {record.path for record in records if isinstance(record, ShardRecord)}
    return shards


def _refuse_other_metadata(
    plan: PushPlan, name: str, content: bytes, groups: dict[str, GroupInfo]
) -> None:
    """Refuse makers there that are others than here; those that are not here are let be.

    Raises:
        OutputError: naming the file.
    """
    where = f"{plan.store.location}/{name}"
    same = content == plan.source.dataset
    if name != layout.DATASET_FILE:
        info = group_from_json(content, where)
        groups[info.group] = info
        known = plan.source.groups.get(info.group)
        same = known is None or known.fingerprint == info.fingerprint
        if known is not None and same and part_note(known) != part_note(info):
            # Of a part there, no more of it may be said to be there; a part here is left out.
            same = part_note(info).is_whole
    if not same:
        raise OutputError(f"{plan.store.location} holds another tape ({name} differs)")


def _has_all(there: list[bytes], here: list[Line], source: Contents, where: str) -> bool:
    """Whether a manifest there has all that is here of it, where more of a shard may be there."""
    if not here:
        return True
    known = set(there)
    for line in there:
        record = parse_line(line, where)
        info = source.groups.get(record.group)
        if isinstance(record, ShardRecord) and info is not None:
            part = part_of_record(record, part_note(info))
            if part is not None:
                known.add(line_of("shard", part))
    return all(line.content in known for line in here)


def differs(plan: PushPlan, one: Sent) -> bool:
    """Whether a file there is another than here."""
    if one.name == layout.SHARD_FILE:
        return plan.store.read(one.path) != one.line
    return not plan.store.matches(one.path, local_file(plan, one), one.record.files[one.name])


def local_file(plan: PushPlan, one: Sent) -> Path:
    """Return the file here, compared with its record."""
    return plan.source.files.local(one.path, one.record.files[one.name])
