# ruff: noqa: E501 - an attack a line, or several, is what one reads here
"""Hostile forms of the lens, text states, rejected traces and what was heard; see ``forge``."""

from __future__ import annotations

import itertools
import json
import struct

import pyarrow as pa
from attacks.forge import Attack, Forge, _retyped, attack

FULL = ("full-hot", "full-compact")
"""Tapes of ``full_tape``, by the codec of their top-k and lens."""

NAN, INF = float("nan"), float("inf")
_NUMBERS = itertools.count(1)
_SEGMENT = '{"start_s": 0, "end_s": 1, "text": "a"}'


def _put(name: str, function: Attack, tape: str = FULL[0]) -> None:
    attack(name, tape)(function)


def _cell(group: str, table: str, column: str, value: object, tape: str = FULL[0]) -> str:
    """Add an attack that replaces the last value of a column; return its name."""
    name = f"more {next(_NUMBERS)}: {table}.{column} = {str(value)[:24]}"
    _put(name, lambda forge: forge.put_cell(group, table, column, value), tape)
    return name


# The last row of the lens has two tokens, two layers, k = 3

for _column, _value in (
    ("layers", []), ("layers", [1]), ("layers", [3, 1]), ("layers", [1, 1]), ("layers", [1, 3, 5]), ("layers", [-1, 3]),
    ("layers", [1, 1 << 20]), ("layers", [0] * 100_000), ("layers", list(range(4000))),
    ("k", 0), ("k", -1), ("k", 4), ("k", 1 << 20), ("k", (1 << 31) - 1), ("target_ids", [5]), ("target_ids", [5] * 5000),
    ("target_ids", [-5, 5]), ("target_ids", [1 << 20, 5]), ("tail", []), ("tail", [0.9] * 4), ("tail", [-0.5] * 4),
    ("tail", [NAN] * 4), ("tail", [INF] * 4), ("logprobs", []), ("logprobs", [0.0] * 12), ("logprobs", [NAN] * 12),
    ("logprobs", [INF] * 12), ("token_ids", [1]), ("token_ids", [-1] * 12), ("token_ids", [1 << 20] * 12),
    ("trace_index", -2),
):  # fmt: skip
    _cell("textual", "lens", _column, _value)
for _column, _value in (
    ("layers", []), ("layers", [1]), ("layers", [1, 3, 5]), ("layers", [3, 1]), ("k", 0), ("k", 4), ("k", (1 << 31) - 1),
    ("target_ids", [5]), ("target_ids", [5] * (1 << 20)), ("packed", b""),
    ("packed", struct.pack("<BBHIHH", 1, 240, 3, 4, 512, 256) + b"\xff" * 40),
    ("packed", struct.pack("<BBHIHH", 1, 0, 0xFFFF, 0xFFFFFFFF, 512, 256) + b"\0" * 40),
    ("packed", struct.pack("<BBHIHH", 1, 0, 3, 2, 512, 256) + b"\0" * 40),
):  # fmt: skip
    _cell("textual", "lens_compact", _column, _value, FULL[1])

# Where traces come from, and those that were not kept

for _table in ("trace", "rejected"):
    for _column, _value in (
        ("origin", "heaven"),
        ("origin", ""),
        ("draw", -1),
        ("draw", (1 << 31) - 1),
    ):
        _cell("textual", _table, _column, _value)
for _column, _value in (
    ("reason", ""), ("reason", "because " * 1000), ("trace_index", -2), ("trace_index", (1 << 31) - 1),
):  # fmt: skip
    _cell("textual", "rejected", _column, _value)
for _columns in (["origin"], ["seed"], ["origin", "draw"], ["logprob", "origin", "draw", "seed"]):
    _put(
        f"trace without {', '.join(_columns)}",
        lambda forge, columns=_columns: forge.put_table(
            "textual", "trace", forge.table("textual", "trace").drop_columns(columns)
        ),
    )
for _group, _table, _key in (
    ("textual", "rejected", "sample and number"), ("textual", "lens", "sample and trace"), ("heard_transcript", "heard", "sample"),
):  # fmt: skip
    _put(
        f"two rows of {_table} of one {_key}",
        lambda forge, group=_group, table=_table: forge.put_table(
            group, table, pa.concat_tables([forge.table(group, table)] * 2)
        ),
    )

