"""What commands print beside their results, and how an error leaves them."""

from __future__ import annotations

import sys
import traceback

from cache_schema.errors import TeachertapeError, UsageError

REPORTED = (TeachertapeError, OSError, ImportError, KeyboardInterrupt)
"""Errors a command reports in a few lines; anything else is our own bug and shows its traceback."""


def say(message: str) -> None:
    """Print one line of what is happening to stderr; stdout is for results."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201 - the one place that prints


def printable(text: str, keep: str = "") -> str:
    """Return a text with what is not printable (line ends, escapes of terminals) written out.

    A tape may be anyone's, and what it says reaches a terminal as text, never as commands.
    """
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode()
        for one in text
    )


def report_error(error: BaseException, debug: bool) -> int:
    """Say what went wrong; return the exit status: 2 for wrong usage, 130 interrupted, else 1."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        say("interrupted; the same command continues after what was saved last")
        return 130
    if isinstance(error, TeachertapeError):
        say(printable(f"error: {error}", keep="\n"))
        return 2 if isinstance(error, UsageError) else 1
    told = f"error: {type(error).__name__}: {error} (--debug shows where)"
    say(printable(told, keep="\n"))
    return 1
