"""Pushing a tape: its shards first, then who made them, then the lines that name them, the index.

At any moment what is there is a tape of whole shards: a line is written when every file of its
shard has arrived and was compared. A push that was stopped, or a tape that grew, sends what is
missing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cache_schema import layout
from cache_schema.codecs.files import CHECKSUM
from cache_schema.console import say
from cache_schema.errors import OutputError, UsageError
from cache_schema.findings import Counting
from cache_schema.index import covered_hash, from_file
from cache_schema.manifest import ShardRecord, whole_lines
from cache_schema.remote import is_url
from cache_schema.seals import SEALS_DIR
from pipeline.share.contents import Contents, Line, read_contents
from pipeline.share.push_lock import PushLock, push_lock
from pipeline.share.store import Store
from pipeline.share.tasks import in_order

JOBS = 8
PUBLISH_S = 60.0
"""How often the lines of shards that have arrived are written meanwhile."""


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
    """

    source: Contents
    store: Store
    named: dict[str, bytes] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    kept: int = 0
    damaged: list[str] = field(default_factory=list)
    indexes: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)

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
    for _, line, record in plan.source.shards():
        for name in sorted([*record.files, layout.SHARD_FILE]):
            one = Sent(record=record, line=line.content, name=name, found=False)
            size = listing.get(one.path)
            same = size == one.bytes
            if record.path not in named:
                plan.sent.append(Sent(record=record, line=line.content, name=name, found=same))
                plan.kept += one.bytes if same else 0
            elif same and not (check and _differs(plan, one)):
                plan.kept += one.bytes
            else:
                wrong = "is missing" if size is None else "is not what was committed"
                plan.damaged.append(f"{one.path} {wrong}")
                plan.sent.append(one)
    return plan


def _refuse_another(plan: PushPlan, listing: dict[str, int]) -> set[str]:
    """Return the shards that lines there name; read those lines.

    Raises:
        OutputError: what is there is no earlier push of this tape.
    """
    source, store = plan.source, plan.store
    known = {layout.DATASET_FILE: source.dataset}
    known |= {layout.group_file(name): content for name, content in source.group_files.items()}
    for name in listing:
        if name.startswith(f"{layout.GROUPS_DIR}/") or name == layout.DATASET_FILE:
            if store.read(name) != known.get(name):
                raise OutputError(f"{store.location} holds another tape ({name} differs)")
            plan.metadata.append(name)
        elif name.startswith(f"{layout.MANIFEST_DIR}/") and name.endswith(".jsonl"):
            plan.named[name] = store.read(name)
    shards = set()
    for name, content in plan.named.items():
        lines = {line.content: line.record for line in source.lines.get(name, [])}
        there = [line for _, line in whole_lines(content)]
        if foreign := [line for line in there if line not in lines]:
            raise OutputError(
                f"{store.location}/{name} has {len(foreign)} lines that this tape has not: it is "
                "another tape, or a later state of it; pull it, or push to another URL"
            )
        records = (lines[line] for line in there)
        shards |= {record.path for record in records if isinstance(record, ShardRecord)}
    return shards


def _differs(plan: PushPlan, one: Sent) -> bool:
    """Whether a file there is another than here."""
    if one.name == layout.SHARD_FILE:
        return plan.store.read(one.path) != one.line
    return not plan.store.matches(one.path, _local(plan, one), one.record.files[one.name])


def _local(plan: PushPlan, one: Sent) -> Path:
    """Return the file here, compared with its record."""
    return plan.source.files.local(one.path, one.record.files[one.name])


def push(plan: PushPlan, counting: Counting, *, jobs: int = JOBS, take_over: bool = False) -> None:
    """Send what is missing; a push that was stopped is continued by the same call.

    Args:
        plan: what to send.
        counting: draws progress.
        jobs: files that travel at one time.
        take_over: begin though another push said that it is at work.

    Raises:
        OutputError: another push is at work there.
        TapeError: a file of the tape is damaged.
        TransferError: the store does not take it.
    """
    for told in plan.damaged:
        say(f"{plan.store.location}: {told}; it is sent again")
    with push_lock(plan.store, take_over=take_over) as lock:
        _Push(plan, lock).run(counting, jobs)


