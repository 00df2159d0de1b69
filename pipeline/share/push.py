"""Pushing a tape: its shards first, then who made them, then the lines that name them, the index.

At any moment what is there is a tape of whole shards: a line is written when every file of its
shard has arrived and was compared. A push that was stopped, or a tape that grew, sends what is
missing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cache_schema import layout
from cache_schema.codecs.files import CHECKSUM
from cache_schema.commands.console import say
from cache_schema.errors import OutputError
from cache_schema.index.arrays import covered_hash, from_file
from cache_schema.manifest import ShardRecord
from cache_schema.validate.findings import Counting
from pipeline.share.contents import Line, read_contents
from pipeline.share.push_lock import PushLock, push_lock
from pipeline.share.push_plan import PushPlan, Sent, differs, local_file
from pipeline.share.tasks import in_order

JOBS = 8
PUBLISH_S = 60.0
"""How often the lines of shards that have arrived are written meanwhile."""


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
        theirs = self._plan.left
        for name in files.names(layout.SEALS_DIR, ".jsonl") if not theirs else ():
            self._store.put_bytes(name, files.content(name))
        self._store.flush("Manifest")
        self._store.describe(read_contents(self._store.location) if theirs else self._plan.source)
        self._store.flush("Index")

    def _send(self, one: Sent) -> int:
        if one.name == layout.SHARD_FILE:
            if not (one.found and not differs(self._plan, one)):
                self._store.put_bytes(one.path, one.line)
            return one.bytes
        path, record = local_file(self._plan, one), one.record.files[one.name]
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
        for name in [name for name in source.lines if name not in self._plan.left]:
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
