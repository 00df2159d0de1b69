"""What differs between two tapes: by value and by sample id, never by files, order or writer.

One sample is held at a time, of states one layer of one trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.codecs import bfloat16
from cache_schema.committed import Shard
from cache_schema.compare.makers import Change, Changes, maker_changes, note_changes
from cache_schema.hidden import HiddenPlace
from cache_schema.reader import Tape
from cache_schema.row import TapeRow
from cache_schema.rows.values import DECODERS, decode
from cache_schema.signals import CLASS_SIGNALS, HEARD, SIGNAL_TABLES
from cache_schema.validate.findings import Counting

SHOWN = 5
"""Sample ids that are named; the rest are counted."""

_REJECTED = "rejected"
_ROWS_OF = {"samples": ("samples",), "descriptions": ("descriptions",), HEARD: (HEARD,)}
"""Kind of group -> the tables that have a row a sample, of groups that record no signals."""

Place = tuple[str, Shard, int]
"""Table, shard and row."""


@dataclass
class Some:
    """How many, and the ids of the first few."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, sample_id: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < SHOWN and sample_id not in self.first:
            self.first.append(sample_id)


@dataclass
class Compared:
    """One signal, or the samples themselves; a row is a sample's, or one trace's of it.

    Attributes:
        only_a: rows that only the first tape has.
        only_b: rows that only the second has.
        compared: rows that both have.
        differing: of these, rows with a value that differs.
        fields: field -> rows in which it differs.
        max_abs: field of floats -> largest absolute difference, where its shape is the same.
    """

    only_a: Some = field(default_factory=Some)
    only_b: Some = field(default_factory=Some)
    compared: int = 0
    differing: Some = field(default_factory=Some)
    fields: dict[str, int] = field(default_factory=dict)
    max_abs: dict[str, float] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.only_a.count or self.only_b.count or self.differing.count)

    def add(self, sample_id: str, one: Mapping[str, Any], two: Mapping[str, Any]) -> None:
        """Compare a row of both tapes, field by field."""
        self.compared += 1
        wrong = set()
        for name in sorted(one.keys() | two.keys()):
            differs, distance = _difference(one.get(name), two.get(name))
            if differs:
                wrong.add(name)
            if distance is not None:
                self.max_abs[name] = max(self.max_abs.get(name, 0.0), distance)
        for name in wrong:
            self.fields[name] = self.fields.get(name, 0) + 1
        if wrong:
            self.differing.add(sample_id)


@dataclass
class Difference:
    """What differs between tape a and tape b.

    Attributes:
        makers: what made their groups; a group only one of them has is a change of its own.
        licence: both licences, if they differ.
        contents: ``samples``, ``descriptions``, what was heard, every signal and the traces that
            were not kept -> what differs.
        quarantined: (group: sample: reason) that only one has.
        notes: versions, dates and names; not counted as a difference.
    """

    makers: Changes
    licence: Change | None
    contents: dict[str, Compared]
    quarantined: dict[str, list[str]]
    notes: Changes

    @property
    def equal(self) -> bool:
        """Whether the tapes hold the same."""
        return (
            not self.makers
            and self.licence is None
            and all(compared.equal for compared in self.contents.values())
            and not any(self.quarantined.values())
        )


def compare(a: Tape, b: Tape, counting: Counting) -> Difference:
    """Compare two tapes.

    Args:
        a: one tape.
        b: the other.
        counting: draws progress, in samples.

    Raises:
        TapeError: something on one of them is damaged.
    """
    both = {**a.groups, **b.groups}
    names = [name for name, group in both.items() if group.kind in _ROWS_OF]
    names += sorted({*a.signals, *b.signals, *_rejected(a), *_rejected(b)})
    contents = {name: Compared() for name in names}
    with counting("compared", max(len(a), len(b))) as count:
        for sample_id, in_a, in_b in _ids(a, b):
            for name, compared in contents.items():
                _compare_rows(compared, name, sample_id, _rows(a, name, in_a), _rows(b, name, in_b))
            count(1)
    licences = (str(a.info["licence"]), str(b.info["licence"]))
    left, right = ({f"{q.group}: {q.sample_id}: {q.reason}" for q in t.quarantined} for t in (a, b))
    return Difference(
        makers=maker_changes(a.groups, b.groups),
        licence=None
        if licences[0] == licences[1]
        else Change(group="", field="licence", a=licences[0], b=licences[1]),
        contents=contents,
        quarantined={"only_a": sorted(left - right), "only_b": sorted(right - left)},
        notes=note_changes(a.groups, b.groups),
    )


def _rejected(tape: Tape) -> set[str]:
    """Return what traces that were not kept are compared as: they are no signal of their own."""
    tables = tape.catalog.index.tables
    return {f"{group}/{table}" for group, table in tables if table == _REJECTED}


