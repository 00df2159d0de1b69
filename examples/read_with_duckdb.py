"""SQL over a tape, with DuckDB and pyarrow and nothing of this project.

``python examples/read_with_duckdb.py CACHE`` says how many traces are right, how long they are and
how much of their teacher's probability lies outside the top k, of a tape whose top-k is stored
``hot``, as it is by default. ``pip install duckdb pyarrow``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import duckdb
import pyarrow as pa

SQL = """
select
    trace.correct,
    count(*) as traces,
    avg(len(trace.token_ids)) as tokens,
    avg(list_avg(topk.tail)) as outside_the_k
from samples
join trace using (sample_id)
left join topk using (sample_id, trace_index)
group by trace.correct
order by trace.correct
"""


def table(cache: Path, group: str, name: str) -> pa.Table:
    """Return a table of all committed shards of a group, those that the manifest names."""
    parts = []
    for manifest in sorted((cache / "manifest").glob("*.jsonl")):
        for line in manifest.read_text().splitlines():
            record = json.loads(line)
            if (record["type"], record["group"]) == ("shard", group) and name in record["rows"]:
                file = pa.memory_map(str(cache / record["path"] / f"{name}.arrow"))
                parts.append(pa.ipc.open_file(file).read_all())
    if not parts:
        raise SystemExit(f"{cache}: no committed {group}/{name}")
    return pa.concat_tables(parts)


def main(cache: Path) -> None:
    """Print the table."""
    samples = table(cache, "samples", "samples")  # noqa: F841 - DuckDB finds tables by name
    trace = table(cache, "textual", "trace")  # noqa: F841
    topk = table(cache, "textual", "topk")  # noqa: F841
    print(duckdb.sql(SQL))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
