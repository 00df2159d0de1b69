"""Checking recordings that were attached to a tape: each file, and whose recordings it holds."""

from __future__ import annotations

from pathlib import Path

from cache_schema import layout
from cache_schema.attached import TABLE, open_piece
from cache_schema.codecs.columns import Columns
from cache_schema.codecs.pcm import audio_sha256
from cache_schema.committed import Shard
from cache_schema.errors import TapeError
from cache_schema.rows.values import audio_of
from cache_schema.validate.files import Contents
from cache_schema.validate.findings import Counting, Findings


def check_attached(
    root: Path, contents: Contents, found: Findings, counting: Counting, *, deep: bool
) -> None:
    """Check what is attached to each shard; of shards that are gone it is told and left.

    Args:
        root: the tape.
        contents: its metadata.
        found: gets the problems, of kinds ``checksum``, ``attached`` and ``unnamed``.
        counting: draws progress.
        deep: decode every recording and compare its hash.
    """
    pieces = sorted((root / layout.ATTACHED_DIR).glob("[0-9]*/*/*.arrow"))
    if not pieces:
        return
    of_shard = {
        layout.attached_dir(path): shard
        for path, shard in contents.shards.items()
        if shard.record.group == "samples"
    }
    with counting("attached", sum(piece.lstat().st_size for piece in pieces)) as count:
        for piece in pieces:
            name = piece.relative_to(root).as_posix()
            shard = of_shard.get(str(Path(name).parent))
            if shard is None:
                found.add(name, "unnamed", "attached to a shard that the tape has not")
            elif name not in found.broken:
                found.files += 1
                found.bytes += piece.lstat().st_size
                _check_piece(name, shard, contents, found, deep)
            count(piece.lstat().st_size)


def _check_piece(name: str, shard: Shard, contents: Contents, found: Findings, deep: bool) -> None:
    try:
        piece, samples = open_piece(contents.files, name), shard.columns("samples")
        rows = {one: row for row, one in enumerate(_ids(samples))}
    except TapeError as error:
        found.add(name, "checksum", str(error))
        return
    for number, sample_id in enumerate(_ids(piece)):
        row = rows.get(sample_id)
        if row is None:
            found.add(name, "attached", f"sample {sample_id!r} is not of this shard")
        elif deep:
            with found.checking(name, "attached"):
                audio = audio_of(piece.row(number), samples.cell("num_audio_samples", row), name)
                if audio_sha256(audio) != samples.cell("audio_sha256", row):
                    told = f"row {number} of {TABLE} is not the recording of {sample_id!r}"
                    raise TapeError(told)


def _ids(columns: Columns) -> list[str]:
    ids: list[str] = columns.table.column("sample_id").to_pylist()
    return ids
