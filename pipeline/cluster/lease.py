"""A lease that is held, and the silence of one that is not; ``leases`` says how they work."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from pathlib import Path

from cache_schema.errors import TeachertapeError


class LeaseLostError(TeachertapeError):
    """Another worker has taken over the portion; what was not committed of it is given up."""


class Lease:
    """A portion that is this worker's; a thread keeps it so.

    Args:
        path: its file.
        following: the file of whoever takes it over.
        descriptor: of the file, open and locked.
        heartbeat_s: seconds between two heartbeats.
    """

    def __init__(self, path: Path, following: Path, descriptor: int, heartbeat_s: float) -> None:
        self._path, self._following = path, following
        self._descriptor = descriptor
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._keep, args=(heartbeat_s,), daemon=True)
        self._beat.start()

    def _keep(self, heartbeat_s: float) -> None:
        while not self._ended.wait(heartbeat_s):
            with contextlib.suppress(OSError):  # a file that is gone is found by ``check``
                os.utime(self._descriptor)

    def check(self) -> None:
        """Raise if it is another's by now.

        Raises:
            LeaseLostError: it is, or the folder of leases was removed.
        """
        if self._following.exists() or not _is_kept(self._path):
            raise LeaseLostError(
                f"{self._path.name}: another worker took over this portion while this one was "
                "stopped or cut off; its unfinished rows are left to the other"
            )

    def finish(self) -> None:
        """Say that every row of it is on the tape."""
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            os.link(self._path, done_file(self._path))
        self.close()

    def release(self) -> None:
        """Give it back unfinished: it is anyone's at once."""
        self._end()
        with contextlib.suppress(OSError):
            os.utime(self._descriptor, ns=(0, 0))
        os.close(self._descriptor)

    def close(self) -> None:
        """End the heartbeat, of a portion that is done or another's."""
        self._end()
        os.close(self._descriptor)

    def _end(self) -> None:
        self._ended.set()
        self._beat.join()


class Silence:
    """For how long a lease was seen without a heartbeat.

    Args:
        beat: the last one.
    """

    def __init__(self, beat: int) -> None:
        self._beat, self._looked_s, self._silent_s = beat, time.monotonic(), 0.0

    def at_look(self, beat: int, most_s: float) -> float:
        """Return the seconds of silence by now; ``most_s`` at most count since the last look."""
        now_s = time.monotonic()
        gap_s = min(now_s - self._looked_s, most_s)
        self._silent_s = 0.0 if beat != self._beat else self._silent_s + gap_s
        self._beat, self._looked_s = beat, now_s
        return self._silent_s


def done_file(file: Path) -> Path:
    """Return the file that says that a portion is done."""
    return file.with_name(f"{file.name}.done")


def _is_kept(file: Path) -> bool:
    """Whether a lease is there and nobody took the right to write from it."""
    try:
        with file.open("rb") as opened:  # opening asks the server, where there is one
            return bool(os.fstat(opened.fileno()).st_mode & stat.S_IWUSR)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise
        return False
