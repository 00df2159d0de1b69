"""``pipeline inspect CACHE``: what a tape holds, as values and as a page.

A tape's page is made from its manifest and its index alone: no table is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cache_schema import Tape, layout
from cache_schema.manifest import ShardRecord
from cache_schema.signals import (
    A_RECORDING,
    CLASS_SIGNALS,
    GROUP_TABLES,
    HEARD,
    HIDDEN_KINDS,
    ORIGINS,
    SCHEMAS,
    SIGNAL_TABLES,
)
from cache_schema.types import SAMPLE_RATE_HZ
from pipeline.pages import page_of
from pipeline.units import size_text

_REJECTED = "rejected: "

_LABELS_SHOWN = 3
_IDS_SHOWN = 3


def tape_values(tape: Tape) -> dict[str, Any]:
    """Return facts about a tape as JSON values."""
    groups = {name: _group_values(tape, name) for name in tape.groups}
    samples = groups.get("samples", {"totals": {}})
    return {
        "tape": tape.location,
        "version": tape.info["version"],
        "licence": tape.info["licence"],
        "fingerprint": tape.fingerprint,
        "samples": len(tape),
        "audio_hours": samples["totals"].get("audio_samples", 0) / SAMPLE_RATE_HZ / 3600,
        "bytes": sum(group["bytes"] for group in groups.values()),
        "heard": sorted(
            layout.heard_column(name) for name, group in tape.groups.items() if group.kind == HEARD
        ),
        "duplicates": tape.catalog.index.duplicates,
        "quarantined": dict(Counter(f"{q.group}: {q.reason}" for q in tape.quarantined)),
        "groups": groups,
        "first_ids": tape.catalog.index.sample_id[: min(_IDS_SHOWN, len(tape))].to_pylist(),
    }


def _group_values(tape: Tape, name: str) -> dict[str, Any]:
    group, index = tape.groups[name], tape.catalog.index
    records = [shard.record for shard in tape.shards[name]]
    totals: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for record in records:
        totals.update(record.totals)
        rows.update(record.rows)
    recorded = [index.numbers_in(name, table) for table in GROUP_TABLES[group.kind]]
    values: dict[str, Any] = {
        "kind": group.kind,
        "fingerprint": group.fingerprint,
        "samples": len(np.unique(np.concatenate(recorded))),
        "shards": len(records),
        "bytes": sum(file["bytes"] for record in records for file in record.files.values()),
        "rows": dict(sorted(rows.items())),
        "rows_repeated": sum(
            count - _distinct(index.tables.get((name, table)))
            for table, count in rows.items()
            if table in SCHEMAS and table != "audio"
        ),
        "totals": dict(sorted(totals.items())),
        "origins": _origins(rows["trace"], totals),
        "rejected": {
            name.removeprefix(_REJECTED): count
            for name, count in sorted(totals.items())
            if name.startswith(_REJECTED) and count
        },
        "made_by": dict(group.identity),
        "notes": dict(group.notes),
        "signals": {
            signal: _signal_values(signal, facts, records, rows, totals)
            for signal, facts in group.signals.items()
        },
    }
    return values


def _origins(traces: int, totals: Counter[str]) -> dict[str, int]:
    """Return where traces come from -> how many; those no total counts are the teacher's own."""
    told = {origin: totals[f"traces_{origin}"] for origin in ORIGINS[1:]}
    counts = {ORIGINS[0]: traces - sum(told.values()), **told}
    return {origin: count for origin, count in counts.items() if count}


def _distinct(rows: slice | None) -> int:
    return 0 if rows is None else rows.stop - rows.start


def _signal_values(
    signal: str,
    facts: Mapping[str, Any],
    records: Iterable[ShardRecord],
    rows: Mapping[str, int],
    totals: Mapping[str, int],
) -> dict[str, Any]:
    tables = SIGNAL_TABLES.get(signal, ())
    files = tuple(layout.table_file(table) for table in tables)
    folders = (f"{layout.HIDDEN_STORE}/",) if signal == "hidden" else ()
    size = sum(
        file["bytes"]
        for record in records
        for name, file in record.files.items()
        if name in files or name.startswith(folders)
    )
    tokens = sum(count for name, count in totals.items() if _counts(name, signal))
    values: dict[str, Any] = {
        "facts": dict(facts),
        "rows": sum(rows.get(table, 0) for table in tables),
        "tokens": tokens,
        "bytes": size,
        "bytes_per_token": size / tokens if tokens else None,
    }
    if signal == "lens":
        layers = facts.get("layers")
        places = tokens * (len(layers) if isinstance(layers, list) else 0)  # anyone's facts
        values |= {"bytes_per_token_layer": size / places if places else None}
    if signal in A_RECORDING:
        values |= {"bytes_per_row": size / values["rows"] if values["rows"] else None}
    if signal == "hidden":
        kinds = {kind: totals.get(f"hidden_{kind}_positions", 0) for kind in HIDDEN_KINDS}
        positions = {kind: count for kind, count in kinds.items() if count}
        values |= {
            "positions": positions,
            "stored": _stored(records),
            "errors": _errors(records),
        }
    return values


def _counts(total: str, signal: str) -> bool:
    """Whether a total counts the tokens, positions or frames of a signal."""
    return total.startswith(f"{signal}_") and total.endswith(("_tokens", "_positions", "_frames"))