# What was heard

for _segments in (
    "", "null", "7", "{}", "[", "[1]", "[[]]", "[{}]", f"[{_SEGMENT}", f"[{_SEGMENT}, null]", "[" * 100_000,
    '{"a": ' * 100_000, "[" + "[], " * 250_000 + "[]]", f"[{_SEGMENT}" + f", {_SEGMENT}" * 60_000 + "]", "9" * 10_000,
    " " * (2 << 20), "NaN", '[{"start_s": 0, "end_s": NaN, "text": "a"}]', '[{"start_s": 0, "end_s": 1e999, "text": "a"}]',
    '[{"start_s": 0, "end_s": Infinity, "text": "a"}]', '[{"start_s": -Infinity, "end_s": 0, "text": "a"}]',
    '[{"start_s": -1, "end_s": 0, "text": "a"}]', '[{"start_s": 2, "end_s": 1, "text": "a"}]',
    '[{"start_s": 0, "end_s": ' + "9" * 400 + ', "text": "a"}]', '[{"start_s": true, "end_s": 1, "text": "a"}]',
    '[{"start_s": [], "end_s": {}, "text": "a"}]', '[{"start_s": 0, "end_s": 1, "text": ["a"]}]',
    '[{"start_s": 0, "end_s": 1, "text": "\\ud800"}]', '[{"start_s": 0, "end_s": 1, "text": "a", "__class__": "os"}]',
):  # fmt: skip
    _cell("heard_transcript", "heard", "segments", _segments)


def _named(forge: Forge, name: str) -> None:
    """Give the group of what was heard another name; its file and its shard go along."""
    old = forge.root / "groups" / "heard_transcript.json"
    forge.put_json("groups/heard_transcript.json", lambda values: values.update(group=name))
    lines = forge.lines()
    for line in lines:
        if line["group"] == "heard_transcript":
            line.update(group=name, path=line["path"].replace("heard_transcript", name))
            line["fingerprint"] = json.loads(old.read_bytes())["fingerprint"]
    forge.write_lines(lines)
    if "/" not in name and "\0" not in name:
        old.rename(old.with_name(f"{name}.json"))
        (forge.root / "shards" / "heard_transcript").rename(forge.root / "shards" / name)


for _name in ("heard_", "heard", "transcript", "textual_", "heard_a b", "heard_..", "heard_../../x", "/heard_x", "heard_x\0", "heard_\n", "heard_ü"):  # fmt: skip
    _put(f"heard group named {_name!r}", lambda forge, name=_name: _named(forge, name))
for _group in ("textual", "samples", "encoder"):
    _put(
        f"group {_group} that says it heard",
        lambda forge, group=_group: forge.put_json(
            f"groups/{group}.json", lambda values: values.update(kind="heard")
        ),
    )

# Text states

for _column, _value in (
    ("target_ids", None), ("target_ids", [5]), ("target_ids", [-5] * 4), ("target_ids", [1 << 20] * 4), ("trace_index", 0),
    ("times_s", [0.0] * 8), ("kind", "audio"), ("kind", "texts"), ("count", 1 << 60),
):  # fmt: skip
    _cell("encoder", "hidden", _column, _value)

for _group, _table, _columns in (
    ("textual", "lens", ("layers", "tail")), ("textual", "rejected", ("correct", "reason", "seed")),
    ("heard_transcript", "heard", ("text", "segments")), ("textual", "trace", ("origin", "draw")),
):  # fmt: skip
    for _column in _columns:
        _put(
            f"more type of {_table}.{_column}",
            lambda forge, group=_group, table=_table, column=_column: _retyped(
                forge, group, table, column
            ),
        )
        if _column != "correct":
            _put(
                f"more null in {_table}.{_column}",
                lambda forge, group=_group, table=_table, column=_column: forge.put_cell(
                    group, table, column, None
                ),
            )

NOT_SEEN_BY_READING = frozenset(
    {
        _cell("textual", "lens", "layers", [0, 3]),  # as many as there are, and not the group's
        _cell("textual", "rejected", "trace_index", 7),
        _cell("textual", "rejected", "trace_index", -1),
        _cell("textual", "rejected", "sample_id", "s9"),
    }
)
"""Attacks that reading one sample's values cannot see; verify does."""
