"""Checking what tables say together: every row has its sample, its trace and as many tokens."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache_schema import layout
from cache_schema.index.arrays import TRACE_BITS, Index
from cache_schema.maker import GroupInfo
from cache_schema.signals import CLASS_SIGNALS, CODEC_OF, SIGNAL_TABLES
from cache_schema.types import SAMPLE_RATE_HZ, TEXT_SOURCE
from cache_schema.validate.files import Contents
from cache_schema.validate.findings import MAX_DETAILED, Findings
from cache_schema.validate.index import Rebuilt
from cache_schema.validate.rows import TableFacts

_TRACE_MASK = np.uint64((1 << TRACE_BITS) - 1)
_TIMED = ("hidden", "frame_logits")
"""Tables whose rows may say where their positions lie in the recording."""

Keys = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Joined:
    """One table of one group, all shards, by key.

    Attributes:
        name: as a problem's location.
        keys: id number and trace of each row, ascending.
        facts: of each row.
        whole: whether all its rows could be read.
    """

    name: str
    keys: Keys
    facts: TableFacts
    whole: bool


class Joins:
    """The joins of a tape.

    Args:
        index: where every row is.
        facts: (number of the manifest line, table) -> facts of its rows.
        rebuilt: says what the index lacks: what cannot be read is not missed.
        findings: where problems go.
    """

    def __init__(
        self,
        index: Index,
        facts: Mapping[tuple[int, str], TableFacts],
        rebuilt: Rebuilt,
        findings: Findings,
    ) -> None:
        self._index = index
        self._rebuilt = rebuilt
        self._facts = facts
        self._findings = findings

    def check(self, groups: Mapping[str, GroupInfo]) -> None:
        """Check every join."""
        self._check_samples()
        for group, info in sorted(groups.items()):
            if info.kind == TEXT_SOURCE:
                self._check_contiguous(group, "trace")
                self._check_contiguous(group, "rejected")
            of_group = self._signal_tables(group)
            of_tokens = [table for signal, table in of_group if signal not in CLASS_SIGNALS]
            tables = {table: self._joined(group, table) for table in of_tokens}
            base = tables.pop("trace", None)
            if base is not None:
                for signal, table in of_group:
                    if table in tables:
                        self._check_tokens(tables[table], base, every=signal in info.signals)
            else:
                for one, other in itertools.pairwise(tables.values()):
                    self._check_tokens(one, other, partial=True)
            if base is None and _reads_traces(info, groups.get(TEXT_SOURCE)):
                traces = self._joined(TEXT_SOURCE, "trace")
                for joined in tables.values():
                    self._check_tokens(joined, traces)
            self._check_times(group)

    def _signal_tables(self, group: str) -> list[tuple[str, str]]:
        """(signal, table) of what a group has, in the order of the format."""
        return [
            (signal, table)
            for signal, tables in SIGNAL_TABLES.items()
            for table in tables
            if (group, table) in self._index.tables
        ]

    def _joined(self, group: str, table: str) -> Joined:
        part = self._index.tables.get((group, table), slice(0, 0))
        lines, rows = self._index.row_line[part], self._index.row_number[part]
        facts = TableFacts.unread(len(lines))
        by_line = np.argsort(lines, kind="stable")
        ends = np.flatnonzero(np.diff(lines[by_line])) + 1
        for of_line in np.split(by_line, ends) if len(lines) else []:
            if known := self._facts.get((int(lines[of_line[0]]), table)):
                for name, values in vars(facts).items():
                    values[of_line] = getattr(known, name)[rows[of_line]]
        return Joined(
            name=f"{group}/{table}",
            keys=self._index.row_key[part],
            facts=facts,
            whole=not self._rebuilt.lacks(group, table),
        )

    def _check_samples(self) -> None:
        """Every id that a group recorded is a sample."""
        if self._rebuilt.lacks("samples", "samples"):
            self._findings.note("samples", "samples", "not all are readable: joins not checked")
            return
        for group, table in sorted(self._index.tables):
            if group == "samples":
                continue
            numbers = self._index.numbers_in(group, table)
            strangers = numbers[numbers >= self._index.num_samples]
            if len(strangers):
                first = self._index.sample_id[int(strangers[0])].as_py()
                self._findings.add(
                    f"{group}/{table}",
                    "no sample",
                    f"{len(strangers)} ids are of no sample, the first is {first!r}",
                )

    def _check_contiguous(self, group: str, table: str) -> None:
        """A sample's traces are numbered from 0."""
        if self._rebuilt.lacks(group, table):
            return
        part = self._index.tables.get((group, table), slice(0, 0))
        keys = self._index.row_key[part]
        traces = (keys & _TRACE_MASK).astype(np.int64) - 1
        first = np.ones(len(keys), dtype=bool)
        first[1:] = (keys[1:] >> np.uint64(TRACE_BITS)) != (keys[:-1] >> np.uint64(TRACE_BITS))
        expected = np.where(first, 0, np.concatenate([[0], traces[:-1] + 1])[: len(keys)])
        self._tell(
            f"{group}/{table}",
            "trace index",
            keys[traces != expected],
            "follows no trace before it",
        )

    def _check_tokens(
        self, table: Joined, base: Joined, *, every: bool = False, partial: bool = False
    ) -> None:
        """Rows of one trace in two tables have the same tokens.

        Args:
            table: rows that belong to traces, or to the audio (left out).
            base: what they are compared with.
            every: whether every row of ``base`` must have one.
            partial: whether a row may lack one in ``base``.
        """
        of_trace = (table.keys & _TRACE_MASK) > 0
        keys = table.keys[of_trace]
        _, here, there = np.intersect1d(keys, base.keys, assume_unique=True, return_indices=True)
        if not partial and base.whole:
            lonely = np.setdiff1d(keys, base.keys, assume_unique=True)
            self._tell(table.name, "no trace", lonely, f"has no row in {base.name}")
        if every and table.whole:
            lacking = np.setdiff1d(base.keys, keys, assume_unique=True)
            self._tell(table.name, "no row", lacking, f"has a row in {base.name} only")
        length, other = table.facts.length[of_trace][here], base.facts.length[there]
        hashes, others = table.facts.target_hash[of_trace][here], base.facts.target_hash[there]
        known = (length >= 0) & (other >= 0) & (hashes > 0) & (others > 0)
        differing = known & (length != other)
        for key, one, two in zip(
            keys[here][differing][:MAX_DETAILED],
            length[differing][:MAX_DETAILED],
            other[differing][:MAX_DETAILED],
            strict=True,
        ):
            self._tell(
                table.name, "tokens", np.array([key]), f"{one} tokens, {base.name} has {two}"
            )
        other_ids = known & (length == other) & (hashes != others)
        self._tell(table.name, "tokens", keys[here][other_ids], f"other token ids than {base.name}")

    def _check_times(self, group: str) -> None:
        """Positions in time end with their audio."""
        for table in _TIMED:
            if (group, table) in self._index.tables:
                self._check_ends(self._joined(group, table))

    def _check_ends(self, timed: Joined) -> None:
        samples = self._joined("samples", "samples")
        rows = np.flatnonzero(~np.isnan(timed.facts.end_s))
        numbers = timed.keys[rows] >> np.uint64(TRACE_BITS)
        of_sample = (numbers << np.uint64(TRACE_BITS)) | np.uint64(1)
        at = np.searchsorted(samples.keys, of_sample)
        there = at < len(samples.keys)
        there[there] = samples.keys[at[there]] == of_sample[there]
        rows, at = rows[there], at[there]
        length = samples.facts.length[at]
        late = timed.facts.end_s[rows] > length / SAMPLE_RATE_HZ + timed.facts.slack_s[rows]
        self._tell(
            timed.name, "times", timed.keys[rows][late & (length >= 0)], "ends after its audio"
        )

    def _tell(self, name: str, kind: str, keys: Keys, message: str) -> None:
        """Tell a problem of every key: few in full, all counted."""
        for key in keys[:MAX_DETAILED].tolist():
            sample_id = self._index.sample_id[key >> TRACE_BITS].as_py()
            trace = (key & int(_TRACE_MASK)) - 1
            self._findings.add(name, kind, f"sample {sample_id!r}, trace {trace}: {message}")
        if len(keys) > MAX_DETAILED:
            self._findings.kinds[kind] += len(keys) - MAX_DETAILED