def _stored(records: Iterable[ShardRecord]) -> list[dict[str, Any]]:
    """Return in which ways states are stored, usually one."""
    found: list[dict[str, Any]] = []
    for record in records:
        if record.states is None:
            continue
        states = record.states
        form = {
            "layers": list(states.layers),
            "width": states.width,
            "dtype": states.dtype,
            "profile": states.profile,
        }
        if form not in found:
            found.append(form)
    return found


def _errors(records: Iterable[ShardRecord]) -> dict[str, dict[str, dict[str, float]]]:
    """Return layer -> measure -> the worst shard's and the mean over positions."""
    figures: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for record in records:
        for layer, errors in {} if record.states is None else record.states.errors.items():
            for measure, figure in errors.items():
                figures.setdefault((layer, measure), []).append((figure, record.positions))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (layer, measure), pairs in sorted(figures.items(), key=lambda item: int(item[0][0])):
        values = [figure for figure, _ in pairs]
        weights = [max(1, positions) for _, positions in pairs]
        worst = min(values) if measure.startswith("cosine") else max(values)
        mean = float(np.average(values, weights=weights))
        found.setdefault(layer, {})[measure] = {"worst": worst, "mean": mean}
    return found


def tape_page(values: dict[str, Any]) -> str:
    """Return the facts as a page for people."""
    lines = [
        f"tape {values['tape']}   version {values['version']}   licence {values['licence']}",
        f"{values['samples']} samples, {values['audio_hours'] * 60:.1f} minutes of audio",
        f"{size_text(values['bytes'])}   fingerprint {values['fingerprint'][:16]}",
    ]
    if values["first_ids"]:
        more = ", ..." * (values["samples"] > _IDS_SHOWN)
        lines.append(f"ids {', '.join(values['first_ids'])}{more}")
    if values["heard"]:
        lines.append(f"heard: {', '.join(values['heard'])}")
    if values["duplicates"]:
        lines.append(f"{values['duplicates']} rows repeat others; the first counts, sums hold all")
    for name, group in values["groups"].items():
        lines += _group_lines(name, group)
    if values["quarantined"]:
        lines += ["", "quarantined"]
        lines += [f"  {count} x {reason}" for reason, count in values["quarantined"].items()]
    return page_of(lines)


def _group_lines(name: str, group: dict[str, Any]) -> list[str]:
    size, totals = size_text(group["bytes"]), Counter(group["totals"])
    lines = ["", f"{name}: {group['samples']} samples, {group['shards']} shards, {size}"]
    made_by = {**group["made_by"], **group["notes"]}
    if made_by.get("model"):
        known = [made_by.get("engine"), made_by.get("engine_version"), made_by.get("dtype")]
        lines.append(f"  teacher   {made_by['model']} ({', '.join(str(k) for k in known if k)})")
    if group["rows_repeated"]:
        lines.append(f"  repeated  {group['rows_repeated']} rows, which the sums count again")
    if group["rows"].get("trace"):
        lines.append(
            f"  traces    {group['rows']['trace']}, {totals['trace_tokens']} tokens, "
            f"{totals['traces_right']} of {totals['traces_judged']} judged right, "
            f"{totals['traces_truncated']} truncated"
        )
        if set(group["origins"]) != {ORIGINS[0]}:
            lines.append(f"  origins   {_counted(group['origins'])}")
    if group["rejected"]:
        lines.append(f"  not kept  {totals['traces_rejected']}: {_counted(group['rejected'])}")
    for signal, facts in group["signals"].items():
        lines.append(_signal_line(signal, facts))
        lines += [
            f"            layer {layer}: "
            + ", ".join(f"{m} worst {e['worst']:.4g} mean {e['mean']:.4g}" for m, e in some.items())
            for layer, some in facts.get("errors", {}).items()
        ]
    return lines


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _some(labels: Sequence[str]) -> str:
    more = ", ..." if len(labels) > _LABELS_SHOWN else ""
    return f"{len(labels)} ({', '.join(labels[:_LABELS_SHOWN])}{more})"


def _is_of_frames(values: dict[str, Any]) -> bool:
    """Whether states are those of frames of sound alone, as encoders give them."""
    return set(values.get("positions", ())) == {"audio"}


def _signal_line(signal: str, values: dict[str, Any]) -> str:
    unit = "frame" if signal == "frame_logits" or _is_of_frames(values) else "token"
    each = f", {values['bytes_per_token']:.0f} B a {unit}" if values["tokens"] else ""
    if values.get("bytes_per_row"):
        each += f", {values['bytes_per_row']:.0f} B a recording"
    if values.get("bytes_per_token_layer"):
        each += f" ({values['bytes_per_token_layer']:.0f} B a layer)"
    if values.get("positions"):
        each += f", {_counted(values['positions'])} positions"
    facts = values["facts"]
    if signal in CLASS_SIGNALS and "labels" in facts:  # of thousands of classes, a few
        facts = {**facts, "labels": _some(facts["labels"])}
    told = "  ".join(f"{key} {value}" for key, value in facts.items())
    return f"  {signal:<9} {size_text(values['bytes'])}{each}   {told}".rstrip()
