"""Figures over seeds, with intervals: the table and ``study.json``.

Over two or more seeds an interval is Student's t, 95 %, of the seeds' figures; of one seed it is
Wilson's, 95 %, of its rows, which says nothing of another seed. Differences to SFT are paired: of
the same seeds, or of one seed's same rows (a paired normal interval).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from examples.study.sides import SIDES, Side
from examples.study.sizes import Size
from examples.study.variants import BASE, variants

MEASURES = {
    "reasoning, seen": "reasoning",
    "reasoning, unseen": "reasoning, new voices",
    "hearing, seen": "hearing",
    "hearing, unseen": "hearing, new voices",
}
"""Group of test rows -> its name in the table."""

AXES = ("reasoning, seen", "hearing, seen")
"""Groups that every question beside the table is measured by."""

HEARING_KINDS = ("speaker, seen", "noise, seen", "digits, seen")
BASELINE = "sft"
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_Z_975 = 1.960


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A share or a difference of shares, its 95 % interval, and every seed's value if several."""

    value: float
    low: float
    high: float
    seeds: int
    each: tuple[float, ...] = ()


def wilson(right: int, asked: int) -> Figure:
    """Return a share of one seed's rows, and Wilson's interval."""
    share, square = right / asked, _Z_975**2
    middle = (share + square / (2 * asked)) / (1 + square / asked)
    half = _Z_975 * math.sqrt(share * (1 - share) / asked + square / (4 * asked**2))
    half /= 1 + square / asked
    return Figure(value=share, low=middle - half, high=middle + half, seeds=1)


def over_seeds(values: Sequence[float]) -> Figure:
    """Return the mean of two or more seeds' figures, and Student's interval."""
    count = len(values)
    mean = statistics.mean(values)
    quantile = _T_975[count - 2] if count - 2 < len(_T_975) else _Z_975
    half = quantile * statistics.stdev(values) / math.sqrt(count)
    return Figure(value=mean, low=mean - half, high=mean + half, seeds=count, each=tuple(values))


def share_of(records: Sequence[Mapping[str, Any]], name: str, group: str) -> Figure | None:
    """Return the share of right answers of a variant in a group or kind, if it was asked."""
    pairs = [_pair(record, name, group) for record in records]
    asked = [pair for pair in pairs if pair is not None]
    if not asked:
        return None
    if len(asked) == 1:
        return wilson(*asked[0])
    return over_seeds([right / count for right, count in asked])


def _pair(record: Mapping[str, Any], name: str, group: str) -> tuple[int, int] | None:
    found = record["found"]["before" if name == BASE else name]
    pair = {**found["groups"], **found["kinds"]}.get(group)
    return None if pair is None else (pair[0], pair[1])


def difference_of(
    records: Sequence[Mapping[str, Any]], name: str, other: str, group: str
) -> Figure | None:
    """Return how much more often a variant is right than another, paired."""
    if any(_pair(record, name, group) is None for record in records):
        return None
    if len(records) > 1:
        shares = [
            [right / asked for right, asked in (_known(record, one, group) for record in records)]
            for one in (name, other)
        ]
        return over_seeds([a - b for a, b in zip(*shares, strict=True)])
    signs = _row_differences(records[0], name, other, group)
    half = _Z_975 * statistics.pstdev(signs) / math.sqrt(len(signs))
    mean = statistics.mean(signs)
    return Figure(value=mean, low=mean - half, high=mean + half, seeds=1)


def _known(record: Mapping[str, Any], name: str, group: str) -> tuple[int, int]:
    pair = _pair(record, name, group)
    if pair is None:
        raise KeyError(f"{name} was not asked {group}")
    return pair


def _row_differences(record: Mapping[str, Any], name: str, other: str, group: str) -> list[int]:
    """Return, for every row of a group, 1 if only the first is right, -1 if only the other is."""
    first, second = (
        record["found"]["before" if one == BASE else one]["rows"] for one in (name, other)
    )
    members = record["groups"][group]
    return [first[row] - second[row] for row in members]


def bytes_of(record: Mapping[str, Any], signals: Sequence[str]) -> int:
    """Return the bytes of the tape that a variant reads, the traces included."""
    sizes = record["found"]["tape"]["signal_bytes"]
    return int(sum(sizes[name] for name in ("textual/trace", *signals)))


