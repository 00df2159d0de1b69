"""Run benchmarks and print their figures against the bars: ``python tests/benchmarks/run.py``.

Every module beside this one with a function ``measure() -> Iterable[Figure]`` is a benchmark.
Arguments choose some by name; ``--json FILE`` keeps the figures. The exit status is 1 if a bar is
missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from figures import Figure

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))  # what tests and benchmarks share
NAMES = sorted(
    path.stem for path in HERE.glob("*.py") if "\ndef measure()" in path.read_text(encoding="utf-8")
)


def line(figure: Figure) -> str:
    """Return a figure as a row of the table."""
    bar = "" if figure.bar is None else f"{'>=' if figure.at_least else '<='} {figure.bar:g}"
    verdict = {None: "", True: "met", False: "MISSED"}[figure.met]
    return (
        f"{figure.name:<58} {figure.value:>10.4g} {figure.unit:<22} {bar:<10} {verdict:<7}"
        f"{figure.note}"
    )


def main() -> int:
    """Run the chosen benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}"
    )
    kept = {}
    for name in arguments.names or NAMES:
        print(f"\n{name}")
        kept[name] = []
        for figure in importlib.import_module(name).measure():
            print(line(figure), flush=True)
            kept[name].append(figure)
    if arguments.json:
        found = {name: [asdict(figure) for figure in of] for name, of in kept.items()}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(figure.met is False for of in kept.values() for figure in of))


if __name__ == "__main__":
    sys.exit(main())
