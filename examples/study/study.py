"""All seeds, then the table and the plots."""

from __future__ import annotations

from pathlib import Path

from transformers.utils import logging as transformers_logging

from examples.quickstart.steps import say
from examples.study import plots, speech
from examples.study.one_seed import run_seed
from examples.study.seed import Seed
from examples.study.sizes import SIZES
from examples.study.summary import write_summary


def run(
    world: str,
    fsdd: Path | None,
    out: Path,
    seeds: list[int],
    size_name: str,
    *,
    fresh: bool,
    with_sides: bool,
) -> None:
    """Run every seed; write ``table.md``, ``study.json`` and two plots.

    Raises:
        RecordingsError: the recordings cannot be had.
        FolderError: ``out`` holds something else.
        CalledProcessError: a command failed, and has said why.
    """
    transformers_logging.disable_progress_bar()
    found, size = speech.load(world, fsdd, say), SIZES[size_name]
    say(f"{found.name}; {found.note}")
    records = []
    for place, seed in enumerate(seeds):
        print(f"\n=== seed {seed}, {place + 1} of {len(seeds)} ===", flush=True)
        one = Seed(
            seed=seed, folder=out / f"seed-{seed}", speech=found, size_name=size_name, size=size
        )
        records.append(run_seed(one, fresh, with_sides))
    summary, text = write_summary(out, records, size)
    plots.plane(summary, out / "plane.png")
    plots.curves(records, summary, out / "curves.png")
    print(f"\n{text}\n\n{out}: table.md, study.json, plane.png, curves.png")
