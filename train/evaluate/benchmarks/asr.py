"""Speech recognition on data of the dataset form: a recording and its transcript."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache_schema.errors import DatasetError
from train.evaluate.benchmarks import own
from train.evaluate.measures import WORD_ERROR_RATE
from train.evaluate.rules.transcripts import LANGUAGE, OFFICIAL, STRICT
from train.evaluate.types import NOT_READ, Benchmark, Item

QUESTION = "Transcribe the speech."
TRANSCRIPT_KEYS = ("transcript", "transcription", "text", "sentence", "answer")
"""Keys that may hold the reference, the first one present is taken."""


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the recordings with their transcript as the answer; no language is English, ``en``.

    Raises:
        DatasetError: the file is missing or unreadable, or a row has no transcript.
    """
    for number, row in enumerate(own.rows(path)):
        key = next((name for name in TRANSCRIPT_KEYS if isinstance(row.get(name), str)), None)
        audio = next((name for name in own.RECORDING_KEYS if row.get(name) is not None), None)
        if key is None or audio is None:
            missing = f"transcript ({', '.join(TRANSCRIPT_KEYS)})" if key is None else "recording"
            raise DatasetError(
                f"{path}, row {number}: no {missing} (keys: {', '.join(sorted(row))})"
            )
        kept = {name: value for name, value in row.items() if name not in (key, audio, "choices")}
        yield {
            LANGUAGE: "en",
            **kept,
            "audio": row[audio],
            "question": QUESTION,
            "choices": [],
            "answer": row[key],
        }


def complete(items: Sequence[Item], metadata: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Return what is asked of a tape: to transcribe, whatever question its rows came with.

    Raises:
        DatasetError: a row has a question of its own and no transcript.
    """
    return [_transcribed(item, row) for item, row in zip(items, metadata, strict=True)]


def _transcribed(item: Item, row: Mapping[str, Any]) -> Item:
    if item.question == QUESTION or item.answer == NOT_READ:
        return item
    said = next((row[key] for key in TRANSCRIPT_KEYS if isinstance(row.get(key), str)), None)
    if said is None and (item.choices or not item.answer):
        raise DatasetError(
            f"sample {item.sample_id!r}: no transcript ({', '.join(TRANSCRIPT_KEYS)}) to compare "
            f"with (metadata: {', '.join(sorted(row)) or 'none'})"
        )
    # an open question with an answer and no transcript beside it: the answer is the transcript
    return replace(
        item, question=QUESTION, choices=(), answer=item.answer if said is None else said
    )


ASR = Benchmark(
    name="asr",
    ability="hearing",
    rows=rows,
    groups=(LANGUAGE,),
    rules=(OFFICIAL, STRICT),
    measures=(WORD_ERROR_RATE,),
    complete=complete,
)
