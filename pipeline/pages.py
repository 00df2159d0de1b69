"""Pages for people: lines of text, whatever a tape of anyone holds."""

from __future__ import annotations

from collections.abc import Iterable

from cache_schema.commands.console import printable


def page_of(lines: Iterable[str]) -> str:
    """Return lines as a page; a line end within one, or anything unprintable, is written out."""
    return "\n".join(map(printable, lines))


def titled(title: str, text: str) -> list[str]:
    """Return a text's lines, the first behind its title and the others as far in."""
    first, *others = text.split("\n")
    return [f"{title:<12} {first}", *(f"{'':<12} {line}" for line in others)]
