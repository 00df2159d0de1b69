"""The recordings of the study, split by voice and by take before anything is made of them.

FSDD: the last two speakers by name are heard in no training and no choice of a setting; of the
others, takes 0 to 4 (the data set's own test takes) are kept for the test and 5 to 9 for the
choice of settings. Debian's prompts: one take of each number and voice, so only compositions can be
held out there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path

from examples.quickstart import asterisk_prompts
from examples.quickstart.other_sources import HUB_DATASET, hub_rows
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
HUB = "hub"
"""Given for a folder: the recordings come from the hub."""

TEST_TAKES, DEV_TAKES = 5, 10
"""Takes below the first number are for the test, below the second for the choice of settings."""


Take = tuple[str, Callable[[], bytes]]
"""Name of a recording's file, and what reads it."""


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
        fsdd: the folder of FSDD's recordings, or ``hub``.
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
            "(github.com/Jakobovski/free-spoken-digit-dataset), hub, or use --world asterisk"
        )
    if str(fsdd) == HUB:
        return _split(HUB_DATASET, _hub_takes(say))
    return _split(str(fsdd), _folder_takes(fsdd))


def _split(where: str, takes: Iterable[Take]) -> Speech:
    """Read the recordings and part them by voice and take."""
    files = _named(where, takes)
    speakers = sorted({speaker for _, speaker, _, _ in files})
    if len(speakers) < NUM_UNSEEN + 2:
        raise RecordingsError(
            f"{where}: {NUM_UNSEEN} voices are held out and two more are needed to ask who "
            f"speaks; found {len(speakers)}"
        )
    unseen = speakers[-NUM_UNSEEN:]
    sets: defaultdict[str, list[Recording]] = defaultdict(list)
    for number, speaker, take, read in files:
        wave = decode(read())
        if len(wave) <= LONGEST_WORD_S * SAMPLE_RATE_HZ:
            kept = Recording(number=number, speaker=speaker, language="English", wave=wave)
            sets[_split_of(take, speaker in unseen)].append(kept)
    return Speech(
        name="the Free Spoken Digit Dataset (CC BY-SA 4.0)",
        note=f"held out: the voices of {' and '.join(unseen)}, and takes 0 to 4 of the others",
        sets={
            name: checked(
                RecordingSet(name=f"{where}, {name}", note="", recordings=tuple(sets[name]))
            )
            for name in SPLITS
        },
    )


def _split_of(take: int, is_unseen: bool) -> str:
    if is_unseen:
        return "unseen"
    return "test" if take < TEST_TAKES else "dev" if take < DEV_TAKES else "train"


def _folder_takes(folder: Path) -> Iterable[Take]:
    inner = folder / "recordings"
    for path in (inner if inner.is_dir() else folder).glob("*_*_*.wav"):
        yield path.name, path.read_bytes


def _hub_takes(say: Callable[[str], None]) -> Iterable[Take]:
    for row in hub_rows("all", say):
        yield Path(row["audio"]["path"] or "").name, partial(bytes, row["audio"]["bytes"])


def _named(where: str, takes: Iterable[Take]) -> list[tuple[int, str, int, Callable[[], bytes]]]:
    """Return number, speaker, take and how to read each, in the order of their names."""
    ordered = sorted(takes, key=itemgetter(0))
    named = [(name.removesuffix(".wav").split("_"), read) for name, read in ordered]
    files = [
        (int(parts[0]), parts[1], int(parts[2]), read)
        for parts, read in named
        if len(parts) == 3 and parts[0] in tuple("0123456789") and parts[2].isdigit()
    ]
    if not files:
        raise RecordingsError(f"{where} holds no file named NUMBER_SPEAKER_TAKE.wav")
    return files
