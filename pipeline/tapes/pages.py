"""What verify, merge and diff found, as JSON values and as pages for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache_schema.compare.makers import Change
from cache_schema.merge.tapes import Merged
from cache_schema.validate.findings import Findings
from pipeline.pages import page_of
from pipeline.replay.page import replay_lines
from pipeline.units import size_text


def verify_values(cache: str, findings: Findings, deep: bool) -> dict[str, Any]:
    """Return findings as JSON values."""
    return {
        "tape": cache,
        "deep": deep,
        "sound": findings.count == 0,
        "files": findings.files,
        "bytes": findings.bytes,
        "num_problems": findings.count,
        "kinds": dict(sorted(findings.kinds.items())),
        "problems": [asdict(problem) for problem in findings.problems],
        "notes": [asdict(note) for note in findings.notes],
    }


def verify_page(values: dict[str, Any]) -> str:
    """Return findings as a page."""
    lines = [f"{p['location']}: {p['kind']}: {p['message']}" for p in values["problems"]]
    rest = values["num_problems"] - len(values["problems"])
    if rest:
        lines.append(f"... and {rest} more problems")
    lines += [f"note: {n['location']}: {n['kind']}: {n['message']}" for n in values["notes"]]
    lines += map(_signed_line, values.get("signed", []))
    if lines:
        lines.append("")
    kinds = ", ".join(f"{count} {kind}" for kind, count in values["kinds"].items())
    found = f"{values['num_problems']} problems ({kinds})" if kinds else "sound"
    how = "every row and state decoded" if values["deep"] else "checksums only; --deep decodes too"
    lines.append(
        f"{values['tape']}: {found}; {values['files']} files, {size_text(values['bytes'])}, {how}"
    )
    if "replay" in values:
        lines += replay_lines(values["replay"])
    return page_of(lines)


def _signed_line(one: dict[str, Any]) -> str:
    who = f"key {one['key_id']}"
    if not one["trusted"]:
        who += " (whose it is was not asked: --public-key FILE)"
    state = "as they were" if one["intact"] else "NOT as they were"
    added = one["added"]
    since = f"{added['shards']} shards" if any(added.values()) else "nothing"
    return (
        f"signed by {who} on {one['created']}: {one['files']} files, {state}; added since: {since}"
    )


def merge_values(out: Path, merged: Merged) -> dict[str, Any]:
    """Return what a merge did as JSON values."""
    plan = merged.plan
    return {
        "tape": str(out),
        "licence": plan.licence,
        "samples": plan.samples,
        "shards": merged.shards,
        "shards_of_earlier_run": merged.earlier,
        "files_linked": merged.files["linked"],
        "files_copied": merged.files["copied"],
        "quarantined": len(plan.quarantined),
        "groups": {
            name: {
                "shards": len(shards),
                "shards_left_out": plan.skipped[name],
                "rows_repeated": plan.repeated[name],
            }
            for name, shards in plan.shards.items()
        },
    }


def merge_page(values: dict[str, Any]) -> str:
    """Return what a merge did as a page."""
    lines = [f"{values['tape']}: {values['samples']} samples, licence {values['licence']}"]
    for name, group in values["groups"].items():
        line = f"  {name:<14}{group['shards']} shards"
        if group["shards_left_out"]:
            line += f", {group['shards_left_out']} left out (they only repeat)"
        if group["rows_repeated"]:
            line += f", {group['rows_repeated']} rows repeated (the first tape's count)"
        lines.append(line)
    lines.append(
        f"  {values['files_linked']} files linked, {values['files_copied']} copied now; "
        f"{values['shards_of_earlier_run']} shards were there from an earlier run"
    )
    return page_of(lines)


def diff_page(values: dict[str, Any]) -> str:
    """Return a difference as a page."""
    lines = [f"a  {values['a']}", f"b  {values['b']}"]
    changes = [*values["makers"], *([values["licence"]] if values["licence"] else [])]
    lines += _section("made differently (a | b)", [str(Change(**change)) for change in changes])
    for name, one in values["contents"].items():
        lines += _section(name, list(_content_lines(one)))
    for side, listed in values["quarantined"].items():
        lines += _section(f"quarantined {side.replace('_', ' in ')}", listed)
    notes = [str(Change(**change)) for change in values["notes"]]
    lines += _section("notes, not counted as a difference (a | b)", notes)
    lines += ["", "equal" if values["equal"] else "different"]
    return page_of(lines)


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", title, *(f"  {line}" for line in lines)] if lines else []


def _content_lines(one: dict[str, Any]) -> Iterator[str]:
    for side in ("only_a", "only_b"):
        if one[side]["count"]:
            yield f"{one[side]['count']} {side.replace('_', ' in ')}: {_ids(one[side])}"
    if one["differing"]["count"]:
        yield f"{one['differing']['count']} of {one['compared']} differ: {_ids(one['differing'])}"
    for field, count in sorted(one["fields"].items()):
        most = one["max_abs"].get(field)
        yield f"{field} in {count}" + ("" if most is None else f", at most {most:.3g} apart")


def _ids(some: dict[str, Any]) -> str:
    more = ", ..." if some["count"] > len(some["first"]) else ""
    return ", ".join(some["first"]) + more
