"""Run benchmarks and print their figures against the bars: ``python tests/benchmarks/run.py``.

Every module beside this one with a function ``measure() -> Iterable[Figure]`` is a benchmark, and
runs in a process of its own. Arguments choose some by name; ``--json FILE`` keeps the figures, with
the machine and the date. The last lines say which bars were met and missed. The exit status is 1 if
a bar is missed or a benchmark failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from figures import Figure

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))  # what tests and benchmarks share
NAMES = sorted(
    path.stem for path in HERE.glob("*.py") if "\ndef measure()" in path.read_text(encoding="utf-8")
)


def bar_of(figure: Figure) -> str:
    """Return a figure's bar in words, empty if it has none."""
    return "" if figure.bar is None else f"{'>=' if figure.at_least else '<='} {figure.bar:g}"


def line(figure: Figure) -> str:
    """Return a figure as a row of the table."""
    verdict = {None: "", True: "met", False: "MISSED"}[figure.met]
    return (
        f"{figure.name:<58} {figure.value:>10.4g} {figure.unit:<22} {bar_of(figure):<10} "
        f"{verdict:<7}{figure.note}"
    )


def machine() -> dict[str, str | int | float]:
    """Return what the figures depend on: the machine, and how busy it was."""
    model = platform.processor() or platform.machine()
    about = Path("/proc/cpuinfo")
    if about.exists():
        named = (each for each in about.read_text().splitlines() if each.startswith("model name"))
        model = next(named, f": {model}").split(":", 1)[1].strip()
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "processor": model,
        "cores": os.cpu_count() or 0,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
    }


def run_one(name: str) -> list[Figure]:
    """Run a benchmark, printing each figure when it is there."""
    found = []
    for figure in importlib.import_module(name).measure():
        print(line(figure), flush=True)
        found.append(figure)
    return found


def summary(kept: Mapping[str, Sequence[Figure]], failed: Sequence[str]) -> list[str]:
    """Return how many bars were met, and each one that was not."""
    held = [(name, each) for name, of in kept.items() for each in of if each.met is not None]
    missed = [(name, each) for name, each in held if not each.met]
    count = sum(map(len, kept.values()))
    return [
        f"{len(held)} bars: {len(held) - len(missed)} met, {len(missed)} missed; {count} figures",
        *(
            f"MISSED {name}: {each.name} {each.value:.4g} {each.unit} ({bar_of(each)})"
            for name, each in missed
        ),
        *(f"FAILED {name}: the bars it stopped before are not counted" for name in failed),
    ]


def main() -> int:
    """Run the chosen benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    about, began_s = machine(), time.monotonic()
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    kept: dict[str, list[Figure]] = {}
    failed: list[str] = []
    for name in arguments.names or NAMES:
        print(f"\n{name}", flush=True)
        try:
            # what one sets (threads, how memory is kept) must not meet the next
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                kept[name] = alone.submit(run_one, name).result()
        except Exception:  # noqa: BLE001 - the others run
            traceback.print_exc()
            failed.append(name)
        if arguments.json:
            found = {name: [asdict(e) | {"met": e.met} for e in of] for name, of in kept.items()}
            content = {"machine": about, "figures": found, "failed": failed}
            arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    print(f"\nafter {(time.monotonic() - began_s) / 60:.0f} minutes")
    print(*summary(kept, failed), sep="\n")
    return int(bool(failed) or any(each.met is False for of in kept.values() for each in of))


if __name__ == "__main__":
    sys.exit(main())
