"""Attaching recordings to a tape that refers to them: found by content, whatever they are called.

What a data set's row is expected to hold is tried first, each recording decoded once. What is still
missing is looked for among all that the owner has; a recording that is found is decoded again when
it is written, so that nothing large is kept, and its whole hash is compared then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cache_schema import layout, open_tape, takeover
from cache_schema.attached import TABLE
from cache_schema.codecs.arrow_file import to_table, write_table
from cache_schema.codecs.files import CHECKSUM, NO_ROOM, make_dirs, sync_dir
from cache_schema.codecs.pcm import audio_sha256, encode_audio
from cache_schema.errors import AudioError, DatasetError, OutputError, UsageError
from cache_schema.remote.files import is_url
from cache_schema.rows.values import Row
from cache_schema.signals import SCHEMAS
from cache_schema.types import FloatArray, IntArray
from cache_schema.validate.findings import Counting
from pipeline.share.owned import Owned
from pipeline.share.tasks import in_order
from pipeline.share.wanted import NONE, Reference, Wanted, key_of

JOBS = 4
"""Recordings decoded at one time."""

PIECE_BYTES = 64 << 20
_SHOWN = 5
_UNREAD, _READ, _UNREADABLE = 0, 1, 2


@dataclass
class Attached:
    """What an attachment did.

    Attributes:
        samples: samples of shards without recordings.
        earlier: those that had one attached before.
        now: those that have got one.
        looked_at: recordings of the owner's that were read.
        aside: files that were not, by their names.
        counts: of those ``other`` (no sample's recording) and ``unreadable``.
        shown: the same -> the first of them, named.
        missing: ids of samples that have none.
    """

    samples: int = 0
    earlier: int = 0
    now: int = 0
    looked_at: int = 0
    aside: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    shown: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def tell(self, kind: str, what: str) -> None:
        """Count one of the owner's recordings that is of no use."""
        self.counts[kind] += 1
        if self.counts[kind] <= _SHOWN:
            self.shown.setdefault(kind, []).append(what)


def attach(location: str, open_one: Callable[[Mapping[str, object]], Owned], counting: Counting
           ) -> Attached:  # fmt: skip
    """Attach what is found; one that was stopped is continued by the same call.

    Args:
        location: a tape on this machine.
        open_one: opens the owner's recordings, told how the tape's samples were made.
        counting: draws progress.

    Raises:
        UsageError: the tape is not on this machine.
        DatasetError: the owner has none of the recordings.
        OutputError: another attachment is at work there, or the disk is full.
        TapeError: the tape is damaged.
    """
    if is_url(location):
        raise UsageError(
            f"{location}: pull it first; recordings are attached to a tape that is here"
        )
    root = Path(location)
    with _lock(root):
        tape = open_tape(root)
        wanted = Wanted(tape)
        done = Attached(samples=len(wanted), earlier=wanted.earlier)
        if wanted.lacking:
            owned = open_one(tape.groups["samples"].identity)
            done.aside = owned.aside
            _Search(root, wanted, owned, done).run(counting)
            done.missing = [one.sample_id for one in wanted.all_lacking()]
            if not done.now:
                _refuse_nothing(location, owned, done)
    return done


def _refuse_nothing(location: str, owned: Owned, done: Attached) -> None:
    told = "".join(
        f"\n  {kind}: {done.counts[kind]}, such as {names[0]}" for kind, names in done.shown.items()
    )
    raise DatasetError(
        f"{owned.location}: of {done.looked_at} recordings none is one that {location} lacks "
        f"({len(done.missing)} of {done.samples}). They are known by the sha256 of their samples "
        f"at 16 kHz, which coding with loss changes; nothing was attached.{told}"
    )


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    open_tape(root)  # or there is nothing to lock
    try:
        lock = takeover.lock(root / layout.ATTACHED_LOCK)
    except takeover.WriterBusyError as error:
        raise OutputError(f"{root}: recordings are being attached by another process") from error
    with lock:
        yield


class _Search:
    """One attachment at work."""

    def __init__(self, root: Path, wanted: Wanted, owned: Owned, done: Attached) -> None:
        self._root = root
        self._wanted = wanted
        self._owned = owned
        self._done = done
        self._keys = np.zeros(owned.count, dtype=np.uint64)
        self._states = np.full(owned.count, _UNREAD, dtype=np.int8)

    def run(self, counting: Counting) -> None:
        """Attach by rows, then whatever is found anywhere."""
        wanted, owned = self._wanted, self._owned
        if owned.by_row:
            with counting("attach", wanted.lacking) as count:
                for shard in range(len(wanted.shards)):
                    expected = {
                        one: one.row_index
                        for one in wanted.lacking_of(shard)
                        if one.row_index < owned.count
                    }
                    self._write(shard, expected, count)
        if wanted.lacking:
            with counting("look for the rest", owned.count) as count:
                self._look(count)
        self._done.looked_at = int((self._states != _UNREAD).sum())

    def _look(self, count: Callable[[int], None]) -> None:
        """Go through all that the owner has; write a shard when nothing of it is missing."""
        wanted = self._wanted
        found = np.full(len(wanted), NONE, dtype=np.int64)
        left = [int((~wanted.here[wanted.span(n)]).sum()) for n in range(len(wanted.shards))]
        for number, key in in_order(self._key, range(self._owned.count), JOBS):
            count(1)
            if isinstance(key, AudioError):
                self._refused(number, key)
            for shard in self._match(number, key, found) if isinstance(key, int) else ():
                left[shard] -= 1
                if not left[shard]:
                    self._write_found(shard, found)
            if not any(left):
                return
        for shard, missing in enumerate(left):
            if missing:
                self._write_found(shard, found)

    def _match(self, number: int, key: int, found: IntArray) -> list[int]:
        """Note whose recording this is; return the shard of each sample that had none."""
        same = self._wanted.with_key(key)
        if not len(same):
            self._done.tell("other", self._owned.name(number))
        new = same[(found[same] == NONE) & ~self._wanted.here[same]]
        found[new] = number
        return [self._wanted.shard_of(one) for one in new.tolist()]

    def _write_found(self, shard: int, found: IntArray) -> None:
        lacking = self._wanted.lacking_of(shard)
        numbers = {one: int(found[one.number]) for one in lacking if found[one.number] != NONE}
        self._write(shard, numbers, lambda _count: None)

    def _key(self, number: int) -> int | AudioError | None:
        """Return the key of one of the owner's recordings; one that was read is remembered."""
        if self._states[number] == _UNREAD:
            try:
                self._read(number)
            except AudioError as error:
                return error
        return int(self._keys[number]) if self._states[number] == _READ else None

    def _read(self, number: int) -> tuple[FloatArray, str]:
        """Read one of the owner's recordings, and remember its key.

        Raises:
            AudioError: it cannot be read.
        """
        self._states[number] = _UNREADABLE
        audio = self._owned.read(number)
        sha256 = audio_sha256(audio)
        self._keys[number] = key_of(sha256)
        self._states[number] = _READ
        return audio, sha256

    def _refused(self, number: int, error: AudioError) -> None:
        self._done.tell("unreadable", f"{self._owned.name(number)}: {error}")

    def _write(
        self, shard: int, numbers: Mapping[Reference, int], count: Callable[[int], None]
    ) -> None:
        """Attach what proves to be the recordings of a shard, in pieces of bounded size."""
        rows: list[Row] = []
        taken: list[int] = []
        size = 0
        for (one, number), row in in_order(self._row, numbers.items(), JOBS):
            count(1)
            if isinstance(row, AudioError):
                self._refused(number, row)
            if not isinstance(row, dict):
                continue
            rows.append(row)
            taken.append(one.number)
            size += len(row["audio"])
            if size >= PIECE_BYTES:
                self._commit(shard, rows, taken)
                rows, taken, size = [], [], 0
        if rows:
            self._commit(shard, rows, taken)

    def _row(self, item: tuple[Reference, int]) -> Row | AudioError | None:
        """Return the row of a sample, ``None`` if the recording is another one."""
        one, number = item
        try:
            audio, sha256 = self._read(number)
        except AudioError as error:
            return error
        if sha256 != one.sha256:
            return None
        data, dtype = encode_audio(audio)
        return {"sample_id": one.sample_id, "audio": data, "audio_dtype": dtype}

    def _commit(self, shard: int, rows: list[Row], taken: list[int]) -> None:
        """Write a piece beside, then give it the name of its content."""
        folder = self._root / layout.attached_dir(self._wanted.shards[shard].record.path)
        beside = folder / ".piece.tmp"
        takeover.refuse_links(self._root, str(beside.relative_to(self._root)))
        try:
            make_dirs(folder)
            beside.unlink(missing_ok=True)
            file = write_table(beside, to_table(SCHEMAS[TABLE], rows))
            beside.replace(folder / f"{file[CHECKSUM]}.arrow")
            sync_dir(folder)
        except OSError as error:
            beside.unlink(missing_ok=True)
            if error.errno not in NO_ROOM:
                raise
            raise OutputError(
                f"the disk of {self._root} is full; what is attached stays. Make room and run the "
                "same again."
            ) from error
        self._wanted.here[taken] = True
        self._done.now += len(taken)
