"""A part of a tape: signals, layers or recordings left out by leaving out whole files.

The group's file goes on saying what its maker recorded, in ``signals``, so that its fingerprint
stays; ``part`` in its notes says what is not here. A shard's manifest line names the files that are
here. Every file is the one that was recorded, with the checksum it had.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cache_schema import layout
from cache_schema.errors import MissingSignalError, UsageError, nearest
from cache_schema.maker import PART_NOTE, GroupInfo, PartNote, narrowed, part_note, recorded
from cache_schema.manifest import ShardRecord, States
from cache_schema.signals import CODEC_OF, SIGNAL_TABLES

AUDIO = "audio"
"""What the recordings are called among what can be left out; a table of the group of samples."""

_LAYER_FILE = re.compile(rf"{layout.HIDDEN_STORE}/L(\d+)(_\w+)?/.*")
_TOTALS = {
    "trace": re.compile(r"trace_tokens|traces_.*|rejected: .*"),
    "sampled": re.compile(r"sampled_tokens"),
    "hidden": re.compile(r"hidden_.*_positions"),
    "frame_logits": re.compile(r"frame_logits_frames"),
    **{signal: re.compile(f"{signal}_tokens") for signal, _ in CODEC_OF.values()},
}
"""Signal -> the totals that go with it."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What of a tape is wanted.

    Attributes:
        signals: ``source/signal`` or a source, all of its signals; ``None`` for everything.
        layers: source -> layers of its states; ``""`` for every source; empty for all.
        audio: whether the recordings are wanted.
    """

    signals: tuple[str, ...] | None = None
    layers: Mapping[str, tuple[int, ...]] | None = None
    audio: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return self.signals is None and not self.layers and self.audio


def parts_of(groups: Mapping[str, GroupInfo], selection: Selection) -> dict[str, PartNote]:
    """Return group -> what of it is left out, of the groups of which something is wanted.

    Raises:
        MissingSignalError: a signal, a source or a layer that was asked for is not there.
    """
    signals = _wanted(groups, selection.signals)
    layers = _layers(groups, signals, selection.layers or {})
    parts = {}
    for name, info in groups.items():
        base = part_note(info)
        if signals.get(name):
            kept = signals[name]
            out = {*base.left_out, *(info.signals.keys() - kept)}
            of_states = layers.get(name, base.layers) if "hidden" in kept else None
            parts[name] = PartNote(left_out=tuple(sorted(out)), layers=of_states)
        elif not info.signals:
            out = {*base.left_out, *([AUDIO] if name == "samples" and not selection.audio else [])}
            parts[name] = PartNote(left_out=tuple(sorted(out)), layers=None)
    return parts


def union(one: PartNote, two: PartNote, info: GroupInfo) -> PartNote:
    """Return what is left out by both."""
    whole = recorded(info).get("hidden", {}).get("layers")
    layers = [
        set(whole or ()) if part.layers is None else set(part.layers)
        for part in (one, two)
        if "hidden" not in part.left_out
    ]
    kept = tuple(sorted(set().union(*layers))) if layers and whole else None
    if kept == tuple(whole or ()):
        kept = None
    left_out = tuple(sorted({*one.left_out} & {*two.left_out}))
    return PartNote(left_out=left_out, layers=kept)


def part_of_group(info: GroupInfo, part: PartNote) -> GroupInfo:
    """Return a group of which only a part is here."""
    notes = {name: value for name, value in info.notes.items() if name != PART_NOTE}
    if not part.is_whole:
        notes[PART_NOTE] = part.as_json()
    return narrowed(replace(info, signals=recorded(info), notes=notes, whole=None))


def part_of_record(record: ShardRecord, part: PartNote) -> ShardRecord | None:
    """Return the line of a shard of which only a part is here, ``None`` if nothing is."""
    if part.is_whole:
        return record
    out = {table for signal in part.left_out for table in SIGNAL_TABLES.get(signal, (signal,))}
    if "trace" in part.left_out:
        out.add("rejected")
    rows = {table: count for table, count in record.rows.items() if table not in out}
    if not rows:
        return None
    gone = [_TOTALS[signal] for signal in part.left_out if signal in _TOTALS]
    totals = {
        name: total
        for name, total in record.totals.items()
        if not any(pattern.fullmatch(name) for pattern in gone)
    }
    states = None if "hidden" in out else record.states
    if states is not None and part.layers is not None:
        states = _of_layers(states, part.layers)
    files = {
        name: file for name, file in record.files.items() if _is_here(name, rows, states, record)
    }
    return replace(record, rows=rows, totals=totals, states=states, files=files)


def _of_layers(states: States, layers: tuple[int, ...]) -> States:
    kept = tuple(layer for layer in states.layers if layer in layers)
    errors = {layer: error for layer, error in states.errors.items() if int(layer) in kept}
    return replace(states, layers=kept, errors=errors)


def _is_here(name: str, rows: Mapping[str, int], states: States | None, whole: ShardRecord) -> bool:
    if name.startswith(f"{layout.HIDDEN_STORE}/"):
        match = _LAYER_FILE.fullmatch(name)
        return states is not None and (match is None or int(match[1]) in states.layers)
    tables = {layout.table_file(table) for table in whole.rows}
    return name not in tables or name in {layout.table_file(table) for table in rows}


def _wanted(
    groups: Mapping[str, GroupInfo], names: tuple[str, ...] | None
) -> dict[str, frozenset[str]]:
    """Return source -> its signals that are wanted."""
    every = {name: frozenset(info.signals) for name, info in groups.items() if info.signals}
    if names is None:
        return every
    known = [*every, *(f"{source}/{signal}" for source in every for signal in every[source])]
    wanted: dict[str, frozenset[str]] = {}
    for name in names:
        source, _, signal = name.partition("/")
        if name not in known:
            raise MissingSignalError(
                f"--signals: no {name!r} on this tape{nearest(name, known)}; it has "
                f"{', '.join(sorted(set(known) - set(every))) or 'no signals'}"
            )
        new = frozenset([signal]) if signal else every[source]
        wanted[source] = wanted.get(source, frozenset()) | new
    return wanted


def _layers(
    groups: Mapping[str, GroupInfo],
    signals: Mapping[str, frozenset[str]],
    asked: Mapping[str, tuple[int, ...]],
) -> dict[str, tuple[int, ...]]:
    """Return source -> layers of its states that are wanted, of sources that lose some."""
    has = {
        name: tuple(groups[name].signals["hidden"].get("layers", ()))
        for name, kept in signals.items()
        if "hidden" in kept
    }
    chosen: dict[str, tuple[int, ...]] = {}
    for source, layers in asked.items():
        told = "; ".join(f"{name} {list(known)}" for name, known in has.items()) or "no states"
        if source and source not in has:
            raise MissingSignalError(
                f"--layers {source}=...: no states of a source {source!r} are kept; of these are: "
                f"{told}"
            )
        names = [source] if source else [name for name in has if name not in asked]
        found = {layer for name in names for layer in has[name]}
        if absent := sorted({*layers} - found):
            raise MissingSignalError(f"--layers: {absent} are not recorded; the tape has {told}")
        for name in names:
            chosen[name] = tuple(layer for layer in has[name] if layer in layers)
            if not chosen[name]:
                raise MissingSignalError(
                    f"--layers: none of {list(layers)} is recorded of {name}; the tape has {told}; "
                    "say of which source: --layers SOURCE=N,..."
                )
    return {name: layers for name, layers in chosen.items() if layers != has[name]}


def parse_layers(texts: list[str]) -> dict[str, tuple[int, ...]]:
    """Read ``0,4,8`` and ``textual=0,4,8``.

    Raises:
        UsageError: not numbers.
    """
    layers: dict[str, tuple[int, ...]] = {}
    for text in texts:
        source, _, numbers = text.rpartition("=")
        try:
            layers[source] = tuple(sorted({int(number) for number in numbers.split(",")}))
        except ValueError as error:
            raise UsageError(
                f"--layers {text!r}: expected numbers, such as 0,4,8 or textual=0,4,8"
            ) from error
    return layers


def told(groups: Mapping[str, GroupInfo]) -> dict[str, Any]:
    """Return group -> what of it is not here, for pages."""
    return {
        name: part_note(info).as_json()
        for name, info in groups.items()
        if not part_note(info).is_whole
    }
