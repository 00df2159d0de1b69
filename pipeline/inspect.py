"""``pipeline inspect``: what a tape holds, as values and as a page.

A tape's page is made from its manifest and its index alone: no table is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from cache_schema import Tape, TapeRow, layout
from cache_schema.manifest import (
    ShardRecord,
)
from cache_schema.signals import GROUP_TABLES, SCHEMAS, SIGNAL_TABLES
from cache_schema.types import SAMPLE_RATE_HZ, Sampled, TopK
from pipeline.units import size_text


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
        "duplicates": tape.catalog.index.duplicates,
        "quarantined": dict(Counter(f"{q.group}: {q.reason}" for q in tape.quarantined)),
        "groups": groups,
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
        "made_by": dict(group.identity),
        "notes": dict(group.notes),
        "signals": {
            signal: _signal_values(signal, facts, records, rows, totals)
            for signal, facts in group.signals.items()
        },
    }
    return values


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
    if signal == "hidden":
        values |= {"stored": _stored(records), "errors": _errors(records)}
    return values


def _counts(total: str, signal: str) -> bool:
    """Whether a total counts the tokens, or positions, of a signal."""
    return total.startswith(f"{signal}_") and total.endswith(("_tokens", "_positions"))


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
    if values["duplicates"]:
        lines.append(f"{values['duplicates']} rows repeat others; the first counts, sums hold all")
    for name, group in values["groups"].items():
        lines += _group_lines(name, group)
    if values["quarantined"]:
        lines.append("\nquarantined")
        lines += [f"  {count} x {reason}" for reason, count in values["quarantined"].items()]
    return "\n".join(lines)


def _group_lines(name: str, group: dict[str, Any]) -> list[str]:
    size, totals = size_text(group["bytes"]), Counter(group["totals"])
    lines = [f"\n{name}: {group['samples']} samples, {group['shards']} shards, {size}"]
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
    for signal, facts in group["signals"].items():
        lines.append(_signal_line(signal, facts))
        lines += [
            f"            layer {layer}: "
            + ", ".join(f"{m} worst {e['worst']:.4g} mean {e['mean']:.4g}" for m, e in some.items())
            for layer, some in facts.get("errors", {}).items()
        ]
    return lines


def _signal_line(signal: str, values: dict[str, Any]) -> str:
    each = f", {values['bytes_per_token']:.0f} B a token" if values["tokens"] else ""
    told = "  ".join(f"{key} {value}" for key, value in values["facts"].items())
    return f"  {signal:<9} {size_text(values['bytes'])}{each}   {told}".rstrip()


def sample_values(row: TapeRow) -> dict[str, Any]:
    """Return one sample as JSON values, arrays as their shapes."""
    values: dict[str, Any] = {
        "sample_id": row.sample_id,
        "row_index": row.row_index,
        "audio_s": row.num_audio_samples / SAMPLE_RATE_HZ,
        "audio_sha256": row.audio_sha256,
        "question": row.question,
        "choices": list(row.choices),
        "answer": row.answer,
        "metadata": dict(row.metadata),
        "description": row.description,
        "traces": [
            {
                "text": trace.text,
                "answer": trace.answer,
                "correct": trace.correct,
                "finish_reason": trace.finish_reason,
                "tokens": len(trace.token_ids),
                "prompt_tokens": len(trace.prompt_token_ids),
                "logprob": trace.logprob,
            }
            for trace in row.traces
        ],
        "signals": {},
    }
    for name in row.signals:
        values["signals"][name] = _facts_of(row, name)
    return values


def _facts_of(row: TapeRow, name: str) -> dict[str, Any]:
    """Return the shapes of a signal; states are not read."""
    if name.endswith("/hidden"):
        place = row.hidden_place(name)
        return {
            "positions": place.count,
            "layers": list(place.layers),
            "width": place.states.width,
            "kind": place.kind,
        }
    signal = row[name]
    if isinstance(signal, TopK):
        return {
            "tokens": signal.token_ids.shape[0],
            "k": signal.token_ids.shape[1],
            "mean_tail": float(signal.tail.mean()) if signal.tail.size else 0.0,
        }
    if isinstance(signal, Sampled):
        tokens = len(signal.target_ids)
        return {"tokens": tokens, "draws": signal.num_draws, "unique_ids": len(signal.token_ids)}
    return {"tokens": len(row.traces[0].token_ids)}


def sample_page(values: dict[str, Any]) -> str:
    """Return one sample as a page for people."""
    lines = [
        f"sample {values['sample_id']}   {values['audio_s']:.2f} s   row {values['row_index']}",
        f"question     {values['question']}",
    ]
    if values["choices"]:
        lines.append(f"choices      {', '.join(values['choices'])}")
    lines.append(f"answer       {values['answer']}")
    lines += [f"{key:<12} {value}" for key, value in values["metadata"].items()]
    lines.append(f"description  {values['description']}")
    for number, trace in enumerate(values["traces"]):
        verdict = {True: "right", False: "wrong", None: "not judged"}[trace["correct"]]
        lines.append(
            f"trace {number}      {trace['tokens']} tokens, {trace['finish_reason']}, {verdict}: "
            f"{trace['text']}"
        )
    for name, facts in values["signals"].items():
        told = "  ".join(f"{key} {value}" for key, value in facts.items())
        lines.append(f"{name:<12} {told}")
    return "\n".join(lines)
