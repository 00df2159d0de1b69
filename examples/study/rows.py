"""The study's rows: who says what, what is asked, and where each row belongs.

Compositions are split by which numbers they hold, so no set of numbers of the test, in any order,
is in training or in the choice of settings.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from examples.quickstart.questions import NUMBER_WORDS, transcript
from examples.quickstart.recordings import SAMPLE_RATE_HZ, RecordingSet
from examples.quickstart.world import Clip, Composition, Voices
from examples.study.hearing_questions import FURTHER_HEARING, HEARING, Heard, hearing_turn
from examples.study.questions import REASONING

LENGTHS = (2, 3)
SHARES = {"dev": 0.1, "test": 0.2}
QUIET_SNR_DB, NOISY_SNR_DB = (30.0, 40.0), (8.0, 14.0)
SPEED = {"train": (0.85, 1.18), "heldout": (0.95, 1.05)}
TILT = (-0.35, 0.35)
"""First-order filter drawn for training clips: what a microphone does to the spectrum varies."""

HEARD_LEVEL = 0.08
"""Root mean square of every clip: loudness gives no voice away."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: a clip, a question about it and the truth.

    Attributes:
        row_id: its name.
        kind: of question.
        ability: ``reasoning`` or ``hearing``.
        voices: ``seen`` or ``unseen`` in training.
        heard: the truth about the clip.
        language: spoken.
        question: asked.
        choices: permitted answers, if any.
        answer: the right one.
    """

    row_id: str
    kind: str
    ability: str
    voices: str
    heard: Heard
    language: str
    question: str
    choices: tuple[str, ...]
    answer: str

    def as_json(self) -> dict[str, object]:
        """The row in the form that ``pipeline --dataset`` reads."""
        return {
            "id": self.row_id,
            "audio": f"clips/{self.row_id}.wav",
            "question": self.question,
            "choices": list(self.choices),
            "answer": self.answer,
            "noise": self.heard.noisy,
            **described(self.heard, self.language),
            "task": self.kind,
            "category": f"{self.ability}, {self.voices} voices",
        }


def described(heard: Heard, language: str) -> dict[str, object]:
    """Return the columns that a description is made of."""
    return {
        "transcript": transcript(heard.numbers),
        "speaker": heard.speaker,
        "language": language,
    }


def split_compositions(seed: int) -> dict[str, list[Composition]]:
    """Split all compositions of two and three numbers into ``train``, ``dev`` and ``test``."""
    rng = np.random.default_rng([seed, 1])
    found: dict[str, list[Composition]] = {"train": [], "dev": [], "test": []}
    for count in LENGTHS:
        sets = list(itertools.combinations_with_replacement(range(10), count))
        order = rng.permutation(len(sets)).tolist()
        belongs: dict[Composition, str] = {}
        for name, share in SHARES.items():
            for _ in range(round(share * len(sets))):
                belongs[sets[order.pop()]] = name
        for numbers in itertools.product(range(10), repeat=count):
            found[belongs.get(tuple(sorted(numbers)), "train")].append(numbers)
    return found


def draw_numbers(
    compositions: Sequence[Composition], kind: str, rng: np.random.Generator
) -> Composition:
    """Draw what is spoken: either length equally often, and where asked for either answer too."""
    length = int(rng.choice(LENGTHS))
    pool = [numbers for numbers in compositions if len(numbers) == length]
    asked = REASONING.get(kind)
    if asked and asked.balanced:
        wanted = ("yes", "no")[int(rng.integers(2))]
        pool = [numbers for numbers in pool if asked.answer(numbers, ()) == wanted] or pool
    return pool[int(rng.integers(len(pool)))]


def draw_rows(
    prefix: str,
    kinds: Sequence[str],
    compositions: Sequence[Composition],
    recordings: RecordingSet,
    speakers: Sequence[str],
    count: int,
    rng: np.random.Generator,
) -> list[Row]:
    """Draw rows, the kinds of question in turn.

    Args:
        prefix: of their names.
        kinds: of ``REASONING`` or ``HEARING``.
        compositions: what may be spoken.
        recordings: who may speak.
        speakers: those trained on.
        count: how many.
        rng: draws.
    """
    voices = recordings.voices
    rows = []
    for place in range(count):
        kind = kinds[place % len(kinds)]
        numbers = draw_numbers(compositions, kind, rng)
        speaker, language = voices[int(rng.integers(len(voices)))]
        heard = Heard(numbers=numbers, speaker=speaker, noisy=bool(rng.random() < 0.5))
        if kind in REASONING:
            question = REASONING[kind].text
            choices = REASONING[kind].choices(numbers, rng)
            answer = REASONING[kind].answer(numbers, choices)
        else:
            question, choices, answer, _ = hearing_turn(kind, heard, speakers, rng)
        rows.append(
            Row(
                row_id=f"{prefix}-{place:05d}",
                kind=kind,
                ability="reasoning" if kind in REASONING else "hearing",
                voices="seen" if speaker in speakers else "unseen",
                heard=heard,
                language=language,
                question=question,
                choices=choices,
                answer=answer,
            )
        )
    return rows


def speak(
    heard: Heard, language: str, voices: Voices, varied: bool, rng: np.random.Generator
) -> Clip:
    """Render a clip of a fixed level; where ``varied``, its tempo and spectrum vary widely."""
    clip = voices.render(
        heard.numbers,
        (heard.speaker, language),
        rng,
        speed=SPEED["train" if varied else "heldout"],
        snr_db=NOISY_SNR_DB if heard.noisy else QUIET_SNR_DB,
    )
    wave = clip.wave.copy()
    if varied:
        wave[1:] += np.float32(rng.uniform(*TILT)) * clip.wave[:-1]
    wave *= HEARD_LEVEL / np.sqrt(np.mean(np.square(wave)))
    return Clip(numbers=clip.numbers, wave=np.clip(wave, -1, 1), spans_s=clip.spans_s)


def write_rows(
    folder: Path,
    name: str,
    rows: Sequence[Row],
    voices_of: Callable[[Row], Voices],
    varied: bool,
    rng: np.random.Generator,
) -> Path:
    """Write clips and ``{name}.jsonl``; returns the path of the latter."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    for row in rows:
        clip = speak(row.heard, row.language, voices_of(row), varied, rng)
        path = folder / "clips" / f"{row.row_id}.wav"
        soundfile.write(path, clip.wave, SAMPLE_RATE_HZ, "PCM_16")
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row.as_json()) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[Row]:
    """Read rows that ``write_rows`` wrote."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        ability, _, voices = values["category"].partition(", ")
        numbers = tuple(NUMBER_WORDS.index(word) for word in values["transcript"].split())
        rows.append(
            Row(
                row_id=values["id"],
                kind=values["task"],
                ability=ability,
                voices=voices.removesuffix(" voices"),
                heard=Heard(numbers=numbers, speaker=values["speaker"], noisy=values["noise"]),
                language=values["language"],
                question=values["question"],
                choices=tuple(values["choices"]),
                answer=values["answer"],
            )
        )
    return rows


ALL_HEARING = (*HEARING, *FURTHER_HEARING)
