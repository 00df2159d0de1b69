"""Speech emotion recognition, whichever corpus a path holds: IEMOCAP, MELD, or data of one's own.

The same rows as ``meld`` and ``iemocap`` give. Own data is of the dataset form, its answers being
the classes: rows without a question get one, rows without choices all classes of the file. The
headline is the unweighted accuracy, the mean of the recalls of the classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache_schema.errors import DatasetError
from train.evaluate.benchmarks import iemocap, meld, own
from train.evaluate.measures import UNWEIGHTED_ACCURACY, WEIGHTED_ACCURACY, WEIGHTED_F1
from train.evaluate.rules.choices import STRICT
from train.evaluate.rules.emotions import SER_OFFICIAL
from train.evaluate.types import NOT_READ, Benchmark, Item

CLASS_KEYS = ("answer", "emotion", "label")
"""Keys of own data that may hold the class, the first one present is taken."""


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances of the corpus at a path.

    A file named as MELD's or a folder with such a file is MELD; any other file is own data; any
    other folder must be IEMOCAP or one of its sessions.

    Raises:
        DatasetError: as the reader of that corpus says.
    """
    if path.name.endswith("_sent_emo.csv") or any((path / name).is_file() for name in meld.NAMES):
        return meld.rows(path)
    return _own(path) if path.is_file() else iemocap.rows(path)


def _own(path: Path) -> Iterator[dict[str, Any]]:
    classes = sorted({_class_of(row, path)[1] for row in own.rows(path)})
    for row in own.rows(path):
        key, name = _class_of(row, path)
        kept = {other: value for other, value in row.items() if other != key}
        yield {"question": meld.QUESTION, "choices": classes, **kept, "answer": name}


def _class_of(row: Mapping[str, Any], path: Path | str) -> tuple[str, str]:
    key = next((key for key in CLASS_KEYS if row.get(key) not in (None, "")), None)
    if key is None:
        raise DatasetError(
            f"{path}: a row has no class ({', '.join(CLASS_KEYS)}; keys: {', '.join(sorted(row))})"
        )
    return key, str(row[key])


def complete(items: Sequence[Item], metadata: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Return what is asked of a tape: rows without an answer have their class in their metadata.

    Raises:
        DatasetError: a row has no class.
    """
    answers = [
        item.answer or _class_of(row, f"sample {item.sample_id!r}")[1]
        for item, row in zip(items, metadata, strict=True)
    ]
    classes = tuple(sorted(set(answers) - {NOT_READ}))
    return [
        replace(
            item,
            question=item.question or meld.QUESTION,
            choices=item.choices or classes,
            answer=answer,
        )
        for item, answer in zip(items, answers, strict=True)
    ]


SER = Benchmark(
    name="ser",
    ability="hearing",
    rows=rows,
    groups=("corpus", "kind", "sentiment", "language"),
    rules=(SER_OFFICIAL, STRICT),
    measures=(UNWEIGHTED_ACCURACY, WEIGHTED_ACCURACY, WEIGHTED_F1),
    complete=complete,
)
