"""The page of a tape on the hub: what it holds, who made it, its licence, sizes, how to load it."""

from __future__ import annotations

import json
from collections import Counter

from cache_schema import layout
from cache_schema.maker import part_note
from cache_schema.signals import SCHEMAS, SIGNAL_OF
from pipeline.share.contents import Contents
from pipeline.units import size_text

NAME = "README.md"
MARK = "<!-- written by pipeline push; what stands below this line is written anew each time -->"
_KNOWN = (
    "apache-2.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "mit", "odbl", "odc-by", "pddl",
)  # fmt: skip
"""Licences by the names that the hub has for them."""

_SIGNAL_OF = {layout.table_file(table): SIGNAL_OF.get(table, table) for table in SCHEMAS}
_SHOWN = 200


def card(contents: Contents, location: str, known: str) -> str | None:
    """Return the page; what someone wrote above the mark stays.

    Args:
        contents: the tape.
        location: its URL.
        known: the page there is, or nothing.

    Returns:
        ``None`` where there is a page that this software did not write.
    """
    head, mark, _ = known.partition(MARK)
    if known.strip() and not mark:
        return None
    top = head.rstrip() if head.strip() else _front(contents, location)
    return f"{top}\n\n{MARK}\n\n{_body(contents, location)}"


def _front(contents: Contents, location: str) -> str:
    name = contents.licence.strip().lower()
    licence = [f"license: {name}"] if name in _KNOWN else ["license: other"]
    if name not in _KNOWN:
        licence.append(f"license_name: {json.dumps(contents.licence[:_SHOWN])}")
    title = location.rstrip("/").rpartition("/")[2]
    return "\n".join(
        ["---", *licence, "tags:", "- audio", "- knowledge-distillation", "- teachertape", "---",
         "", f"# {title}"]
    )  # fmt: skip


def _body(contents: Contents, location: str) -> str:
    sizes: Counter[tuple[str, str]] = Counter()
    samples: Counter[str] = Counter()
    for _, _, record in contents.shards():
        samples[record.group] += record.samples
        for name, file in record.files.items():
            signal = "hidden" if name.startswith("hidden") else _SIGNAL_OF.get(name, name)
            sizes[record.group, signal] += file["bytes"]
    lines = [
        (
            "A tape: what teacher models say about recordings, made to train audio language models "
            "from without the teachers."
        ),
        "",
        f"- samples: {samples['samples']:,}",
        f"- size: {size_text(sizes.total())}",
        f"- licence: {_text(contents.licence)}",
        "",
        "| source | signal | facts | size |",
        "|---|---|---|---|",
    ]
    for group, info in sorted(contents.groups.items()):
        for signal, facts in sorted(info.signals.items()):
            told = {k: v for k, v in facts.items() if k != "labels"}
            size = size_text(sizes[group, signal])
            lines.append(f"| {group} | {signal} | {_text(json.dumps(told))} | {size} |")
    lines += ["", "| source | made by | samples | left out |", "|---|---|---|---|"]
    for group, info in sorted(contents.groups.items()):
        part = part_note(info)
        out = "nothing" if part.is_whole else json.dumps(part.as_json())
        model = info.notes.get("model") or info.identity.get("model_digest") or info.kind
        lines.append(f"| {group} | {_text(str(model))} | {samples[group]:,} | {_text(out)} |")
    lines += [
        "",
        "```python",
        "from cache_schema import open_tape  # pip install teachertape",
        f'tape = open_tape("{location}")',
        "```",
        "",
        "```",
        f"pipeline pull {location} ./cache",
        "train student --cache ./cache --student MODEL --out ./run",
        "```",
        "",
    ]
    return "\n".join(lines)


def _text(value: str) -> str:
    """Return a text as a cell shows it: one line, no markup, not long."""
    flat = " ".join(value.split())
    for sign in "\\|<>`[]*_":
        flat = flat.replace(sign, f"\\{sign}")
    return flat if len(flat) <= _SHOWN else flat[:_SHOWN] + " ..."