def _ids(a: Tape, b: Tape) -> Iterator[tuple[str, int | None, int | None]]:
    """Yield every id with its numbers on both tapes, in the order of the first, then the second."""
    for number, item in enumerate(a.catalog.index.sample_id):
        sample_id = item.as_py()
        yield sample_id, number, b.catalog.index.number_of(sample_id)
    for number, item in enumerate(b.catalog.index.sample_id):
        sample_id = item.as_py()
        if a.catalog.index.number_of(sample_id) is None:
            yield sample_id, None, number


def _rows(tape: Tape, name: str, number: int | None) -> dict[int, tuple[Tape, int, Place]]:
    """Return trace index -> the row of one signal of one sample."""
    found: dict[int, tuple[Tape, int, Place]] = {}
    if number is None:
        return found
    group, _, signal = name.partition("/")
    index = tape.catalog.index
    info = tape.groups.get(group)
    tables = SIGNAL_TABLES.get(signal, (signal,))
    if not signal:
        tables = () if info is None else _ROWS_OF[info.kind]
    for table in tables:
        for trace in index.traces_of(group, table, number):
            place = tape.place(group, table, number, trace)
            assert place is not None
            found.setdefault(trace, (tape, number, (table, *place)))
    return found


def _compare_rows(
    compared: Compared,
    name: str,
    sample_id: str,
    one: Mapping[int, tuple[Tape, int, Place]],
    two: Mapping[int, tuple[Tape, int, Place]],
) -> None:
    for trace in sorted(one.keys() | two.keys()):
        if trace not in two:
            compared.only_a.add(sample_id)
        elif trace not in one:
            compared.only_b.add(sample_id)
        elif name.endswith("/hidden"):
            places = (row[2][1].hidden(row[2][2], None) for row in (one[trace], two[trace]))
            compared.add(sample_id, *_states(*places))
        else:
            compared.add(sample_id, _values(*one[trace]), _values(*two[trace]))


def _values(tape: Tape, number: int, place: Place) -> dict[str, Any]:
    """Return the values of a row, decoded."""
    table, shard, index = place
    if table == "samples":
        return _sample(TapeRow(tape, number), "audio" in shard.record.rows)
    row = shard.row(table, index)
    if table not in DECODERS and table not in CLASS_SIGNALS:
        return row
    where = f"{shard.record.path}: row {index} of {table}"
    return dict(vars(decode(table, row, tape.groups[shard.record.group].signals, where)))


def _sample(row: TapeRow, has_audio: bool) -> dict[str, Any]:
    return {
        "row_index": row.row_index,
        "question": row.question,
        "choices": row.choices,
        "answer": row.answer,
        "metadata": dict(row.metadata),
        "audio_sha256": row.audio_sha256,
        "num_audio_samples": row.num_audio_samples,
        "audio": row.audio if has_audio else None,
    }


def _states(one: HiddenPlace, two: HiddenPlace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what two places hold; of states only how far they are apart, layer after layer."""
    facts = [
        {"kind": p.kind, "layers": p.layers, "target_ids": p.target_ids, "times_s": p.times_s}
        for p in (one, two)
    ]
    shapes = [(p.count, p.states.width) for p in (one, two)]
    if shapes[0] != shapes[1]:
        return {**facts[0], "shape": shapes[0]}, {**facts[1], "shape": shapes[1]}
    worst = 0.0
    for layer in sorted(set(one.layers) & set(two.layers)):
        worst = max(worst, _distance(_layer(one, layer), _layer(two, layer)))
    apart = np.array([worst])
    return {**facts[0], "states": np.zeros(1)}, {**facts[1], "states": apart}


def _layer(place: HiddenPlace, layer: int) -> NDArray[np.float32]:
    stored = bfloat16.STORED_DTYPES[place.states.dtype]
    out = np.empty((place.count, place.states.width), dtype=stored)
    place.read_into(layer, out)
    return bfloat16.decode(out)


def _difference(one: Any, two: Any) -> tuple[bool, float | None]:
    """Return whether two values differ, and how far two floats or arrays of them are apart."""
    if one is None or two is None:
        return one is not two, None
    if isinstance(one, float) and isinstance(two, float):
        one, two = np.array([one]), np.array([two])
    if not isinstance(one, np.ndarray) or not isinstance(two, np.ndarray):
        return bool(one != two), None
    if one.shape != two.shape:
        return True, None
    if one.dtype.kind != "f":
        return not np.array_equal(one, two), None
    distance = _distance(one, two)
    return distance != 0, distance


def _distance(one: NDArray[Any], two: NDArray[Any]) -> float:
    """Return the largest absolute difference; equal NaNs and infinities are 0 apart."""
    differ = ~((one == two) | (np.isnan(one) & np.isnan(two)))
    if not differ.any():
        return 0.0
    apart = np.abs(one[differ].astype(np.float64) - two[differ].astype(np.float64))
    return float("inf") if np.isnan(apart).any() else float(apart.max())
