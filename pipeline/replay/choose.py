"""Which samples a source is replayed on: random ones it recorded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cache_schema import Tape, TapeRow
from cache_schema.attached import is_whole, references
from cache_schema.errors import MissingSignalError, TapeError
from cache_schema.maker import GroupInfo
from cache_schema.types import AUDIO_SOURCE


def choose(tape: Tape, info: GroupInfo, count: int, seed: int) -> list[TapeRow]:
    """Return random samples, in the dataset's order; sources share them as far as they can.

    A source that was read on the dataset's answers is replayed on at least one that has an answer:
    without any it would be read on nothing.

    Args:
        tape: the tape.
        info: the source.
        count: how many; all that there are if it has fewer.
        seed: of the choice.

    Raises:
        MissingSignalError: the source hears, and no recording is on the tape.
        TapeError: the source has recorded nothing.
    """
    numbers = list(_candidates(tape, info, seed, count))
    if not numbers:
        raise TapeError(f"{tape.location}: source {info.group!r} has recorded no sample yet")
    if info.identity.get("responses") == "answers":
        wide = _candidates(tape, info, seed, None)
        answered = next((n for n in wide if TapeRow(tape, n).answer), None)
        if answered is not None and answered not in numbers:
            has = any(TapeRow(tape, number).answer for number in numbers)
            numbers = numbers if has else [*numbers[:-1], answered]
    return [TapeRow(tape, number) for number in sorted(numbers)]


def _candidates(tape: Tape, info: GroupInfo, seed: int, count: int | None) -> Iterator[int]:
    """Yield up to ``count`` samples the source can be replayed on, in random order."""
    recorded = tape.recorded_mask(info.group)
    order = np.random.default_rng(seed).permutation(len(tape))
    hears = info.kind == AUDIO_SOURCE and not is_whole(tape)
    if hears and not any(here.any() for _, here in references(tape)) and not _stored(tape):
        raise MissingSignalError(
            f"{tape.location}: made with --audio reference, or shared without audio, so "
            f"{info.group!r} has nothing to hear; pipeline attach adds the recordings from your "
            "own files, and --source NAME replays other sources only"
        )
    found = 0
    for number in order[recorded[order]].tolist():
        if not hears or TapeRow(tape, number).has_audio:
            yield number
            found += 1
            if found == count:
                return


def _stored(tape: Tape) -> bool:
    """Whether some recordings lie in the tape itself."""
    return any("audio" in shard.record.rows for shard in tape.shards.get("samples", ()))
