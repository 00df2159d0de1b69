# ruff: noqa: E501 - an attack a line, or several, is what one reads here
"""Hostile tables: other columns and types, offsets, and values that cannot be; see ``forge``."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from attacks.forge import ATTACKS, HUGE, ONLY_PROFILE, Forge, _retyped, attack


def _in_table(forge: Forge, change: Callable[[pa.Table], pa.Table]) -> None:
    forge.put_table("textual", "trace", change(forge.table("textual", "trace")))


for _group, _table, _columns in (
    ("samples", "samples", ("sample_id", "row_index", "choices")),
    ("samples", "audio", ("audio",)),
    ("descriptions", "descriptions", ("description",)),
    ("textual", "trace", ("trace_index", "token_ids", "correct", "logprob")),
    ("textual", "sampled", ("packed", "num_draws")),
    ("textual", "hidden", ("offset", "times_s")),
):
    for _column in _columns:
        ATTACKS[f"type of {_table}.{_column}"] = (
            lambda forge, group=_group, table=_table, column=_column: _retyped(
                forge, group, table, column
            )
        )
        ATTACKS[f"no {_table}.{_column}"] = (
            lambda forge, group=_group, table=_table, column=_column: forge.put_table(
                group, table, forge.table(group, table).drop_columns([column])
            )
        )
        if _column not in ("correct", "times_s"):
            ATTACKS[f"null in {_table}.{_column}"] = (
                lambda forge, group=_group, table=_table, column=_column: forge.put_cell(
                    group, table, column, None
                )
            )
ATTACKS["a column more"] = lambda forge: _in_table(
    forge, lambda table: table.append_column("more", table.column("text"))
)
ATTACKS["columns in another order"] = lambda forge: _in_table(
    forge, lambda table: table.select(table.column_names[::-1])
)
ATTACKS["null inside a list"] = lambda forge: forge.put_column(
    "textual", "trace", "token_ids",
    pa.array([[1, None]] * 2, pa.list_(pa.field("item", pa.int32()))),
)  # fmt: skip
for _codec in ("lz4", "zstd"):
    ATTACKS[f"{_codec} table"] = lambda forge, codec=_codec: forge.put_table(
        "textual", "trace", forge.table("textual", "trace"), compression=codec
    )
ATTACKS["dictionary column"] = lambda forge: forge.put_column(
    "textual", "trace", "text",
    forge.table("textual", "trace").column("text").combine_chunks().dictionary_encode(),
)  # fmt: skip
ATTACKS["two batches"] = lambda forge: forge.put_table(
    "textual", "trace", forge.table("textual", "trace"),
    batches=forge.table("textual", "trace").to_batches(max_chunksize=1),
)  # fmt: skip
ATTACKS["a row twice"] = lambda forge: _in_table(
    forge, lambda table: pa.concat_tables([table, table])
)
ATTACKS["an id twice"] = lambda forge: forge.put_column(
    "samples", "samples", "sample_id", ["s0", "s0"]
)
ATTACKS["invalid UTF-8"] = lambda forge: forge.put_column(
    "textual", "trace", "text",
    pa.Array.from_buffers(pa.string(), 2, [
        None, pa.py_buffer(np.array([0, 1, 2], "<i4")), pa.py_buffer(b"\xff\xfe"),
    ]),
)  # fmt: skip


@attack("one id for two samples in two shards")
def _(forge: Forge) -> None:
    record = forge.record("samples")
    twin = record["path"][:-1] + "1"
    shutil.copytree(forge.root / record["path"], forge.root / twin)
    forge.write_lines([*forge.lines(), {**record, "path": twin}])
    forge.put_cell("samples", "samples", "answer", "one")


def _patched(forge: Forge, old: bytes, new: bytes) -> None:
    content = forge.file("textual", "trace.arrow").read_bytes()
    assert content.count(old) >= 1
    forge.put("textual", "trace.arrow", content.replace(old, new))


for _title, _ends in (("far", (0, 1 << 30)), ("negative", (-5, 3)), ("descending", (9, 2))):

    def _offsets(forge: Forge, ends: tuple[int, int] = _ends) -> None:
        forge.put_column("textual", "trace", "text", ["a" * 1237, "b" * 100])
        _patched(forge, struct.pack("<3i", 0, 1237, 1337), struct.pack("<3i", *ends, 1337))

    ATTACKS[f"offsets {_title}"] = _offsets
    ATTACKS[f"list offsets {_title}"] = lambda forge, ends=_ends: (
        forge.put_column("textual", "trace", "token_ids", [[1] * 1237, [2] * 100]),
        _patched(forge, struct.pack("<3i", 0, 1237, 1337), struct.pack("<3i", *ends, 1337)),
    )

for _group, _table, _column, _value in (
    ("textual", "trace", "trace_index", -2), ("textual", "trace", "trace_index", (1 << 31) - 1),
    ("textual", "trace", "token_ids", [-1]), ("textual", "trace", "prompt_token_ids", [1 << 20]),
    ("textual", "hidden", "offset", HUGE), ("textual", "hidden", "offset", -1),
    ("textual", "hidden", "count", HUGE), ("textual", "hidden", "count", -1),
    ("textual", "hidden", "offset", 1), ("textual", "hidden", "count", (1 << 63) - 1),
    ("textual", "hidden", "kind", "smell"), ("textual", "hidden", "kind", "audio"),
    ("textual", "hidden", "target_ids", None), ("textual", "hidden", "target_ids", [1] * 9),
    ("acoustic", "hidden", "times_s", [0.5]), ("acoustic", "hidden", "kind", "token"),
    ("samples", "samples", "num_audio_samples", HUGE), ("samples", "samples", "num_audio_samples", -1),
    ("samples", "samples", "metadata", "[" * 100_000), ("samples", "samples", "metadata", "[1]"),
    ("samples", "samples", "metadata", "null"), ("samples", "samples", "metadata", "{"),
    ("samples", "audio", "audio", b"\0"), ("samples", "audio", "audio_dtype", "int8"),
    ("samples", "audio", "audio", np.full(41, np.nan, "<f4").tobytes()),
    ("samples", "audio", "sample_id", "s9"),
    ("textual", "sampled", "packed", b""), ("textual", "sampled", "packed", b"\1\0" + b"\xff" * 90),
    ("textual", "sampled", "num_draws", (1 << 31) - 1), ("textual", "sampled", "num_draws", -1),
    ("textual", "sampled", "num_draws", 0), ("textual", "sampled", "target_ids", [1] * 5),
):  # fmt: skip
    ATTACKS[f"{_table}.{_column} = {str(_value)[:24]} ({_group})"] = (
        lambda forge, group=_group, table=_table, column=_column, value=_value: forge.put_cell(
            group, table, column, value
        )
    )
for _column, _value in (
    ("k", 0), ("k", -1), ("k", (1 << 31) - 1), ("logprobs", [0.0, 0.0, 0.0]), ("tail", [-0.5]), ("tail", [2.0]),
    ("logprobs", [float("nan")] * 3), ("logprobs", [float("inf")] * 3), ("tail", [float("nan")]),
    ("tail", [float("inf")]), ("tail", []), ("logprobs", []), ("token_ids", [1]), ("token_ids", [-1, 1, 2]),
    ("token_ids", [1 << 20, 1, 2]), ("target_ids", [5, 5]), ("target_ids", [-5]),
):  # fmt: skip
    ATTACKS[f"topk.{_column} = {_value}"] = lambda forge, column=_column, value=_value: (
        forge.put_cell("textual", "topk", column, value)
    )
    ONLY_PROFILE[f"topk.{_column} = {_value}"] = "hot"
for _column, _value in (
    ("k", 0), ("k", -1), ("k", (1 << 31) - 1), ("packed", b""), ("target_ids", [1] * 4),
    ("packed", struct.pack("<BBHIHH", 1, 240, 3, 1, 512, 256) + b"\xff" * 40),
    ("packed", struct.pack("<BBHIHH", 1, 0, 3, 1, 0, 0) + b"\0" * 40),
    ("packed", struct.pack("<BBHIHH", 2, 0, 3, 1, 512, 256) + b"\0" * 40),
    ("packed", struct.pack("<BBHIHH", 1, 0, 0xFFFF, 0xFFFFFFFF, 512, 256) + b"\0" * 40),
):  # fmt: skip
    _title = f"topk_compact.{_column} = {str(_value)[:60]}"
    ATTACKS[_title] = lambda forge, column=_column, value=_value: forge.put_cell(
        "textual", "topk_compact", column, value
    )
    ONLY_PROFILE[_title] = "lossy2x"