class _Push:
    """One push at work."""

    def __init__(self, plan: PushPlan, lock: PushLock | None) -> None:
        self._plan = plan
        self._store = plan.store
        self._lock = lock
        self._left = Counter(one.record.path for one in plan.sent)
        self._there = set(plan.metadata)
        self._published_s = time.monotonic()

    def run(self, counting: Counting, jobs: int) -> None:
        """Send files, then what names them."""
        sent = self._plan.sent
        with counting("push", sum(one.bytes for one in sent)) as count:
            for one, size in in_order(self._send, sent, jobs):
                count(size)
                self._left[one.record.path] -= 1
                if self._lock is not None:
                    self._lock.renew()
                if time.monotonic() - self._published_s > PUBLISH_S:
                    self._publish()
        self._publish()
        self._push_index()
        files = self._plan.source.files
        for name in files.names(SEALS_DIR, ".jsonl"):
            self._store.put_bytes(name, files.content(name))
        self._store.describe(self._plan.source)
        self._store.flush("Index")

    def _send(self, one: Sent) -> int:
        if one.name == layout.SHARD_FILE:
            if not (one.found and not _differs(self._plan, one)):
                self._store.put_bytes(one.path, one.line)
            return one.bytes
        path, record = _local(self._plan, one), one.record.files[one.name]
        if not (one.found and self._store.trusted(one.path, path, record)):
            self._store.put(one.path, path, record)
        return one.bytes

    def _publish(self) -> None:
        """Name the shards that have arrived, their makers first."""
        source, named = self._plan.source, self._plan.named
        self._store.flush("Shards")
        if self._lock is not None:
            self._lock.check()
        self._unchanged()
        for name, content in {
            **{layout.group_file(group): told for group, told in source.group_files.items()},
            layout.DATASET_FILE: source.dataset,
        }.items():
            if name not in self._there:
                self._store.put_bytes(name, content)
                self._there.add(name)
        for name in source.lines:
            content = b"".join(self._arrived(name))
            if content != named.get(name):
                self._store.put_bytes(name, content)
                named[name] = content
        self._store.flush("Manifest")
        self._published_s = time.monotonic()

    def _unchanged(self) -> None:
        """See that the lines there are those that were read.

        Raises:
            OutputError: somebody else wrote them.
        """
        for name, content in self._plan.named.items():
            if self._store.read(name) != content:
                raise OutputError(
                    f"{self._store.location}/{name} was written by someone else meanwhile; "
                    "nothing more was named. Run the same again when they are done."
                )

    def _arrived(self, name: str) -> Iterator[bytes]:
        """Yield the lines whose shards are there; of others' samples only when those are."""
        samples = not any(
            self._left[record.path] for _, _, record in self._plan.source.shards()
            if record.group == "samples"
        )  # fmt: skip
        before = set(self._plan.named.get(name, b"").splitlines(keepends=True))
        for line in self._plan.source.lines[name]:
            if line.content in before or self._is_whole(line, samples):
                yield line.content

    def _is_whole(self, line: Line, samples: bool) -> bool:
        if line.record.group != "samples" and not samples:
            return False
        return not isinstance(line.record, ShardRecord) or not self._left[line.record.path]

    def _push_index(self) -> None:
        """Send the index if it covers nothing that is not there; remove older ones."""
        files, named = self._plan.source.files, self._plan.named
        for name in files.names(layout.INDEX_DIR, ".arrow"):
            record = {"bytes": files.size(name), CHECKSUM: Path(name).stem}
            path = files.local(name, record)
            covered = from_file(path)
            fits = covered.is_bound and all(
                covered_hash(named.get(manifest, b""), size) == covered.hashes[manifest]
                and len(named.get(manifest, b"")) >= size
                for manifest, size in covered.manifests.items()
            )
            if not fits:
                continue
            if name not in self._plan.indexes:
                self._store.put(name, path, record)
            for older in self._plan.indexes:
                if older != name and older.endswith(".arrow"):
                    self._store.remove(older)
            return
