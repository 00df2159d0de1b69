"""The quickstart's data set: spoken numbers joined into clips, each with a question.

Compositions are split before anything is rendered: a held-out set of numbers occurs in no training
row, in any order. Every rendering has its own gaps, speed, gain and noise.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from examples.quickstart.questions import NUMBER_WORDS, QUESTIONS, Solution, transcript
from examples.quickstart.recordings import SAMPLE_RATE_HZ, Recording, RecordingSet

NUMBERS_PER_CLIP = (2, 3)
HELDOUT_SHARE = 0.2
GAP_S = (0.03, 0.20)
EDGE_S = (0.02, 0.10)
SPEED = (0.92, 1.08)
GAIN_DB = (-9.0, 0.0)
WORD_GAIN_DB = (-3.0, 0.0)
SNR_DB = (20.0, 40.0)

Composition = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: a clip, a question about it and the truth."""

    row_id: str
    kind: str
    numbers: Composition
    speaker: str
    language: str
    choices: tuple[str, ...]

    @property
    def question(self) -> str:
        """The question put."""
        return QUESTIONS[self.kind].text

    @property
    def solution(self) -> Solution:
        """The true way to the answer."""
        return QUESTIONS[self.kind].solve(self.numbers)

    @property
    def transcript(self) -> str:
        """The spoken numbers, in English words whatever the language."""
        return transcript(self.numbers)

    def as_json(self) -> dict[str, object]:
        """The row in the form that ``pipeline --dataset`` reads."""
        return {
            "id": self.row_id,
            "audio": f"clips/{self.row_id}.wav",
            "question": self.question,
            "choices": list(self.choices),
            "answer": self.solution.answer,
            "transcript": self.transcript,
            "speaker": self.speaker,
            "language": self.language,
            "task": self.kind,
        }


def read_rows(path: Path) -> list[Row]:
    """Read rows that ``write_rows`` wrote."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        rows.append(
            Row(
                row_id=values["id"],
                kind=values["task"],
                numbers=tuple(NUMBER_WORDS.index(word) for word in values["transcript"].split()),
                speaker=values["speaker"],
                language=values["language"],
                choices=tuple(values["choices"]),
            )
        )
    return rows


def split_compositions(seed: int) -> tuple[list[Composition], list[Composition]]:
    """Split all compositions by which numbers they hold, not by their order.

    Returns:
        (training, held out): tuples of 2 and 3 numbers; no held-out tuple is a reordering of a
        training one.
    """
    rng = np.random.default_rng([seed, 1])
    training: list[Composition] = []
    heldout: list[Composition] = []
    for count in NUMBERS_PER_CLIP:
        sets = list(itertools.combinations_with_replacement(range(10), count))
        chosen = rng.permutation(len(sets))[: round(HELDOUT_SHARE * len(sets))]
        held = {sets[place] for place in chosen}
        for numbers in itertools.product(range(10), repeat=count):
            (heldout if tuple(sorted(numbers)) in held else training).append(numbers)
    return training, heldout


def draw_clip(
    compositions: Sequence[Composition], recordings: RecordingSet, rng: np.random.Generator
) -> tuple[Composition, tuple[str, str]]:
    """Draw what is spoken and by which voice, two and three numbers equally often."""
    length = int(rng.choice(NUMBERS_PER_CLIP))
    pool = [numbers for numbers in compositions if len(numbers) == length]
    voices = recordings.voices
    return pool[int(rng.integers(len(pool)))], voices[int(rng.integers(len(voices)))]


def draw_rows(
    prefix: str,
    compositions: Sequence[Composition],
    recordings: RecordingSet,
    count: int,
    rng: np.random.Generator,
) -> list[Row]:
    """Draw rows, the kinds of question in turn."""
    kinds = list(QUESTIONS)
    rows = []
    for place in range(count):
        numbers, (speaker, language) = draw_clip(compositions, recordings, rng)
        kind = kinds[place % len(kinds)]
        rows.append(
            Row(
                row_id=f"{prefix}-{place:04d}",
                kind=kind,
                numbers=numbers,
                speaker=speaker,
                language=language,
                choices=QUESTIONS[kind].choices(numbers, rng),
            )
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A rendered clip.

    Attributes:
        numbers: what is spoken.
        wave: float32 [num_samples], 16 kHz.
        spans_s: when each number is spoken, (start, end).
    """

    numbers: Composition
    wave: np.ndarray
    spans_s: tuple[tuple[float, float], ...]


class Voices:
    """Renders number sequences from recordings."""

    def __init__(self, recordings: RecordingSet) -> None:
        self._takes: dict[tuple[str, str, int], list[Recording]] = {}
        for item in recordings.recordings:
            self._takes.setdefault((item.speaker, item.language, item.number), []).append(item)

    def render(
        self,
        numbers: Sequence[int],
        voice: tuple[str, str],
        rng: np.random.Generator,
        speed: tuple[float, float] = SPEED,
        snr_db: tuple[float, float] = SNR_DB,
    ) -> Clip:
        """Speak the numbers.

        Args:
            numbers: what to speak.
            voice: (speaker, language).
            rng: gaps, takes, speed, gain and noise are drawn from it.
            speed: lowest and highest tempo, of one take's own.
            snr_db: lowest and highest level of the speech over the added noise.
        """
        parts = [_silence(rng.uniform(*EDGE_S))]
        spans_s = []
        for place, number in enumerate(numbers):
            if place:
                parts.append(_silence(rng.uniform(*GAP_S)))
            takes = self._takes[*voice, number]
            wave = _at_speed(takes[int(rng.integers(len(takes)))].wave, rng.uniform(*speed))
            start = sum(map(len, parts))
            spans_s.append((start / SAMPLE_RATE_HZ, (start + len(wave)) / SAMPLE_RATE_HZ))
            parts.append(wave * _decibels(rng.uniform(*WORD_GAIN_DB)))
        parts.append(_silence(rng.uniform(*EDGE_S)))
        wave = np.concatenate(parts)
        level = np.sqrt(np.mean(np.square(wave)))
        noise = rng.standard_normal(len(wave)) * level * _decibels(-rng.uniform(*snr_db))
        wave = (wave + noise) * _decibels(rng.uniform(*GAIN_DB))
        return Clip(
            numbers=tuple(numbers),
            wave=np.clip(wave, -1.0, 1.0).astype(np.float32),
            spans_s=tuple(spans_s),
        )


def write_rows(
    folder: Path, name: str, rows: Sequence[Row], voices: Voices, rng: np.random.Generator
) -> Path:
    """Write clips and ``{name}.jsonl``; returns the path of the latter."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    for row in rows:
        clip = voices.render(row.numbers, (row.speaker, row.language), rng)
        path = folder / "clips" / f"{row.row_id}.wav"
        soundfile.write(path, clip.wave, SAMPLE_RATE_HZ, "PCM_16")
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row.as_json()) + "\n" for row in rows), encoding="utf-8")
    return path


def _silence(duration_s: float) -> np.ndarray:
    return np.zeros(int(duration_s * SAMPLE_RATE_HZ), dtype=np.float32)


def _decibels(level_db: float) -> float:
    return float(10 ** (level_db / 20))


def _at_speed(wave: np.ndarray, speed: float) -> np.ndarray:
    """Resample by linear interpolation: tempo and pitch change together."""
    places = np.arange(int(len(wave) / speed)) * speed
    return np.interp(places, np.arange(len(wave)), wave).astype(np.float32)
