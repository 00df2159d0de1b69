"""The writer: whole samples into shards, shards committed atomically, the manifest line last.

Files are written into a hidden directory beside, hashed as they stream, fsynced, renamed into
place, and only then named in the manifest. After a kill at any point at most the open shard is
redone.
"""

from __future__ import annotations

import contextlib
import errno
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from numpy.typing import NDArray

from cache_schema import layout, takeover
from cache_schema.codecs.files import (
    NO_ROOM,
    make_dirs,
    sweep,
    sync_dir,
    write_atomic,
    write_exclusive,
    write_hashed,
)
from cache_schema.commands.console import say
from cache_schema.errors import OutputError
from cache_schema.index.arrays import Index
from cache_schema.index.build import is_tidy, update_index
from cache_schema.maker import GroupInfo, dataset_json
from cache_schema.manifest import Quarantined, ShardRecord, append_line, line_of
from cache_schema.prepare import check_storage, prepare, storage_of
from cache_schema.reader import open_tape
from cache_schema.rows.values import Row
from cache_schema.shard import OpenShard, Storage
from cache_schema.signals import GROUP_TABLES

SHARD_BYTES = 256 << 20
SHARD_SAMPLES = 512
INDEX_EVERY_S = 300.0
"""A long run brings the index up to date so often, so that readers open quickly meanwhile."""

MAX_DETAIL = 4000
"""Characters of a failure's detail that are kept; its manifest line must stay readable."""


