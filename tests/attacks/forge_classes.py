# ruff: noqa: E501 - an attack a line, or several, is what one reads here
"""Hostile logits of classes, embeddings and names of sources; see ``forge``."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from attacks.forge import BAD_COUNTS, HUGE, Attack, Forge, _retyped, attack

CLASSES = "classes"
"""The tape of ``classes_tape``; its last sample, s1, has one frame of three classes."""

NAN, INF = float("nan"), float("inf")
_NUMBERS = itertools.count(1)


def _put(name: str, function: Attack) -> str:
    name = f"classes {next(_NUMBERS)}: {name}"
    attack(name, CLASSES)(function)
    return name


def _cell(group: str, table: str, column: str, value: object) -> str:
    """Add an attack that replaces the last value of a column; return its name."""
    told = f"{table}.{column} = {str(value)[:24]}"
    return _put(told, lambda forge: forge.put_cell(group, table, column, value))


for _column, _value in (
    ("logits", []), ("logits", [1.0]), ("logits", [1.0] * 3), ("logits", [1.0] * 1_000_000), ("logits", [NAN, 1.0]),
    ("logits", [1.0, INF]), ("logits", [-INF, 1.0]), ("trace_index", 0), ("trace_index", -2),
    ("trace_index", (1 << 31) - 1),
):  # fmt: skip
    _cell("acoustic", "utterance_logits", _column, _value)
for _column, _value in (
    ("logits", []), ("logits", [1.0]), ("logits", [1.0] * 2), ("logits", [1.0] * 4), ("logits", [1.0] * 6),
    ("logits", [0.5] * 999_999), ("logits", [NAN] * 3), ("logits", [1.0, 2.0, INF]), ("times_s", []), ("times_s", [0.1]),
    ("times_s", [0.1] * 3), ("times_s", [0.1] * 4), ("times_s", [0.1] * 1_000_000), ("times_s", [NAN, NAN]), ("times_s", [0.0, INF]),
    ("times_s", [-0.1, 0.1]), ("times_s", [0.2, 0.1]), ("trace_index", 0), ("trace_index", -2),
):  # fmt: skip
    _cell("acoustic", "frame_logits", _column, _value)
for _group in ("acoustic", "wavlm"):
    for _column, _value in (
        ("embedding", []), ("embedding", [1.0]), ("embedding", [1.0] * 1_000_000), ("embedding", [NAN] * 5),
        ("embedding", [INF] * 2), ("trace_index", 0),
    ):  # fmt: skip
        _cell(_group, "embedding", _column, _value)

# States of the response beside those of the recording: the last row is of the response

for _column, _value in (
    ("target_ids", None), ("target_ids", [5] * 7), ("target_ids", [-1, 5]), ("kind", "audio"), ("kind", "frame"), ("kind", "text"),
    ("times_s", [0.5]), ("times_s", [0.2, 0.1, 0.0, 0.1]), ("times_s", [NAN] * 4), ("count", HUGE), ("offset", HUGE), ("offset", -1),
    ("trace_index", -1), ("trace_index", -2),
):  # fmt: skip
    _cell("acoustic", "hidden", _column, _value)


def change_facts(forge: Forge, signal: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what the group says of a signal; its shard is of the changed maker."""
    made: dict[str, str] = {}

    def changed(values: dict[str, Any]) -> None:
        change(values["signals"][signal])

    forge.put_json("groups/acoustic.json", changed)
    forge.put_json("groups/acoustic.json", lambda values: made.update(values))
    forge.change("acoustic", lambda line: line.update(fingerprint=made["fingerprint"]))


def _fact(signal: str, name: str, value: object) -> str:
    told = f"{signal} {name} = {str(value)[:24]}"
    return _put(
        told, lambda forge: change_facts(forge, signal, lambda facts: facts.update({name: value}))
    )


for _signal in ("utterance_logits", "frame_logits"):
    for _name in ("labels", "multi_label"):
        _put(
            f"{_signal} without {_name}",
            lambda forge, signal=_signal, name=_name: change_facts(
                forge, signal, lambda facts: facts.pop(name)
            ),
        )
        for _value in ([], None, "ab", 7, ["a", "a"]):
            _fact(_signal, _name, _value)
    for _value in ({}, [[]], ["a", None], ["a", 1], ["a", "b", "c", "d"]):
        _fact(_signal, "labels", _value)
    _fact(_signal, "labels", [str(number) for number in range(65_537)])
    _fact(_signal, "labels", [str(number) for number in range(65_536)])
    _fact(_signal, "labels", [*map(str, range(65_535)), "65534"])
    _fact(_signal, "labels", ["a" * (3 << 20), "b", "c", "d"])
    _fact(_signal, "multi_label", 1)
    _fact(_signal, "multi_label", "true")
