"""Every table that a tape may hold can be read, and is on the page of the format."""

from __future__ import annotations

from pathlib import Path

import pytest

import cache_schema
from cache_schema.parts import part
from cache_schema.rows.classes import CLASS_DECODERS
from cache_schema.rows.values import DECODERS
from cache_schema.signals import GROUP_TABLES, SCHEMAS, SIGNAL_TABLES, totals_of
from cache_schema.validate import rows

PAGE = Path(cache_schema.__file__).with_name("FORMAT.md").read_text(encoding="utf-8")
LINES = PAGE[PAGE.index("\n## 5. Tables") : PAGE.index("\n## 6.")].splitlines()


def test_every_signal_has_what_reads_its_rows() -> None:
    tables = {table for tables in SIGNAL_TABLES.values() for table in tables}
    assert tables - {"hidden"} <= DECODERS.keys() | CLASS_DECODERS.keys()
    assert tables <= SCHEMAS.keys()


OF_TOKENS = [
    (signal, table)
    for signal, tables in SIGNAL_TABLES.items()
    for table in tables
    if "target_ids" in SCHEMAS[table].names
]


@pytest.mark.parametrize(("signal", "table"), OF_TOKENS)
def test_what_is_summed_up_is_compared_and_leaves_with_its_signal(signal: str, table: str) -> None:
    totals = totals_of(table, {"target_ids": [7, 8], "kind": "token", "count": 2})
    assert set(totals.values()) == {2}
    for name in totals:
        assert rows._TOTALS.fullmatch(name)
        assert part._TOTALS[signal].fullmatch(name)


@pytest.mark.parametrize("table", SCHEMAS)
def test_the_page_of_the_format_has_every_table_and_column(table: str) -> None:
    lines = [line for line in LINES if line.startswith(f"| `{table}` | ")]
    assert len(lines) == 1, f"FORMAT.md, section 5: {len(lines)} rows of table {table}"
    _, kinds, columns = lines[0].split(" | ", 2)
    assert {kind for kind, held in GROUP_TABLES.items() if table in held} == set(kinds.split(", "))
    names = SCHEMAS[table].names
    key = ["sample_id", "trace_index"]
    told = columns.replace("*key*", ", ".join(f"`{name}`" for name in key))
    places = [told.find(f"`{name}`") for name in names]
    assert -1 not in places, f"columns {names}, the page says {columns}"
    assert places == sorted(places)