class TapeWriter:
    """Adds samples to one group of a tape; use as a context manager.

    Nothing but its lock is written before the first sample is added, adopted or quarantined; the
    tape is made then, if there is none.

    Args:
        root: directory of the tape.
        info: who makes the group. If the group exists, its identity must be the same.
        licence: what a new tape may be used for.
        writer: name of this writer; two open writers of one name exclude each other.
        storage: how signals are stored; as the group's facts say by default.
        shard_bytes: a shard is sealed after this many bytes,
        shard_samples: or after this many samples.

    Raises:
        OutputError: the folder holds something else, or the disk is full.
        ProvenanceError: the group was made by someone else.
        TapeError: the group, or the storage its facts name, is not of this format.
        ValueError: a writer's name that cannot be a file's.
        WriterBusyError: on entering: another writer of this name is open.
    """

    def __init__(
        self,
        root: Path,
        info: GroupInfo,
        *,
        licence: str = takeover.DEFAULT_LICENCE,
        writer: str = "w0",
        storage: Storage | None = None,
        shard_bytes: int = SHARD_BYTES,
        shard_samples: int = SHARD_SAMPLES,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_]+", writer):
            raise ValueError(f"writer name {writer!r}: letters, digits and _ only")
        takeover.check_output(root)
        self._root = root
        self._maker_file = root / layout.group_file(info.group)
        self._info = info
        self._licence = licence
        self._writer = writer
        self._storage = storage or storage_of(info.signals)
        self._shard_bytes = shard_bytes
        self._shard_samples = shard_samples
        self._shard: OpenShard | None = None
        self._lock: IO[bytes] | None = None
        self._seq: int | None = None
        self._indexed_s = time.monotonic()
        check_storage(info.signals, self._storage)
        takeover.refuse_others(root, info, licence)

    def __enter__(self) -> TapeWriter:
        if takeover.check_output(self._root):
            self._refuse_links()
            with self._disk_errors():
                self._lock = takeover.lock(self._root / layout.lock_file(self._writer))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.seal()
                if self._seq is not None:
                    complete_index(self._root)
            else:
                self.discard()
        finally:
            if self._lock is not None:
                self._lock.close()

    def add(
        self,
        rows: Mapping[str, list[Row]],
        hidden: list[tuple[Row, Mapping[int, NDArray[Any]]]] | None = None,
    ) -> None:
        """Add everything this group records of one sample.

        Args:
            rows: table -> rows, each with its ``sample_id``.
            hidden: ``hidden`` rows (``offset`` and ``count`` are filled in here) with their states,
                layer -> [n, width].

        Raises:
            OutputError: the disk is full; committed shards are safe and the run can be continued.
            TapeError: another process writes under the same name.
            RowError: the sample breaks the format; nothing of it is written, others may follow.
        """
        unknown = {*rows, *(["hidden"] if hidden else [])} - set(GROUP_TABLES[self._info.kind])
        assert not unknown, f"group kind {self._info.kind} holds no {sorted(unknown)}"
        sample = prepare(rows, hidden or [], self._storage, self._info.signals)
        with self._disk_errors():
            self.open()
            if self._shard is None:
                self._shard = OpenShard(self._beside(), self._storage)
            shard = self._shard
            for row, states in sample.hidden:
                shard.add_row("hidden", {**row, "offset": shard.add_states(states)})
            for table, items in sample.rows.items():
                for item in items:
                    shard.add_row(table, item)
            shard.samples += 1
            if shard.bytes >= self._shard_bytes or shard.samples >= self._shard_samples:
                self.seal()

    def quarantine(self, sample_id: str, row_index: int, reason: str, detail: str) -> None:
        """Record durably that this sample could not be recorded; errors are those of ``add``."""
        record = Quarantined(
            group=self._info.group,
            sample_id=sample_id,
            row_index=row_index,
            reason=reason,
            detail=detail if len(detail) <= MAX_DETAIL else detail[:MAX_DETAIL] + " ... (cut)",
        )
        with self._disk_errors():
            self.open()
            append_line(
                self._root / layout.manifest_file(self._writer), line_of("quarantine", record)
            )

    def adopt(self, fill: Callable[[Path], ShardRecord]) -> None:
        """Commit a shard of another tape.

        Args:
            fill: puts the shard's files, durable, into a new directory; returns their record.

        Raises:
            OutputError: as for ``add``.
        """
        with self._disk_errors():
            self.open()
            directory = self._beside()
            directory.mkdir(parents=True)
            self._commit(directory, fill(directory))

    def seal(self) -> None:
        """Commit the open shard, if there is one; errors are those of ``add``."""
        if self._shard is None:
            return
        shard = self._shard
        with self._disk_errors():
            files = shard.seal()
            record = ShardRecord(
                group=self._info.group,
                path="",
                fingerprint=self._info.fingerprint,
                samples=shard.samples,
                rows=shard.num_rows,
                totals=dict(shard.totals),
                states=shard.states,
                files=files,
            )
            self._commit(shard.directory, record)
        self._shard = None
        if time.monotonic() - self._indexed_s >= INDEX_EVERY_S:
            complete_index(self._root)
            self._indexed_s = time.monotonic()

    def discard(self) -> None:
        """Give up the open shard, if there is one."""
        if self._shard is not None:
            self._shard.discard()
            self._shard = None

    def _commit(self, directory: Path, record: ShardRecord) -> None:
        """Put a whole shard in its place; it exists when its manifest line is written."""
        assert self._seq is not None
        path = layout.shard_dir(self._info.group, self._writer, self._seq)
        line = line_of("shard", replace(record, path=path))
        write_hashed(directory / layout.SHARD_FILE, line)
        sync_dir(directory)
        final = self._root / path
        make_dirs(final.parent)
        directory.rename(final)
        sync_dir(final.parent)
        append_line(self._root / layout.manifest_file(self._writer), line)
        self._seq += 1

    def _beside(self) -> Path:
        """Return where the next shard is written before it is committed."""
        folder = self._root / layout.group_dir(self._info.group)
        return folder / f".{self._writer}-{self._seq:06d}"

    def open(self) -> int:
        """Make tape and group where they are missing, and take the writer's lock, if not done.

        Returns:
            How many shards of the group this writer has committed, earlier runs included.
        """
        if self._seq is None:
            self._refuse_links()
            if not takeover.check_output(self._root):
                write_atomic(self._root / layout.DATASET_FILE, dataset_json(self._licence))
            sweep(self._root / layout.DATASET_FILE)
            if self._lock is None:
                self._lock = takeover.lock(self._root / layout.lock_file(self._writer))
            if not write_exclusive(self._maker_file, self._info.to_json(), self._writer):
                takeover.refuse_others(self._root, self._info, self._licence)
            self._seq = takeover.recover(self._root, self._info.group, self._writer)
        return self._seq

    def _refuse_links(self) -> None:
        """Write nothing through a link, wherever it leads."""
        takeover.refuse_links(
            self._root,
            layout.DATASET_FILE,
            layout.group_file(self._info.group),
            layout.manifest_file(self._writer),
            layout.lock_file(self._writer),
            layout.group_dir(self._info.group),
            layout.INDEX_DIR,
        )

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self.discard()
            what = f"the disk of {self._root} is full"
            if error.errno == errno.EFBIG:
                what = f"a file of {self._root} would exceed the size allowed here (ulimit -f)"
            raise OutputError(
                f"{what}; every committed shard is safe. "
                "Make room and run the same command again: it continues."
            ) from error


def complete_index(root: Path) -> None:
    """Bring the index up to date with everything committed by now, by any writer."""

    def current() -> Index | None:
        catalog = open_tape(root).catalog
        return catalog.index if catalog.has_new_lines or not is_tidy(root) else None

    if not update_index(root, current):
        say(
            f"{root}: the index was not brought up to date (no room, or another process holds "
            "index/lock); opening the tape will take longer"
        )
