"""IEMOCAP: acted and improvised dialogues of two, by its usual four classes.

Published (sail.usc.edu/iemocap; the layout and the lines are as public readers of the corpus take
them, the corpus itself was not seen): ``Session5/dialog/EmoEvaluation/*.txt`` has a line an
utterance, ``[6.2901 - 8.2357]<TAB>Ses01F_impro01_F000<TAB>neu<TAB>[2.5, 2.5, 2.5]``; its recording
is ``Session5/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav``. Four classes: ``ang``, ``hap``
with ``exc``, ``neu``, ``sad``; of all five sessions that is 5,531 utterances. The other labels
(``fru``, ``xxx``, ...) are no part of the convention: how many were left out is logged.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cache_schema.errors import DatasetError
from train.evaluate.measures import UNWEIGHTED_ACCURACY, WEIGHTED_ACCURACY, WEIGHTED_F1
from train.evaluate.rules.choices import STRICT
from train.evaluate.rules.emotions import IEMOCAP_OFFICIAL
from train.evaluate.types import Benchmark

CLASSES = {"ang": "angry", "hap": "happy", "exc": "happy", "neu": "neutral", "sad": "sad"}
QUESTION = "What emotion does the speaker express?"
TEST_SESSION = "Session5"
"""The session that is held out where a folder of all five is given."""

_LINE = re.compile(r"\[(?P<start>[\d.]+) - (?P<end>[\d.]+)\]\s+(?P<name>\S+)\s+(?P<label>\w+)\s")
_LOG = logging.getLogger(__name__)


def session_of(path: Path) -> Path:
    """Return the session to read: the folder itself, or session 5 of the corpus.

    Raises:
        DatasetError: it is neither.
    """
    for folder in (path, path / TEST_SESSION):
        if (folder / "dialog" / "EmoEvaluation").is_dir():
            return folder
    raise DatasetError(
        f"{path}: expected IEMOCAP's folder with {TEST_SESSION} in it, or one session's folder, "
        "with dialog/EmoEvaluation and sentences/wav"
    )


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances of one session that have one of the four classes.

    Raises:
        DatasetError: the folder is no session, or has no such utterance.
    """
    session = session_of(path)
    kept, left_out = 0, Counter[str]()
    for file in sorted((session / "dialog" / "EmoEvaluation").glob("*.txt")):
        if file.name.startswith("."):  # of a Mac that packed the archive
            continue
        for match in map(_LINE.match, file.read_text(encoding="latin-1").splitlines()):
            if match is None:
                continue
            if match["label"] not in CLASSES:
                left_out[match["label"]] += 1
                continue
            kept += 1
            yield _sample(match["name"], CLASSES[match["label"]], session)
    if not kept:
        raise DatasetError(f"{session}: no utterance of the four classes in dialog/EmoEvaluation")
    _LOG.info("%s: %d utterances, left out by label: %s", session, kept, dict(left_out))


def _sample(name: str, emotion: str, session: Path) -> dict[str, Any]:
    dialogue = name.rpartition("_")[0]
    recording = session / "sentences" / "wav" / dialogue / f"{name}.wav"
    return {
        "id": name,
        "audio": str(recording.absolute()),
        "question": QUESTION,
        "choices": sorted(set(CLASSES.values())),
        "answer": emotion,
        "corpus": "iemocap",
        "session": session.name,
        "kind": "improvised" if "impro" in dialogue else "scripted",
    }


IEMOCAP = Benchmark(
    name="iemocap",
    ability="hearing",
    rows=rows,
    groups=("kind",),
    rules=(IEMOCAP_OFFICIAL, STRICT),
    measures=(UNWEIGHTED_ACCURACY, WEIGHTED_ACCURACY, WEIGHTED_F1),
)
