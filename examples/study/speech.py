"""The recordings of the study, split by voice and by take before anything is made of them.

FSDD: the last two speakers by name are heard in no training and no choice of a setting; of the
others, takes 0 to 4 (the data set's own test takes) are kept for the test and 5 to 9 for the
choice of settings. Debian's prompts: one take of each number and voice, so only compositions can be
held out there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from examples.quickstart import asterisk_prompts
from examples.quickstart.recordings import (
    LONGEST_WORD_S,
    SAMPLE_RATE_HZ,
    Recording,
    RecordingsError,
    RecordingSet,
    checked,
    decode,
)

SPLITS = ("train", "dev", "test", "unseen")
NUM_UNSEEN = 2
TEST_TAKES, DEV_TAKES = 5, 10
"""Takes below the first number are for the test, below the second for the choice of settings."""


@dataclass(frozen=True, kw_only=True)
class Speech:
    """Recordings by what they are for.

    Attributes:
        name: where they come from.
        note: what is held out.
        sets: split (``SPLITS``) -> its recordings; ``unseen`` is missing where none is held out.
    """

    name: str
    note: str
    sets: dict[str, RecordingSet]

    @property
    def speakers(self) -> tuple[str, ...]:
        """Who is trained on, by name."""
        return tuple(sorted({item.speaker for item in self.sets["train"].recordings}))


def load(world: str, fsdd: Path | None, say: Callable[[str], None]) -> Speech:
    """Return the recordings of a world.

    Args:
        world: ``fsdd`` or ``asterisk``.
        fsdd: the folder of FSDD's recordings.
        say: prints a line.

    Raises:
        RecordingsError: they cannot be had.
    """
    if world == "asterisk":
        found = asterisk_prompts.load(say)
        sets = dict.fromkeys(("train", "dev", "test"), found)
        return Speech(name=found.name, note=f"{found.note}; no voice held out", sets=sets)
    if fsdd is None:
        raise RecordingsError(
            "--fsdd is needed: the folder of the Free Spoken Digit Dataset's recordings "
            "(github.com/Jakobovski/free-spoken-digit-dataset), or use --world asterisk"
        )
    return _split(fsdd)


def _split(folder: Path) -> Speech:
    """Read and split ``{number}_{speaker}_{take}.wav`` files, here or in ``recordings``."""
    files = _files(folder)
    speakers = sorted({speaker for _, speaker, _, _ in files})
    if len(speakers) < NUM_UNSEEN + 2:
        raise RecordingsError(
            f"{folder}: {NUM_UNSEEN} voices are held out and two more are needed to ask who "
            f"speaks; found {len(speakers)}"
        )
    unseen = speakers[-NUM_UNSEEN:]
    sets: defaultdict[str, list[Recording]] = defaultdict(list)
    for number, speaker, take, path in files:
        wave = decode(path.read_bytes())
        if len(wave) <= LONGEST_WORD_S * SAMPLE_RATE_HZ:
            kept = Recording(number=number, speaker=speaker, language="English", wave=wave)
            sets[_split_of(take, speaker in unseen)].append(kept)
    return Speech(
        name="the Free Spoken Digit Dataset (CC BY-SA 4.0)",
        note=f"held out: the voices of {' and '.join(unseen)}, and takes 0 to 4 of the others",
        sets={
            name: checked(
                RecordingSet(name=f"{folder}, {name}", note="", recordings=tuple(sets[name]))
            )
            for name in SPLITS
        },
    )


def _split_of(take: int, is_unseen: bool) -> str:
    if is_unseen:
        return "unseen"
    return "test" if take < TEST_TAKES else "dev" if take < DEV_TAKES else "train"


def _files(folder: Path) -> list[tuple[int, str, int, Path]]:
    inner = folder / "recordings"
    paths = sorted((inner if inner.is_dir() else folder).glob("*_*_*.wav"))
    named = [(path.stem.split("_"), path) for path in paths]
    files = [
        (int(parts[0]), parts[1], int(parts[2]), path)
        for parts, path in named
        if len(parts) == 3 and parts[0] in tuple("0123456789") and parts[2].isdigit()
    ]
    if not files:
        raise RecordingsError(f"{folder} holds no file named NUMBER_SPEAKER_TAKE.wav")
    return files
