"""Recordings that a tape refers to by hash, attached to it from their owner's files.

They lie beside the shards, in pieces of rows of ``audio``: ``attached/<NNN>/<writer>-<seq>/`` has
those of one shard of samples, each piece named by its checksum. They are no part of what was
committed: nothing names them, no seal lists them, and they do not travel with push and pull.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cache_schema import layout
from cache_schema.codecs.arrow_file import MappedFile, read_table
from cache_schema.codecs.columns import Columns
from cache_schema.codecs.files import CHECKSUM
from cache_schema.errors import TapeError
from cache_schema.files import TapeFiles
from cache_schema.rows.checks import Row
from cache_schema.signals import SCHEMAS

if TYPE_CHECKING:
    from cache_schema.committed import Shard
    from cache_schema.reader import Tape

TABLE = "audio"
_Places = Mapping[str, tuple[str, int]]
"""Sample id -> the piece that holds its recording, and its row there."""


def attached_row(files: TapeFiles, path: str, sample_id: str) -> Row | None:
    """Return the ``audio`` row of a sample, ``None`` if no recording of it is attached.

    Args:
        files: the tape's; of one behind a URL nothing is looked for.
        path: the shard of samples it is recorded in.
        sample_id: whose.

    Raises:
        TapeError: a piece is damaged.
    """
    place = attached_places(files, path).get(sample_id)
    return None if place is None else open_piece(files, place[0]).row(place[1])


def attached_places(files: TapeFiles, path: str) -> _Places:
    """Return where the recordings attached to a shard are, as it was when first asked.

    Raises:
        TapeError: a piece is damaged.
    """
    folder = layout.attached_dir(path)

    def read() -> _Places:
        places: dict[str, tuple[str, int]] = {}
        for name in files.names(folder, ".arrow") if files.is_local else ():
            ids = open_piece(files, name).table.column("sample_id").to_pylist()
            for row, sample_id in enumerate(ids):
                places.setdefault(sample_id, (name, row))
        return places

    return files.opened(folder, read)


def open_piece(files: TapeFiles, name: str) -> Columns:
    """Return a piece opened for single cells.

    Raises:
        TapeError: it is not what its name says, or no table of recordings.
    """

    def read() -> Columns:
        try:
            record = {"bytes": files.size(name), CHECKSUM: Path(name).stem}
        except FileNotFoundError as error:
            raise TapeError(f"{files.location}: {name} is missing; attach again") from error
        file = MappedFile(files.local(name, record))
        return Columns(read_table(file, SCHEMAS[TABLE]), file)

    return files.opened(name, read)


def references(tape: Tape) -> Iterator[tuple[Shard, NDArray[np.bool_]]]:
    """Yield every shard of samples without recordings, and which of its rows have one attached.

    Raises:
        TapeError: a shard or a piece is damaged.
    """
    for shard in tape.shards.get("samples", ()):
        if TABLE not in shard.record.rows:
            places = shard.attached()
            ids = shard.table("samples").column("sample_id").to_pylist()
            yield shard, np.array([one in places for one in ids], dtype=bool)


def is_whole(tape: Tape) -> bool:
    """Whether the tape has the recording of every sample, stored or attached."""
    return all(here.all() for _, here in references(tape))
