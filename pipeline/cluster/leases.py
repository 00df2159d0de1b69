"""Leases: which worker is at which portion of a group's rows, as files beside the tape's own.

    TAPE/.leases/<group>/portions                   rows of a portion, and this folder's life
    TAPE/.leases/<group>/NNN/<portion>.<generation>   taken; its mtime is the last heartbeat
    TAPE/.leases/<group>/NNN/<portion>.<generation>.done   every row of it is on the tape

A portion is taken by linking a whole file into its place, which one of many succeeds in. Nothing is
renamed or removed afterwards: whoever takes over a portion links the next generation, so that two
cannot both do it, and a worker has lost its lease as soon as a later generation is there. A step
that finds nothing left removes the folder.

A worker is thought dead when its mtime stands still for ``expires_s`` by the clock of whoever
looks; clocks are never compared. On the same machine its lock on the file tells at once. Who looks
may have been stopped itself, or have waited for a server that was away for everybody: of the time
between two looks only ``expires_s / LOOKS`` count.

What is assumed of a shared file system: hard links are made atomically (NFS does), a file that is
opened shows its true mtime and mode (NFS: close-to-open), and locks (flock) work, as every writer
needs. A name that was not there may stay unseen for a while (NFS keeps that for a minute): so
whoever takes over also takes the right to write from the file of the lease before.
Leases save work and protect nothing: where they fail, two workers record the same rows, each under
a writer's name of its own, and readers take what was committed first.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_schema import layout, takeover
from cache_schema.codecs.files import NO_HARD_LINKS, make_dirs
from cache_schema.commands.console import printable
from cache_schema.errors import OutputError, UsageError
from pipeline.cluster.lease import Lease, Silence, done_file

FOLDER_SIZE = 1000
"""Portions whose files are in one folder."""

LOOKS = 3
"""A lease is looked at more often than this before it is taken over for its silence."""

_NAME = re.compile(r"(\d+)\.(\d+)(\.done)?", re.ASCII)
"""What the file of a lease is called."""

_TAKEN = 0o444
"""Mode of the file of a lease that was taken over."""

_MAX_NOTE = 4096
"""Bytes of a lease that are read."""


@dataclass(frozen=True, kw_only=True)
class Top:
    """The last that is known of a portion.

    Attributes:
        generation: how often it was taken before, from 0; -1 if it never was.
        done: whether whoever took it last went through it.
    """

    generation: int
    done: bool


class Leases:
    """The leases of one group, as one worker sees them.

    Args:
        root: the tape; it exists.
        group: whose rows are shared out.
        rows: rows of a portion.
        heartbeat_s: seconds between two heartbeats of a lease that is held.
        expires_s: seconds without one after which a lease is taken over.
    """

    def __init__(
        self, root: Path, group: str, rows: int, heartbeat_s: float, expires_s: float
    ) -> None:
        self.rows = rows
        self._root, self._folder = root, root / layout.LEASES_DIR / group
        self._heartbeat_s, self._expires_s = heartbeat_s, expires_s
        self._me = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._beats: dict[Path, Silence] = {}

    def open(self) -> str:
        """Make the folder where it is missing; return which life of it this is.

        Raises:
            UsageError: other workers share out portions of another size.
            TapeError: a link stands in its place.
        """
        file = self._folder / "portions"
        takeover.refuse_links(self._root, f"{layout.LEASES_DIR}/{self._folder.name}/portions")
        life = {"rows": self.rows, "life": secrets.token_hex(8)}
        while not file.exists():
            make_dirs(self._folder)
            with contextlib.suppress(FileNotFoundError):  # the folder was removed meanwhile
                descriptor = self._put(file, life)
                if descriptor is not None:
                    os.close(descriptor)
        with contextlib.suppress(FileNotFoundError), file.open("rb") as opened:
            life = _note_in(opened.read(_MAX_NOTE))
        if life.get("rows") != self.rows:
            raise UsageError(
                f"{self._folder}: other workers share out {life.get('rows')} rows at a time, this "
                f"one was told {self.rows}; give all of them the same --set cluster.portion_rows"
            )
        return str(life.get("life"))

    def tops(self) -> dict[int, Top]:
        """Return what is known of every portion that was ever taken."""
        found: dict[int, Top] = {}
        for folder in self._folder.glob("[0-9]*"):
            takeover.refuse_links(self._root, folder.relative_to(self._root).as_posix())
            with contextlib.suppress(FileNotFoundError):
                for file in folder.iterdir():
                    if (match := _NAME.fullmatch(file.name)) is None:
                        continue
                    portion, top = int(match[1]), Top(generation=int(match[2]), done=bool(match[3]))
                    known = found.get(portion, Top(generation=-1, done=False))
                    if (top.generation, top.done) > (known.generation, known.done):
                        found[portion] = top
        return found

    def top(self, portion: int, known: Top) -> Top:
        """Return the last of a portion, looked up from what was known of it before."""
        generation = known.generation
        while self._file(portion, generation + 1).exists():
            generation += 1
        done = generation >= 0 and done_file(self._file(portion, generation)).exists()
        return Top(generation=generation, done=done)

    def claim(self, portion: int, generation: int) -> Lease | None:
        """Take a portion for the ``generation``-th time; ``None`` if another was faster."""
        file = self._file(portion, generation)
        try:
            file.parent.mkdir(exist_ok=True)
            descriptor = self._put(file, {"host": socket.gethostname(), "pid": os.getpid()})
        except FileNotFoundError:  # the folder was removed: there is nothing left to do
            return None
        if descriptor is None:
            return None
        if generation:
            with contextlib.suppress(OSError):  # it is gone, or another user's
                self._file(portion, generation - 1).chmod(_TAKEN)
        return Lease(file, self._file(portion, generation + 1), descriptor, self._heartbeat_s)

    def is_dead(self, portion: int, generation: int) -> str:
        """Return why a lease is anyone's to take over; empty while its worker may live."""
        path = self._file(portion, generation)
        try:
            with path.open("rb") as file:  # opening asks the server, where there is one
                beat = os.fstat(file.fileno()).st_mtime_ns
                note = _note_in(file.read(_MAX_NOTE))
                if beat == 0:
                    return "was given back"
                if _boot() and note.get("boot") == _boot() and _is_unlocked(file.fileno()):
                    return "ended"
        except FileNotFoundError:
            return ""
        silence = self._beats.setdefault(path, Silence(beat))
        if silence.at_look(beat, self._expires_s / LOOKS) > self._expires_s:
            return f"was not heard of for {self._expires_s:g} s ({_who(note)})"
        return ""

    def remove(self) -> None:
        """Remove the folder: nothing is left to share out."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another group's are there
            self._folder.parent.rmdir()

    def _file(self, portion: int, generation: int) -> Path:
        return self._folder / f"{portion // FOLDER_SIZE:03d}" / f"{portion:06d}.{generation}"

    def _put(self, file: Path, note: dict[str, Any]) -> int | None:
        """Put a file in its place, whole and locked; return it open, ``None`` if one is there."""
        beside = file.with_name(f".{self._me}.tmp")
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            boot = _boot()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                boot = ""  # without a lock that tells of its end, the heartbeat has to do
            os.write(descriptor, json.dumps({**note, "boot": boot}).encode())
            with contextlib.suppress(FileExistsError):
                os.link(beside, file)
            if os.fstat(descriptor).st_nlink == 2:  # whatever a reply that was lost said
                return descriptor
            os.close(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in NO_HARD_LINKS:
                raise
            raise OutputError(
                f"{file}: this file system has no hard links ({error.strerror}), by which workers "
                "share out rows; give each of them its own --worker I/N"
            ) from error
        finally:
            beside.unlink(missing_ok=True)
        return None


def _note_in(content: bytes) -> dict[str, Any]:
    """Return what a file says; nothing in it is believed to be there."""
    with contextlib.suppress(ValueError):
        note = json.loads(content)
        if isinstance(note, dict):
            return note
    return {}


def _who(note: dict[str, Any]) -> str:
    return printable(f"process {note.get('pid')} on {note.get('host')}")


def _is_unlocked(descriptor: int) -> bool:
    """Whether the process that locked a file of this machine has ended."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held, or there are no locks here
        return False
    return True


def _boot() -> str:
    """Return what names this machine until it is started again; empty where that is not known."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""
