"""Which lines a seal covers, and what was committed after it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cache_schema import layout
from cache_schema.committed import Shard
from cache_schema.errors import TapeError
from cache_schema.files import TapeFiles
from cache_schema.manifest import Quarantined, ShardRecord, parse_line, whole_lines
from cache_schema.seals import is_manifest
from cache_schema.signals import SCHEMAS
from cache_schema.validate.findings import Findings


@dataclass(kw_only=True)
class Added:
    """What was committed after a tape was sealed.

    Attributes:
        shards: their records.
        quarantined: samples that were said to have failed.
        groups: makers of whom the seal knows nothing.
    """

    shards: list[ShardRecord] = field(default_factory=list)
    quarantined: int = 0
    groups: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.shards or self.quarantined or self.groups)

    def __str__(self) -> str:
        groups = f" and groups {', '.join(self.groups)}" if self.groups else ""
        return f"{len(self.shards)} shards, {self.quarantined} quarantined samples{groups}"


def check_lines(root: Path, known: Mapping[str, int], found: Findings) -> None:
    """Tell of shards that a sealed line names and the list does not: nobody vouched for them."""
    for name in filter(is_manifest, known):
        with suppress(OSError), (root / name).open("rb") as file:  # told with the other files
            for _, line in whole_lines(file.read(known[name])):
                with suppress(TapeError):  # told by ``validate``
                    record = parse_line(line, name)
                    if isinstance(record, ShardRecord):
                        _check_listed(record, known, found)


def _check_listed(record: ShardRecord, known: Mapping[str, int], found: Findings) -> None:
    names = [layout.SHARD_FILE, *record.files]
    absent = [name for name in names if f"{record.path}/{name}" not in known]
    if absent:
        told = f"{len(absent)} of its files, the first is {absent[0]}"
        found.add(record.path, "seal", f"a sealed line names it, and the seal does not list {told}")


def added_since(root: Path, known: Mapping[str, int]) -> Added:
    """Return what is committed beyond the list; damaged lines are told by ``validate``."""
    added = Added()
    for path in sorted((root / layout.GROUPS_DIR).glob("*.json")):
        if f"{layout.GROUPS_DIR}/{path.name}" not in known and not path.name.startswith("."):
            added.groups.append(path.stem)
    for path in sorted((root / layout.MANIFEST_DIR).glob("*.jsonl")):
        if path.name.startswith(".") or path.is_symlink():
            continue
        name = f"{layout.MANIFEST_DIR}/{path.name}"
        for _, line in whole_lines(path.read_bytes(), known.get(name, 0)):
            with suppress(TapeError):
                record = parse_line(line, name)
                if isinstance(record, Quarantined):
                    added.quarantined += 1
                else:
                    added.shards.append(record)
    return added


def check_repeats(root: Path, known: Mapping[str, int], added: Added, found: Findings) -> None:
    """Tell of samples that both the sealed and the added shards of a group record.

    What was added may stand before what was sealed, and would then be read in its place.
    """
    sealed: dict[str, list[str]] = {}
    for path in known:
        if path.endswith(f"/{layout.SHARD_FILE}"):
            sealed.setdefault(path.split("/")[1], []).append(path.rpartition("/")[0])
    files = TapeFiles(str(root))
    for group in sorted({record.group for record in added.shards}):
        with found.checking(group, "seal"):
            new = _ids(files, [one for one in added.shards if one.group == group])
            for path in sealed.get(group, []):
                record = parse_line(files.read(f"{path}/{layout.SHARD_FILE}"), path)
                assert isinstance(record, ShardRecord)
                ids = _ids(files, [record])
                again = ids.filter(pc.is_in(ids, new))
                if len(again):
                    told = f"{len(again)} samples, the first is {again[0].as_py()!r}"
                    found.add(path, "recorded again", f"by what was added since: {told}")


def _ids(files: TapeFiles, records: list[ShardRecord]) -> pa.Array:
    """Return the ids of the samples that shards have rows of, each once."""
    columns = [
        Shard.of(files, record).table(table).column("sample_id").combine_chunks()
        for record in records
        for table in record.rows
        if table in SCHEMAS and table != "audio"
    ]
    return pc.unique(pa.chunked_array(columns, type=pa.string()))