def _reads_traces(info: GroupInfo, textual: GroupInfo | None) -> bool:
    """Whether a teacher was read on the textual teacher's traces, token for token."""
    return (
        textual is not None
        and "trace" in textual.signals  # or they were left out
        and info.identity.get("responses") == "trace ids"
        and info.identity.get("tokenizer_digest") == textual.identity.get("tokenizer_digest")
    )


def check_both_tables(index: Index, findings: Findings) -> None:
    """No row is in two tables of one signal: a reader could not say which counts."""
    for group, table in sorted(index.tables):
        signal, codec = CODEC_OF.get(table, ("", ""))
        if codec != "compact" or (group, signal) not in index.tables:
            continue
        one, two = (index.row_key[index.tables[group, name]] for name in (signal, table))
        for key in np.intersect1d(one, two, assume_unique=True).tolist():
            sample_id = index.sample_id[key >> TRACE_BITS].as_py()
            told = f"sample {sample_id!r}, trace {(key & int(_TRACE_MASK)) - 1}: also in {signal}"
            findings.add(f"{group}/{table}", "twice", told)


def check_repeated(rebuilt: Rebuilt, contents: Contents, findings: Findings) -> None:
    """No row is recorded twice; shards that a merge took whole may repeat some, equal or not.

    So may those of writers that leased their rows, where one was thought dead and was not.
    """
    merged = leased = 0
    for table, sample_id, trace, first, later, rows in rebuilt.repeated():
        paths = [getattr(line.record, "path", "") for line in (first, later)]
        told = f"sample {sample_id!r}" + (
            "" if table in ("samples", "descriptions") else f", trace {trace}"
        )
        if table == "samples":
            one, two = (
                {**contents.shards[path].row("samples", row), "row_index": 0}
                for path, row in zip(paths, rows, strict=True)
            )
            if str(one) != str(two):
                findings.add(paths[1], "two samples", f"{told} is another sample in {paths[0]}")
                continue
        if layout.is_merged(later.manifest):
            merged += 1
        elif layout.is_leased(first.manifest) and layout.is_leased(later.manifest):
            leased += 1
        else:
            findings.add(
                f"{paths[1]}/{layout.table_file(table)}", "twice", f"{told}: also in {paths[0]}"
            )
    for count, shards in ((merged, "merged shards"), (leased, "workers that leased them")):
        if count:
            findings.note(
                "manifest", "repeated", f"{count} rows that {shards} repeat; the first counts"
            )