def summarize(records: Sequence[Mapping[str, Any]], size: Size) -> dict[str, Any]:
    """Return every figure of the table with what it was measured with."""
    named = {BASE: "base", **{one.name: one.title for one in variants(size)}}
    signals = {one.name: one.signals for one in variants(size)}
    rows = {}
    for name, title in named.items():
        groups = [*MEASURES, *HEARING_KINDS]
        row: dict[str, Any] = {
            "title": title,
            "shares": {group: _json(share_of(records, name, group)) for group in groups},
            "over_sft": {
                group: _json(difference_of(records, name, BASELINE, group)) for group in MEASURES
            },
            "over_base": {
                group: _json(difference_of(records, name, BASE, group)) for group in MEASURES
            },
        }
        if name != BASE:
            found = [record["found"][name] for record in records]
            row |= {
                "tape_bytes": bytes_of(records[0], signals[name]),
                "step_s": statistics.mean(one["step_s"] for one in found),
                "steps": [one["steps"] for one in found],
                "tokens": [one["tokens"] for one in found],
                "command": found[0]["command"],
            }
        rows[name] = row
    every = [one for one in records if all(f"side-{side.name}" in one["found"] for side in SIDES)]
    teachers = [record["found"]["teacher"] for record in records]
    shares = [one["right"] / one["asked"] for one in teachers]
    return {
        "variants": rows,
        "sides": [_side(every, side) for side in SIDES] if every else [],
        "teacher": asdict(
            over_seeds(shares)
            if len(shares) > 1
            else wilson(teachers[0]["right"], teachers[0]["asked"])
        ),
        "measured_with": [
            {
                **{key: record[key] for key in ("identity", "sources", "threads", "seconds")},
                "tape": {
                    key: record["found"]["tape"][key]
                    for key in ("fingerprint", "bytes", "samples", "traces", "traces_right")
                },
            }
            for record in records
        ],
    }


def _side(records: Sequence[Mapping[str, Any]], side: Side) -> dict[str, Any]:
    """Return the figures of a question beside the table, and of the row it is compared with."""
    name = f"side-{side.name}"
    tapes = [record["found"][name]["tape"] for record in records]
    return {
        "title": side.title,
        "over_what": side.compared_with,
        "shares": {group: _json(share_of(records, name, group)) for group in AXES},
        "over": {
            group: _json(difference_of(records, name, side.compared_with, group)) for group in AXES
        },
        "tape_bytes": sum(
            tapes[0]["signal_bytes"][each] for each in ("textual/trace", *side.signals)
        ),
        "traces": sum(tape["traces"] for tape in tapes),
        "same_traces": sum(tape["same_traces"] for tape in tapes),
        "command": records[0]["found"][name]["command"],
    }


def _json(figure: Figure | None) -> dict[str, Any] | None:
    return None if figure is None else asdict(figure)


def table(summary: Mapping[str, Any]) -> str:
    """Return the table as Markdown."""
    rows = summary["variants"]
    measures = [
        group
        for group in (*MEASURES, *HEARING_KINDS)
        if any(row["shares"][group] for row in rows.values())
    ]
    titles = [MEASURES.get(group, group.removesuffix(", seen")) for group in measures]
    lines = [
        f"| variant | {' | '.join(titles)} | tape, bytes | s a step |",
        "|---" * (len(titles) + 3) + "|",
    ]
    for row in rows.values():
        cells = [_cell(row["shares"][group]) for group in measures]
        costs = [f"{row['tape_bytes']:,}", f"{row['step_s']:.2f}"] if "steps" in row else ["", ""]
        lines.append(f"| {row['title']} | {' | '.join([*cells, *costs])} |")
    teacher = _cell(summary["teacher"])
    blank = [""] * (len(titles) + 1)
    lines.append(f"| textual teacher (reads) | {teacher} | {' | '.join(blank)} |")
    lines += ["", "Over SFT, paired:", ""]
    shown = [group for group in measures if group in MEASURES]
    lines += [
        f"| variant | {' | '.join(MEASURES[group] for group in shown)} |",
        "|---" * (len(shown) + 1) + "|",
    ]
    for row in rows.values():
        cells = [_cell(row["over_sft"][group], signed=True) for group in shown]
        lines.append(f"| {row['title']} | {' | '.join(cells)} |")
    return "\n".join([*lines, *_side_lines(summary)])


def _side_lines(summary: Mapping[str, Any]) -> list[str]:
    if not summary["sides"]:
        return []
    titles = ("reasoning", "hearing", "compared with", "reasoning over it", "hearing over it")
    titles += ("tape, bytes", "same traces")
    lines = ["", "Beside the table:", "", f"| | {' | '.join(titles)} |"]
    lines.append("|---" * (len(titles) + 1) + "|")
    named = {f"side-{side.name}": side.title for side in SIDES}
    named |= {name: row["title"] for name, row in summary["variants"].items()}
    for side in summary["sides"]:
        cells = [
            side["title"],
            *(_cell(side["shares"][group]) for group in AXES),
            named[side["over_what"]],
            *(_cell(side["over"][group], signed=True) for group in AXES),
            f"{side['tape_bytes']:,}",
            f"{side['same_traces']} of {side['traces']}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(figure: Mapping[str, Any] | None, signed: bool = False) -> str:
    if figure is None:
        return ""
    value, half = 100 * figure["value"], 50 * (figure["high"] - figure["low"])
    cell = f"{value:+.1f} ± {half:.1f}" if signed else f"{value:.1f} ± {half:.1f}"
    each = ", ".join(f"{100 * one:{'+' if signed else ''}.0f}" for one in figure["each"])
    return f"{cell} ({each})" if each else cell


def write_summary(
    out: Path, records: Sequence[Mapping[str, Any]], size: Size
) -> tuple[dict[str, Any], str]:
    """Write ``study.json`` and ``table.md``; returns both."""
    summary = summarize(records, size)
    (out / "study.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    text = table(summary)
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    return summary, text
