"""``python -m examples.study``: the paper's table, measured here, on recorded speech.

For each seed: a world of spoken numbers, a textual teacher that reasons, a base audio model that
hears, one tape of both, and every variant of the table trained from it and evaluated. Any step
that is done is not done again: the same command continues.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

OUT = Path("runs/study")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.study",
        description="The variants of arXiv 2509.18579's table over one tape, on recorded speech.",
        epilog="example: python -m examples.study --fsdd free-spoken-digit-dataset --seeds 0,1,2",
    )
    parser.add_argument("--fsdd", type=Path, help="folder of the Free Spoken Digit Dataset, or hub")
    parser.add_argument(
        "--world",
        choices=("fsdd", "asterisk"),
        default="fsdd",
        help="asterisk: Debian's telephone prompts, fetched by apt-get, without voices held out",
    )
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder to work in ({OUT})")
    parser.add_argument("--seeds", default="0", help="comma-separated (0)")
    parser.add_argument("--size", choices=("small", "tiny"), default="small")
    parser.add_argument("--threads", type=int, default=2, help="of arithmetic (2)")
    parser.add_argument("--sides", action="store_true", help="also the questions beside the table")
    parser.add_argument("--fresh", action="store_true", help="start over")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    given = parse_arguments(arguments)
    # before torch is imported, and for the commands run later: see the quickstart
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from cache_schema.errors import TeachertapeError
    from examples.quickstart.recordings import RecordingsError
    from examples.quickstart.steps import FolderError
    from examples.study.study import run

    try:
        seeds = [int(seed) for seed in given.seeds.split(",")]
    except ValueError:
        print(f"study: --seeds {given.seeds!r}: expected numbers such as 0,1,2", file=sys.stderr)
        return 2
    try:
        run(
            given.world,
            given.fsdd,
            given.out,
            seeds,
            given.size,
            fresh=given.fresh,
            with_sides=given.sides,
        )
    except subprocess.CalledProcessError as error:
        print(
            f"study: {' '.join(error.cmd[1:5])} ... ended with {error.returncode}; it has said "
            "why. The same command continues.",
            file=sys.stderr,
        )
        return 1
    except (FolderError, RecordingsError, TeachertapeError) as error:
        print(f"study: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("study: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