for _title, _value in BAD_COUNTS.items():
    _put(
        f"embedding width {_title}",
        lambda forge, value=_value: change_facts(
            forge, "embedding", lambda facts: facts.update(width=value)
        ),
    )
for _value in (0, 4, 6, 1 << 20, (1 << 20) + 1):
    _fact("embedding", "width", _value)
for _value in ("", "x" * 201, None, 7, []):
    _fact("embedding", "pooling", _value)
for _name in ("width", "pooling"):
    _put(
        f"embedding without {_name}",
        lambda forge, name=_name: change_facts(forge, "embedding", lambda facts: facts.pop(name)),
    )

for _group, _table, _column in (
    ("acoustic", "utterance_logits", "logits"), ("acoustic", "frame_logits", "logits"), ("acoustic", "frame_logits", "times_s"),
    ("wavlm", "embedding", "embedding"), ("wavlm", "embedding", "trace_index"),
):  # fmt: skip
    _put(
        f"type of {_table}.{_column}",
        lambda forge, group=_group, table=_table, column=_column: _retyped(
            forge, group, table, column
        ),
    )
    _put(
        f"null in {_table}.{_column}",
        lambda forge, group=_group, table=_table, column=_column: forge.put_cell(
            group, table, column, None
        ),
    )
    _put(
        f"no {_table}.{_column}",
        lambda forge, group=_group, table=_table, column=_column: forge.put_table(
            group, table, forge.table(group, table).drop_columns([column])
        ),
    )
for _group, _table in (("acoustic", "utterance_logits"), ("acoustic", "frame_logits"), ("wavlm", "embedding")):  # fmt: skip
    _put(
        f"two rows of {_table} of one sample",
        lambda forge, group=_group, table=_table: forge.put_table(
            group, table, pa.concat_tables([forge.table(group, table)] * 2)
        ),
    )

# Names of sources


def _named(forge: Forge, name: str) -> None:
    """Give the source another name; its file and its shard go along."""
    forge.put_json("groups/wavlm.json", lambda values: values.update(group=name))
    lines = forge.lines()
    for line in lines:
        if line["group"] == "wavlm":
            line.update(group=name, path=line["path"].replace("wavlm", name))
    forge.write_lines(lines)
    if "/" not in name:
        (forge.root / "groups/wavlm.json").replace(forge.root / f"groups/{name}.json")
        (forge.root / "shards/wavlm").rename(forge.root / "shards" / f"{name}_moved")


for _name in ("samples", "SAMPLES", "descriptions", "textual", "Textual", "heard", "heard_", "heard_wavlm", "wav lm", "../wavlm", "wävlm"):  # fmt: skip
    _put(f"source named {_name!r}", lambda forge, name=_name: _named(forge, name))

NOT_SEEN_BY_READING = frozenset(
    {
        _cell("wavlm", "embedding", "sample_id", "s9"),
        _cell("wavlm", "embedding", "trace_index", 7),
        _cell("acoustic", "utterance_logits", "trace_index", 7),
        _cell("acoustic", "frame_logits", "trace_index", 7),
        _cell("acoustic", "frame_logits", "times_s", [7.0, 8.0]),
        _put(
            "other total of frames",
            lambda forge: forge.change(
                "acoustic", lambda line: line["totals"].update(frame_logits_frames=HUGE >> 20)
            ),
        ),
        _put(
            "classes in a table that no fact names",
            lambda forge: _facts_gone(forge),
        ),
    }
)
"""Attacks that reading one sample's values cannot see; verify does."""


def _facts_gone(forge: Forge) -> None:
    """Take a signal out of the group's facts; its table stays."""
    made: dict[str, str] = {}
    forge.put_json("groups/acoustic.json", lambda values: values["signals"].pop("embedding"))
    forge.put_json("groups/acoustic.json", lambda values: made.update(values))
    forge.change("acoustic", lambda line: line.update(fingerprint=made["fingerprint"]))
