"""``pipeline inspect``: what a tape holds, as values and as a page."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cache_schema import Tape, TapeRow
from cache_schema.types import SAMPLE_RATE_HZ, Hidden, TopK

_UNITS = ("B", "KB", "MB", "GB", "TB")


def tape_values(tape: Tape) -> dict[str, Any]:
    """Return facts about a tape as JSON values."""
    seconds = sum(row.num_audio_samples for row in tape) / SAMPLE_RATE_HZ
    return {
        "tape": tape.location,
        "version": tape.info["version"],
        "licence": tape.info["licence"],
        "fingerprint": tape.fingerprint,
        "samples": len(tape),
        "audio_hours": seconds / 3600,
        "quarantined": dict(Counter(f"{q.group}: {q.reason}" for q in tape.quarantined)),
        "groups": {name: _group_values(tape, name) for name in tape.groups},
    }


def _group_values(tape: Tape, name: str) -> dict[str, Any]:
    group, shards = tape.groups[name], tape.shards[name]
    files = [item for shard in shards for item in shard.record.files.items()]
    tables: Counter[str] = Counter()
    for file, record in files:
        tables[file.split("/")[0].split(".")[0]] += record["bytes"]
    values: dict[str, Any] = {
        "samples": len(tape.recorded(name)),
        "shards": len(shards),
        "bytes": sum(record["bytes"] for _, record in files),
        "bytes_of": dict(tables),
        "positions": sum(shard.record.positions for shard in shards),
        "signals": {signal: dict(facts) for signal, facts in group.signals.items()},
        "made_by": {**group.identity, **group.notes},
    }
    if "trace" in group.signals:
        traces = [trace for row in tape for trace in row.traces]
        values["traces"] = {
            "count": len(traces),
            "tokens": sum(len(trace.token_ids) for trace in traces),
            "correct": sum(trace.correct is True for trace in traces),
            "judged": sum(trace.correct is not None for trace in traces),
            "truncated": sum(trace.finish_reason == "length" for trace in traces),
        }
    return values


def tape_page(values: dict[str, Any]) -> str:
    """Return the facts as a page for people."""
    lines = [
        f"tape {values['tape']}   version {values['version']}   licence {values['licence']}",
        f"{values['samples']} samples, {values['audio_hours'] * 60:.1f} minutes of audio",
    ]
    for name, group in values["groups"].items():
        size = _size(group["bytes"])
        lines.append(f"\n{name}: {group['samples']} samples, {group['shards']} shards, {size}")
        made_by = group["made_by"]
        if made_by.get("model"):
            known = [made_by.get("engine"), made_by.get("engine_version"), made_by.get("dtype")]
            lines.append(
                f"  teacher   {made_by['model']} ({', '.join(str(k) for k in known if k)})"
            )
        if traces := group.get("traces"):
            lines.append(
                f"  traces    {traces['count']}, {traces['tokens']} tokens, "
                f"{traces['correct']} of {traces['judged']} judged right, "
                f"{traces['truncated']} truncated"
            )
            group = {**group, "tokens": traces["tokens"]}
        lines += [_signal_line(signal, facts, group) for signal, facts in group["signals"].items()]
    if values["quarantined"]:
        lines.append("\nquarantined")
        lines += [f"  {count} x {reason}" for reason, count in values["quarantined"].items()]
    return "\n".join(lines)


def _signal_line(signal: str, facts: dict[str, Any], group: dict[str, Any]) -> str:
    size = group["bytes_of"].get(signal, 0)
    rows = group["positions"] if signal == "hidden" else group.get("tokens", 0)
    each = f", {size / rows:.0f} B a position" if rows else ""
    told = "  ".join(f"{key} {value}" for key, value in facts.items())
    return f"  {signal:<9} {_size(size)}{each}   {told}".rstrip()


def _size(count: float) -> str:
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError(count)


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
        signal = row[name]
        if isinstance(signal, TopK):
            values["signals"][name] = {
                "tokens": signal.token_ids.shape[0],
                "k": signal.token_ids.shape[1],
                "mean_tail": float(signal.tail.mean()) if signal.tail.size else 0.0,
            }
        elif isinstance(signal, Hidden):
            values["signals"][name] = {
                "positions": signal.states.shape[0],
                "layers": list(signal.layers),
                "width": signal.states.shape[2],
                "kind": signal.kind,
            }
    return values


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
