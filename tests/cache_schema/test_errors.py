"""What is told of an error that something else raised."""

from __future__ import annotations

import pytest

from cache_schema.errors import first_line


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("shapes\ndiffer"), "shapes"),
        (OSError("\n  a file is missing\n"), "a file is missing"),
        (MemoryError(), "MemoryError"),
        (RuntimeError(" \n"), "RuntimeError"),
    ],
)
def test_the_first_line_of_an_error(error: Exception, told: str) -> None:
    assert first_line(error) == told
