"""MELD (arXiv 1810.02508): emotions in dialogues of a television series, seven classes.

Published (github.com/declare-lab/MELD at 2d2011b409d3): ``data/MELD/test_sent_emo.csv`` and the
like with ``Sr No., Utterance, Speaker, Emotion, Sentiment, Dialogue_ID, Utterance_ID, Season,
Episode, StartTime, EndTime``. The recordings are video clips ``dia0_utt0.mp4``, which stage one
does not decode: their sound is expected under the same names as wav, flac, mp3 or ogg, beside the
CSV or in a folder of its split. ``train_splits`` is what the repository names; the two other names
of folders are those of the published archive as they are commonly cited, not verified here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cache_schema.errors import DatasetError
from train.evaluate.benchmarks.files import RECORDINGS, find_file, read_table, required, text
from train.evaluate.measures import UNWEIGHTED_ACCURACY, WEIGHTED_ACCURACY, WEIGHTED_F1
from train.evaluate.rules.choices import STRICT
from train.evaluate.rules.emotions import MELD_OFFICIAL
from train.evaluate.types import Benchmark

CLASSES = ("neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust")
QUESTION = "What emotion does the speaker express?"
NAMES = ("test_sent_emo.csv",)
_FOLDERS = {
    "test": ("output_repeated_splits_test", "test_splits", "test"),
    "dev": ("dev_splits_complete", "dev_splits", "dev"),
    "train": ("train_splits", "train"),
}
_NEEDED = ("Emotion", "Dialogue_ID", "Utterance_ID")


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances of a split; a folder is its test split.

    Raises:
        DatasetError: the file is not there, not of the published form, an emotion is none of the
            seven, or no recording is found at all.
    """
    file = find_file(path, NAMES, "MELD")
    split = file.name.split("_")[0]
    folders = [file.parent, *(file.parent / name for name in _FOLDERS.get(split, (split,)))]
    found = 0
    pending: list[dict[str, Any]] = []
    for row in read_table(file):
        required(row, _NEEDED, file, "MELD")
        name = f"dia{text(row['Dialogue_ID']).strip()}_utt{text(row['Utterance_ID']).strip()}"
        recording, is_there = _recording(name, folders)
        found += is_there
        sample = _sample(row, name, recording, split, file)
        if found:
            yield from pending
            pending.clear()
            yield sample
        else:
            pending.append(sample)
    if pending:
        where = ", ".join(str(folder) for folder in folders)
        raise DatasetError(
            f"{file}: no recording such as {Path(pending[0]['audio']).name} in {where}; "
            "write the sound of the published clips there first (ffmpeg -i dia0_utt0.mp4 -ac 1 "
            "-ar 16000 dia0_utt0.wav)"
        )


def _recording(name: str, folders: list[Path]) -> tuple[str, bool]:
    places = [folder / f"{name}{suffix}" for folder in folders for suffix in RECORDINGS]
    there = next((place for place in places if place.is_file()), None)
    return str((there or places[0]).absolute()), there is not None


def _sample(
    row: dict[str, Any], name: str, recording: str, split: str, file: Path
) -> dict[str, Any]:
    emotion = text(row["Emotion"]).strip().lower()
    if emotion not in CLASSES:
        raise DatasetError(f"{file}: {name} is {emotion!r}, none of {', '.join(CLASSES)}")
    return {
        "id": f"{split}_{name}",
        "audio": recording,
        "question": QUESTION,
        "choices": list(CLASSES),
        "answer": emotion,
        "corpus": "meld",
        "transcript": text(row.get("Utterance")),
        "speaker": text(row.get("Speaker")),
        "sentiment": text(row.get("Sentiment")),
    }


MELD = Benchmark(
    name="meld",
    ability="hearing",
    rows=rows,
    groups=("sentiment",),
    rules=(MELD_OFFICIAL, STRICT),
    measures=(WEIGHTED_F1, UNWEIGHTED_ACCURACY, WEIGHTED_ACCURACY),
)
