"""Checking a whole tape: every problem at once, none hiding another.

Kinds of problems (``Problem.kind``), by what is checked:

- every file: missing, size, checksum, link, not a file, unreadable, unnamed
- metadata: dataset.json, group file, manifest, manifest line, cut line, shard.json
- recordings attached: attached
- shards: orphan, named twice, tables, maker, two samples, twice, index, table
- the whole: not opened (what a reader says on opening the tape)
- rows (deep): row, audio, totals, spans, states, not finite
- joins (deep): no sample, trace index, no trace, no row, tokens, times

Notes are no problems: being written, unfinished, leftover, leases, repeated, index, samples,
tables.
"""

from __future__ import annotations

from pathlib import Path

from cache_schema import layout
from cache_schema.errors import TapeError, UsageError
from cache_schema.manifest import ShardRecord
from cache_schema.reader import open_tape
from cache_schema.validate.attached import check_attached
from cache_schema.validate.files import Contents, check_files
from cache_schema.validate.findings import Counting, Findings, in_threads
from cache_schema.validate.index import Rebuilt, check_index
from cache_schema.validate.joins import Joins, check_both_tables, check_repeated
from cache_schema.validate.rows import ShardCheck, TableFacts


def validate(location: str | Path, counting: Counting, *, deep: bool = False) -> Findings:
    """Check a tape on this machine; nothing on it is changed.

    Args:
        location: the tape's directory.
        counting: draws progress.
        deep: decode every row and read every state too.

    Raises:
        UsageError: not a local directory.
        TapeError: no tape is there, not even a damaged one.
    """
    root = _local_root(location)
    findings = Findings()
    contents = check_files(root, findings, counting)
    rebuilt, index = check_index(contents, findings)
    try:
        open_tape(root)
    except (TapeError, OSError) as error:
        findings.add(".", "not opened", str(error))
    check_repeated(rebuilt, contents, findings)
    check_both_tables(index, findings)
    check_attached(root, contents, findings, counting, deep=deep)
    if deep:
        facts = _check_shards(rebuilt, contents, findings, counting)
        Joins(index, facts, rebuilt, findings).check(contents.groups)
    return findings


def _local_root(location: str | Path) -> Path:
    if "://" in str(location):
        raise UsageError(f"{location}: only a tape on this machine can be verified; copy it first")
    root = Path(location).resolve()
    if not any((root / name).exists() for name in (layout.DATASET_FILE, layout.MANIFEST_DIR)):
        raise TapeError(f"{location}: no tape here ({layout.DATASET_FILE} is missing)")
    return root


def _check_shards(
    rebuilt: Rebuilt, contents: Contents, findings: Findings, counting: Counting
) -> dict[tuple[int, str], TableFacts]:
    """Decode every shard; return (line number, table) -> facts of its rows."""
    todo = [
        (number, line.record)
        for number, line in enumerate(rebuilt.lines)
        if isinstance(line.record, ShardRecord)
        and contents.shards[line.record.path].record is line.record
    ]
    broken = frozenset(findings.broken)
    facts = {}

    def check(item: tuple[int, ShardRecord]) -> tuple[int, ShardRecord, ShardCheck]:
        number, record = item
        shard = contents.shards[record.path]
        return number, record, ShardCheck(shard, contents.groups.get(record.group), broken).run()

    total = sum(file["bytes"] for _, record in todo for file in record.files.values())
    with counting("contents", total) as count:
        for number, record, done in in_threads(check, todo):
            findings.merge(done.findings)
            for table, known in done.facts.items():
                facts[number, table] = known
            count(sum(file["bytes"] for file in record.files.values()))
    return facts
