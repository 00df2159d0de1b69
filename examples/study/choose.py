"""``python -m examples.study.choose``: settings tried on rows kept for choosing, never the test.

After ``python -m examples.study`` has made a seed's models and tape (it may be stopped then), each
variant asked for is trained with each learning rate and answers the ``dev`` rows: other takes and
other sets of numbers than training and test have. ``choice.json`` keeps every figure.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any


def main(arguments: list[str] | None = None) -> int:
    """Try settings; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.study.choose", description=__doc__)
    parser.add_argument("folder", type=Path, help="of a seed, such as runs/study/seed-0")
    parser.add_argument("--variants", default="sft,joint", help="comma-separated (sft,joint)")
    parser.add_argument("--rates", default="1e-4,3e-4,1e-3", help="learning rates to try")
    parser.add_argument("--set", action="append", default=[], help="key=value of the recipe (none)")
    parser.add_argument("--threads", type=int, default=2, help="of arithmetic (2)")
    given = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if not (given.folder / "steps" / "tape.json").is_file():
        print(f"choose: {given.folder} has no tape of a study yet", file=sys.stderr)
        return 1
    from examples.study import sizes
    from examples.study.variants import BASE, variants

    names = given.variants.split(",")
    known = [one.name for one in variants(sizes.of_seed(given.folder)) if one.name != BASE]
    if unknown := sorted(set(names) - set(known)):
        print(
            f"choose: no variant {', '.join(unknown)}; there are {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    try:
        rates = [float(rate) for rate in given.rates.split(",")]
    except ValueError:
        print(
            f"choose: --rates {given.rates!r}: expected numbers such as 1e-4,3e-4", file=sys.stderr
        )
        return 2
    found = try_all(given.folder, names, rates, tuple(given.set))
    for line in found:
        groups = line["groups"]
        shares = {name: f"{100 * right / asked:.1f}" for name, (right, asked) in groups.items()}
        print(f"{line['variant']:<8} lr {line['rate']:g}  {' '.join(line['set'])}  {shares}")
    return 0


def try_all(
    folder: Path, names: list[str], rates: list[float], settings: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Train and measure; what was tried before is not tried again.

    Args:
        folder: of a seed.
        names: of variants.
        rates: learning rates, each tried with each variant.
        settings: ``key=value`` of the recipe, beside the variant's own.

    Returns:
        every trial of the folder.
    """
    from examples.study import rows, seed, sizes, stage_two
    from examples.study.measuring import counts, verdicts_of
    from examples.study.variants import BASE, variants

    identity = json.loads((folder / "study.json").read_text())
    size = sizes.of_seed(folder)
    file = folder / "choice.json"
    trials: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []
    asked = rows.read_rows(folder / "world" / "dev.jsonl")
    by_ability = {row.row_id: row.ability for row in asked}
    by_kind = {row.row_id: row.kind for row in asked}
    wanted = {one.name: one for one in variants(size)}
    todo: list[tuple[str, float]] = [(BASE, 0.0), *((n, rate) for n in names for rate in rates)]
    for name, rate in todo:
        tried = {"variant": name, "rate": rate, "set": [] if name == BASE else list(settings)}
        if any(tried.items() <= trial.items() for trial in trials):
            continue
        model, place = folder / BASE, folder / "choice" / "-".join([name, f"{rate:g}", *settings])
        if name != BASE:
            variant = wanted[name]
            variant = dataclasses.replace(variant, settings=(*variant.settings, *settings))
            tuned = dataclasses.replace(size, learning_rate=rate)
            seed.command(
                *stage_two.train_words(
                    folder / "tape", model, identity["seed"], tuned, variant, place
                )
            )
            model = place / "student"
        out = place.with_name(f"{place.name}-eval")
        verdicts = verdicts_of(model, folder / "heldout-dev", out, size.max_new_tokens)
        groups, kinds = counts(verdicts, by_ability), counts(verdicts, by_kind)
        trials.append({**tried, "groups": groups, "kinds": kinds})
        file.write_text(json.dumps(trials, indent=1) + "\n")
    return trials


if __name__ == "__main__":
    sys.exit(main())
