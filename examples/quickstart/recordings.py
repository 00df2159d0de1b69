"""Recorded speech: single spoken numbers by a few speakers, and where they come from.

Tried in this order, each step said aloud:

1. a folder the user names (``{number}_{speaker}_{index}.wav``);
2. Debian's telephone prompts in five languages (``asterisk_prompts``);
3. the Free Spoken Digit Dataset from the hub (``other_sources``);
4. synthetic speech from a wheel (``other_sources``), which is no recorded speech and says so.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

SAMPLE_RATE_HZ = 16_000
_SILENCE_BELOW_PEAK_DB = 40.0
_TRIM_FRAME_S = 0.01
_DIGITS = tuple("0123456789")
TAKES_PER_WORD = 3
LONGEST_WORD_S = 1.3
"""Three of these, slowed down and with gaps, still fit what the model hears at once."""


class RecordingsError(RuntimeError):
    """One source of recordings cannot be had; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One spoken number.

    Attributes:
        number: 0 to 9.
        speaker: who speaks.
        language: in which language.
        wave: float32 [num_samples], 16 kHz mono, silence trimmed, peak 1.
    """

    number: int
    speaker: str
    language: str
    wave: np.ndarray


@dataclass(frozen=True, kw_only=True)
class RecordingSet:
    """All recordings of one source, and an honest sentence about what they are."""

    name: str
    note: str
    recordings: tuple[Recording, ...]

    @property
    def voices(self) -> tuple[tuple[str, str], ...]:
        """(speaker, language) pairs in order."""
        return tuple(sorted({(item.speaker, item.language) for item in self.recordings}))


def decode(data: bytes) -> np.ndarray:
    """Decode a wav or flac file to float32 [num_samples]: 16 kHz mono, trimmed, peak 1."""
    wave, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return prepare(wave.mean(axis=1), rate_hz)


def prepare(wave: np.ndarray, rate_hz: int) -> np.ndarray:
    """Resample to 16 kHz, cut silence from both ends, scale the peak to 1."""
    if rate_hz != SAMPLE_RATE_HZ:
        wave = torchaudio.functional.resample(
            torch.from_numpy(wave), rate_hz, SAMPLE_RATE_HZ
        ).numpy()
    frame = int(_TRIM_FRAME_S * SAMPLE_RATE_HZ)
    num_frames = len(wave) // frame
    energy = np.square(wave[: num_frames * frame]).reshape(num_frames, frame).mean(axis=1)
    loud = np.flatnonzero(energy > energy.max() * 10 ** (-_SILENCE_BELOW_PEAK_DB / 10))
    trimmed = wave[loud[0] * frame : (loud[-1] + 1) * frame]
    return np.ascontiguousarray(trimmed / np.abs(trimmed).max(), dtype=np.float32)


def pick_takes(
    candidates: Iterable[tuple[int, str, Callable[[], bytes]]],
) -> tuple[Recording, ...]:
    """Return the first ``TAKES_PER_WORD`` takes of each number and speaker that are short enough.

    Args:
        candidates: number, speaker and how to read the file, in order of preference.
    """
    taken: Counter[tuple[int, str]] = Counter()
    found = []
    for number, speaker, read in candidates:
        if taken[number, speaker] == TAKES_PER_WORD:
            continue
        wave = decode(read())
        if len(wave) > LONGEST_WORD_S * SAMPLE_RATE_HZ:
            continue
        taken[number, speaker] += 1
        found.append(Recording(number=number, speaker=speaker, language="English", wave=wave))
    return tuple(found)


def read_folder(folder: Path) -> RecordingSet:
    """Read ``{number}_{speaker}_{index}.wav`` files, the layout of the Free Spoken Digit Dataset.

    Raises:
        RecordingsError: there is no such file, or a speaker lacks a number.
    """
    named = [(path.stem.split("_"), path) for path in sorted(folder.glob("*_*_*.wav"))]
    files = [
        (int(parts[2]), int(parts[0]), parts[1], path)
        for parts, path in named
        if len(parts) == 3 and parts[0] in _DIGITS and parts[2].isdigit()
    ]
    return checked(
        RecordingSet(
            name=f"the folder {folder.name}",
            note=f"up to {TAKES_PER_WORD} takes of each number and speaker",
            recordings=pick_takes(
                (number, speaker, path.read_bytes) for _, number, speaker, path in sorted(files)
            ),
        )
    )


def checked(recordings: RecordingSet) -> RecordingSet:
    """Return the set if every voice says every number.

    Raises:
        RecordingsError: something is missing.
    """
    have = {(item.speaker, item.language, item.number) for item in recordings.recordings}
    missing = [
        f"{speaker} says no {number} in {language}"
        for speaker, language in recordings.voices
        for number in range(10)
        if (speaker, language, number) not in have
    ]
    if not have:
        raise RecordingsError(f"{recordings.name} holds no file named NUMBER_SPEAKER_INDEX.wav")
    if missing:
        raise RecordingsError(f"{recordings.name} is not complete: {', '.join(missing[:5])}")
    return recordings


def first_available(
    sources: dict[str, Callable[[], RecordingSet]], say: Callable[[str], None]
) -> RecordingSet:
    """Return the first source that can be had; say which were tried and why they failed.

    Raises:
        RecordingsError: none can be had.
    """
    for name, load in sources.items():
        try:
            return load()
        except RecordingsError as error:
            say(f"{name}: not available ({error})")
    raise RecordingsError(
        "no recordings could be had; give a folder with --recordings DIR "
        "(files NUMBER_SPEAKER_INDEX.wav, numbers 0 to 9)"
    )


def save(recordings: RecordingSet, folder: Path) -> None:
    """Keep a set as wav files with an index beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"name": recordings.name, "note": recordings.note}]
    for place, item in enumerate(recordings.recordings):
        file = f"{item.number}_{item.speaker}_{place:03d}.wav"
        soundfile.write(folder / file, item.wave, SAMPLE_RATE_HZ, "PCM_16")
        lines.append(
            {
                "file": file,
                "number": item.number,
                "speaker": item.speaker,
                "language": item.language,
            }
        )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "index.jsonl").write_text(text, encoding="utf-8")


def load_saved(folder: Path) -> RecordingSet:
    """Read a set that ``save`` wrote."""
    text = (folder / "index.jsonl").read_text(encoding="utf-8")
    about, *entries = [json.loads(line) for line in text.splitlines()]
    return RecordingSet(
        name=about["name"],
        note=about["note"],
        recordings=tuple(
            Recording(
                number=entry["number"],
                speaker=entry["speaker"],
                language=entry["language"],
                wave=soundfile.read(folder / entry["file"], dtype="float32")[0],
            )
            for entry in entries
        ),
    )
