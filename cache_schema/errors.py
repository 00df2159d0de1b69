"""Named errors: every mistake a user can make says what was expected, what came and what to do."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable

_MANY, _PREFIX = 10_000, 3
"""Of more names than so many, only those that begin alike are compared, at most so many."""


class TeachertapeError(Exception):
    """Base of every error the commands print without a traceback (exit status 1)."""


class UsageError(TeachertapeError):
    """A flag, a recipe key or a value is wrong (exit status 2)."""


class DatasetError(TeachertapeError):
    """The dataset cannot be read, is empty, or lacks a column."""


class AudioError(TeachertapeError):
    """One recording cannot be decoded or holds no usable audio."""


class ModelError(TeachertapeError):
    """A model directory is missing, incomplete or of an unsupported kind."""


class TapeError(TeachertapeError):
    """The tape is missing, is not a tape, or breaks the format."""


class MissingSignalError(TapeError):
    """The tape lacks a signal, a layer or a sample that was asked for."""


class UnknownSampleError(TapeError, KeyError):
    """No sample of that id is on the tape."""

    def __str__(self) -> str:
        """Return the message itself (``KeyError`` would quote it)."""
        return str(self.args[0])


class TransferError(TapeError):
    """A tape behind a URL could not be read or written, though it was tried several times."""


class ProvenanceError(TapeError):
    """What made the recorded signals differs from what would be added to them."""


class TokenizerMismatchError(TeachertapeError):
    """Token ids of the tape mean something else to the student."""


class QuarantineError(TeachertapeError):
    """More samples failed than the run tolerates."""


class OutputError(TeachertapeError):
    """The output folder holds something that is not ours to change."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return ``"; did you mean 'a' or 'b'?"`` for the closest known names, or an empty string."""
    known = list(known)
    if len(known) > _MANY:  # comparing costs about 20 us each
        alike = (other for other in known if other[:_PREFIX] == name[:_PREFIX])
        known = list(itertools.islice(alike, _MANY))
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
