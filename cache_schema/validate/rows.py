"""Checking the inside of one shard: every row decoded, every state read, totals added up again."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from cache_schema import layout
from cache_schema.codecs import bfloat16
from cache_schema.codecs.bfloat16 import STORED_DTYPES
from cache_schema.codecs.pcm import audio_sha256
from cache_schema.committed import Shard
from cache_schema.errors import TapeError
from cache_schema.maker import GroupInfo
from cache_schema.manifest import ShardRecord
from cache_schema.rows.values import DECODERS, Row, audio_of, decode, place_of
from cache_schema.signals import (
    CLASS_SIGNALS,
    CODEC_OF,
    HEARD,
    HIDDEN_KINDS,
    ORIGINS,
    REJECT_REASONS,
    SCHEMAS,
    SIGNAL_OF,
    totals_of,
)
from cache_schema.validate.findings import Findings

_TOTALS = re.compile(
    r"audio_samples|trace_tokens|traces_(right|judged|truncated|rejected)|(topk|lens|sampled)_tokens"
    rf"|traces_({'|'.join(ORIGINS[1:])})|rejected: ({'|'.join(REJECT_REASONS)})"
    rf"|hidden_({'|'.join(HIDDEN_KINDS)})_positions|frame_logits_frames"
)
"""Totals this release can add up; others may be there, and any may be left out. What a release sums
up as rejected for other reasons depends on the reasons it knows, so that is not among them."""

_BLOCK_BYTES = 8 << 20
_TEXTS = ("rejected", HEARD)
"""Tables whose rows are of no tokens: there is nothing to compare with a trace."""


@dataclass(frozen=True, kw_only=True)
class TableFacts:
    """What joining tables needs to know of each row, [rows].

    Attributes:
        length: tokens, positions or audio samples; -1 for a row that cannot be read.
        target_hash: hash of the token ids it belongs to; 0 where it belongs to none.
        end_s: where its last position ends; NaN where it has no times.
        slack_s: how far that may lie beyond the audio's end: a position, 0.1 s at least.
    """

    length: NDArray[np.int64]
    target_hash: NDArray[np.uint64]
    end_s: NDArray[np.float64]
    slack_s: NDArray[np.float64]

    @classmethod
    def unread(cls, num_rows: int) -> TableFacts:
        """Return the facts of rows nothing is known of."""
        return cls(
            length=np.full(num_rows, -1, np.int64),
            target_hash=np.zeros(num_rows, np.uint64),
            end_s=np.full(num_rows, np.nan),
            slack_s=np.full(num_rows, 0.1),
        )


class ShardCheck:
    """The check of one shard; ``run`` it once.

    Args:
        shard: the shard.
        info: its group's maker, if that is known.
        broken: files that are not to be opened: what is wrong with them is known.
    """

    def __init__(self, shard: Shard, info: GroupInfo | None, broken: Collection[str]) -> None:
        self.findings = Findings()
        self.facts: dict[str, TableFacts] = {}
        self._shard = shard
        self._record: ShardRecord = shard.record
        self._info = info
        self._broken = broken
        self._totals: Counter[str] = Counter()
        self._ids: set[str] = set()
        self._spans: list[tuple[int, int, str]] = []
        self._complete = True

    def run(self) -> ShardCheck:
        """Check tables, then what they say together, then the layer arrays."""
        self._check_facts()
        tables = self._record.rows.keys() & SCHEMAS.keys()
        for table in sorted(tables, key=lambda table: (table == "audio", table)):
            self._check_table(table)
        if self._complete:
            self._check_sums()
        if self._record.states is not None:
            for layer in self._record.states.layers:
                self._check_layer(layer)
        return self

    def _check_facts(self) -> None:
        """Compare the shard with what its group's file says of each signal."""
        if self._info is None:
            return
        signals, states = self._info.signals, self._record.states
        if states is not None:
            stored = {**vars(states), "layers": list(states.layers)}
            self._differing(signals.get("hidden"), stored, "hidden")
        for table in self._record.rows:
            if table in SIGNAL_OF and SIGNAL_OF[table] not in signals:
                self._add(table, "maker", f"its group records no signal {SIGNAL_OF[table]!r}")
            if table in CODEC_OF:
                signal, codec = CODEC_OF[table]
                self._differing(signals.get(signal), {"codec": codec}, table)

    def _differing(
        self, facts: Mapping[str, Any] | None, stored: Mapping[str, Any], place: str
    ) -> None:
        for name in sorted((facts or {}).keys() & stored.keys()):
            if facts is not None and facts[name] != stored[name]:
                self._add(
                    place, "maker", f"{name} {stored[name]!r}, its group says {facts[name]!r}"
                )

    def _check_table(self, table: str) -> None:
        file = f"{self._record.path}/{layout.table_file(table)}"
        if file in self._broken or (table == "audio" and "samples" not in self.facts):
            self._complete = False
            return
        try:
            content = self._shard.table(table)
        except TapeError as error:
            self._complete = False
            self._add(table, "table", str(error))
            return
        facts = self.facts[table] = TableFacts.unread(content.num_rows)
        check = _CHECKS.get(table, ShardCheck._check_signal)
        for index in range(content.num_rows):
            row = self._shard.row(table, index)
            self._ids.add(row["sample_id"])
            try:
                check(self, table, index, row, facts)
            except TapeError as error:
                message = str(error).removeprefix(f"{table}: ")
                self._add_row(table, index, row, "row", message)
            self._totals.update(totals_of(table, row))

    def _check_sample(self, _table: str, index: int, row: Row, facts: TableFacts) -> None:
        facts.length[index] = row["num_audio_samples"]
        if row["row_index"] < 0 or row["num_audio_samples"] < 0:
            raise TapeError("a negative row_index or num_audio_samples")
        try:
            metadata = json.loads(row["metadata"], parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise TapeError(f"metadata is not JSON ({error})") from error
        if not isinstance(metadata, dict):
            raise TapeError("metadata is not a JSON object")

    def _check_audio(self, _table: str, index: int, row: Row, _facts: TableFacts) -> None:
        sample = self._shard.row("samples", index)
        if row["sample_id"] != sample["sample_id"]:
            raise TapeError(f"row {index} of samples is of {sample['sample_id']!r}")
        audio = audio_of(row, sample["num_audio_samples"], "audio")
        if audio_sha256(audio) != sample["audio_sha256"]:
            self._add_row("audio", index, row, "audio", "is not the recording of audio_sha256")

    def _check_signal(self, table: str, index: int, row: Row, facts: TableFacts) -> None:
        if table not in DECODERS:
            return
        value = DECODERS[table](row, table)
        if table in _TEXTS:
            return
        targets = value.token_ids if table == "trace" else value.target_ids
        facts.length[index] = len(targets)
        facts.target_hash[index] = _hash(targets)
        if table in CODEC_OF and self._info is not None:
            known = self._info.signals.get(CODEC_OF[table][0], {})
            given = {"k": row["k"]}
            if "layers" in row:
                given["layers"] = row["layers"].tolist()
            for name, value in given.items():
                if known.get(name, value) != value:
                    raise TapeError(f"{name} {value}, its group says {known[name]}")

    def _check_hidden(self, _table: str, index: int, row: Row, facts: TableFacts) -> None:
        place = place_of(row, self._record.positions, "hidden")
        self._spans.append((place["start"], place["count"], row["sample_id"]))
        facts.length[index] = place["count"]
        if place["target_ids"] is not None:
            facts.target_hash[index] = _hash(place["target_ids"])
        _note_times(place["times_s"], index, facts)

    def _check_classes(self, table: str, index: int, row: Row, facts: TableFacts) -> None:
        if self._info is None or table not in self._info.signals:
            return  # told already: there is nothing to read the row with
        value = decode(table, row, self._info.signals, table)
        if table == "frame_logits":
            facts.length[index] = len(value.logits)
            _note_times(value.times_s, index, facts)

    def _check_sums(self) -> None:
        """Compare counts with the manifest line; see that spans cover the arrays exactly."""
        record, path = self._record, self._record.path
        for name, total in sorted(record.totals.items()):
            if _TOTALS.fullmatch(name) and self._totals[name] != total:
                told = f"{name} {total}, the tables have {self._totals[name]}"
                self.findings.add(path, "totals", told)
        if len(self._ids) > record.samples:
            told = f"samples {record.samples}, the tables have {len(self._ids)}"
            self.findings.add(path, "totals", told)
        reached = 0
        for start, count, _ in sorted(self._spans):
            if start != reached:
                kind = "overlapping" if start < reached else "unclaimed"
                told = f"positions {min(start, reached)} to {max(start, reached)} are {kind}"
                self._add("hidden", "spans", told)
            reached = max(reached, start + count)
        if reached != record.positions:
            told = f"rows reach position {reached} of {record.positions}"
            self._add("hidden", "spans", told)

    def _check_layer(self, layer: int) -> None:
        states = self._record.states
        assert states is not None
        name = f"{self._record.path}/{layout.layer_dir(layer)}"
        if any(file.startswith((f"{name}/", f"{name}_")) for file in self._broken):
            return
        block = max(1, _BLOCK_BYTES // max(1, 4 * states.width))
        out = np.empty((block, states.width), dtype=STORED_DTYPES[states.dtype])
        with self.findings.checking(name, "states"):
            reader = self._shard.states(layer)
            for start in range(0, states.positions, block):
                part = out[: min(block, states.positions - start)]
                reader.read_into(start, part)
                if not bfloat16.is_finite(part):
                    at = start + next(
                        i for i in range(len(part)) if not bfloat16.is_finite(part[i])
                    )
                    ids = [i for first, count, i in self._spans if first <= at < first + count]
                    self.findings.add(
                        name, "not finite", f"position {at}, of sample {', '.join(ids) or '?'}"
                    )

    def _add(self, table: str, kind: str, message: str) -> None:
        self.findings.add(f"{self._record.path}/{layout.table_file(table)}", kind, message)

    def _add_row(self, table: str, index: int, row: Row, kind: str, message: str) -> None:
        trace = f", trace {row['trace_index']}" if "trace_index" in row else ""
        self.findings.add(
            f"{self._record.path}/{layout.table_file(table)} row {index}",
            kind,
            f"sample {row['sample_id']!r}{trace}: {message}",
        )


def _note_times(times_s: NDArray[np.float32] | None, index: int, facts: TableFacts) -> None:
    """Note where a row's last position ends; its times were checked when it was decoded."""
    if times_s is not None and len(times_s):
        facts.end_s[index] = times_s[-1, 1]
        facts.slack_s[index] = max(0.1, float(times_s[-1, 1] - times_s[-1, 0]))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _hash(ids: NDArray[np.int64]) -> int:
    """Return a hash of token ids, never 0."""
    return max(1, xxhash.xxh3_64_intdigest(np.ascontiguousarray(ids, "<i8").data))


_CHECKS: dict[str, Callable[[ShardCheck, str, int, Row, TableFacts], None]] = {
    "samples": ShardCheck._check_sample,
    "audio": ShardCheck._check_audio,
    "hidden": ShardCheck._check_hidden,
    **dict.fromkeys(CLASS_SIGNALS, ShardCheck._check_classes),
}
"""Table -> its row's check; the others are signals, decoded."""
