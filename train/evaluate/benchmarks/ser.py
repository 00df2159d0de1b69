"""Speech emotion recognition, whichever corpus a path holds: IEMOCAP, MELD, or data of one's own.

The same rows as ``meld`` and ``iemocap`` give; own data is of the dataset form, its answers being
the classes. The headline is the unweighted accuracy, the mean of the recalls of the classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.evaluate.benchmarks import iemocap, meld, own
from train.evaluate.measures import UNWEIGHTED_ACCURACY, WEIGHTED_ACCURACY, WEIGHTED_F1
from train.evaluate.rules.choices import STRICT
from train.evaluate.rules.emotions import SER_OFFICIAL
from train.evaluate.types import Benchmark


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances of the corpus at a path.

    A file named as MELD's or a folder with such a file is MELD; any other file is own data; any
    other folder must be IEMOCAP or one of its sessions.

    Raises:
        DatasetError: as the reader of that corpus says.
    """
    if path.name.endswith("_sent_emo.csv") or any((path / name).is_file() for name in meld.NAMES):
        return meld.rows(path)
    return own.rows(path) if path.is_file() else iemocap.rows(path)


SER = Benchmark(
    name="ser",
    ability="hearing",
    rows=rows,
    groups=("corpus", "kind", "sentiment", "language"),
    rules=(SER_OFFICIAL, STRICT),
    measures=(UNWEIGHTED_ACCURACY, WEIGHTED_ACCURACY, WEIGHTED_F1),
)
