"""Where a writer may write: a tape or nothing, its lock, and what a killed run of its left."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from pathlib import Path, PurePosixPath
from typing import IO

from cache_schema import layout
from cache_schema.codecs.files import NO_LOCKS, make_dirs
from cache_schema.errors import OutputError, ProvenanceError, TapeError
from cache_schema.maker import (
    GroupInfo,
    check_format,
    check_group,
    group_from_json,
    refuse_other_maker,
)
from cache_schema.manifest import (
    ShardRecord,
    drop_cut_line,
    records_of,
)


class WriterBusyError(TapeError):
    """Another process holds the lock of a writer's name."""


DEFAULT_LICENCE = "unspecified"
"""Of a tape whose maker said nothing."""


def check_output(root: Path) -> bool:
    """Return whether a tape is at ``root``; a missing or empty folder is a place for a new one.

    Raises:
        OutputError: the folder holds something else.
        TapeError: it holds a tape of another version.
    """
    file = root / layout.DATASET_FILE
    if not file.exists():
        if not root.exists() or (root.is_dir() and all(map(_is_leftover, root.iterdir()))):
            return False
        if not file.exists():  # or another writer made the tape between the two looks
            raise OutputError(
                f"{root} holds something that is not a tape; nothing was changed. "
                "Give --out a new or empty folder."
            )
    check_format(file.read_bytes(), str(root))
    return True


def _is_leftover(path: Path) -> bool:
    """Whether a path was left by a run killed while it made the tape."""
    return path.match(f".{layout.DATASET_FILE}.*.tmp")


def refuse_links(root: Path, *names: str) -> None:
    """Refuse links inside a tape: what is written or removed through one may lie outside.

    Args:
        root: the tape; it may be reached through links itself.
        names: paths below it that are to be written or removed; they need not exist.

    Raises:
        TapeError: a path, or a folder it lies in, is a symbolic link.
    """
    parents = [PurePosixPath(name).parents for name in names]
    paths = {*names, *(str(parent) for above in parents for parent in list(above)[:-1])}
    for path in sorted(root / name for name in paths):
        if path.is_symlink():
            raise TapeError(
                f"{path} is a link; a tape that is written to holds plain files and folders only. "
                "Put a copy in the link's place."
            )


def refuse_others(root: Path, info: GroupInfo, licence: str) -> None:
    """Refuse to add to what someone else made, or under another licence.

    Raises:
        ProvenanceError: naming what differs.
        TapeError: the group's name is none, or nobody could read its signals.
    """
    check_group(info, str(root))
    file = root / layout.DATASET_FILE
    if licence != DEFAULT_LICENCE and file.exists():
        recorded = check_format(file.read_bytes(), str(root))["licence"]
        if recorded != licence:
            raise ProvenanceError(
                f"{root}: its licence is {recorded!r}, now {licence!r} was given; a tape keeps the "
                "licence it was made with"
            )
    maker = root / layout.group_file(info.group)
    if maker.exists():
        refuse_other_maker(group_from_json(maker.read_bytes(), str(maker)), info)
    else:
        _refuse_long(root, info)


def _refuse_long(root: Path, info: GroupInfo) -> None:
    """Refuse a group of which more is to be said than a reader would read.

    Raises:
        TapeError: saying how much; that may be the names of tens of thousands of classes.
    """
    try:
        info.to_json()
    except TapeError as error:
        raise TapeError(
            f"{root}: what is said of group {info.group!r} is too long: {error}"
        ) from error


def lock(path: Path) -> IO[bytes]:
    """Take a writer's lock until the returned file is closed.

    Raises:
        WriterBusyError: another process holds it.
        TapeError: the file system has no locks, or the lock is a link.
    """
    refuse_links(path.parent.parent, f"{path.parent.name}/{path.name}")
    make_dirs(path.parent)
    file = path.open("ab")
    try:
        _take(file)
    except BlockingIOError as error:
        file.close()
        raise WriterBusyError(
            f"another process (of writer {path.stem!r}) is writing to {path.parent.parent}; "
            "wait for it, or give each worker its own --worker I/N"
        ) from error
    except OSError as error:
        file.close()
        if error.errno not in NO_LOCKS:
            raise
        raise TapeError(
            f"{path.parent.parent}: this file system has no locks ({error.strerror}), without "
            "which two writers could damage each other's work; write to another disk and copy "
            "the tape here (reading it here works)"
        ) from error
    return file


def _take(file: IO[bytes]) -> None:
    """Take a lock now, or after whoever only asks whether it is held let go of it."""
    for pause_s in (0.05, 0.2):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(pause_s)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(path: Path) -> bool:
    """Whether a writer is open right now; nothing is written, not even the lock's file.

    None can be where the file system has no locks.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return False


def recover(root: Path, group: str, writer: str) -> int:
    """Remove what a killed run of a writer left of a group; return its next sequence number.

    Raises:
        TapeError: the manifest is damaged, or a path to be written or removed is a link.
    """
    refuse_links(root, layout.manifest_file(writer), layout.group_dir(group))
    manifest = root / layout.manifest_file(writer)
    folder = root / layout.group_dir(group)
    leftovers = [*folder.glob(f".{writer}-*"), *folder.glob(f"[0-9]*/{writer}-*")]
    inside = [*folder.glob("[0-9]*"), *leftovers]
    refuse_links(root, *(path.relative_to(root).as_posix() for path in inside))
    drop_cut_line(manifest)
    committed: set[str] = set()
    if manifest.exists():
        records = records_of(manifest.read_bytes(), str(manifest))
        committed = {r.path for r in records if isinstance(r, ShardRecord)}
    for leftover in leftovers:
        if leftover.relative_to(root).as_posix() not in committed:
            shutil.rmtree(leftover)
    mine = layout.group_dir(group) + "/"
    return 1 + max(
        (layout.shard_sequence(path) for path in committed if path.startswith(mine)), default=-1
    )
