"""Marks of drivers: a file on the tape by which actors know that theirs is the same tape."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache_schema import layout, takeover
from cache_schema.codecs.files import make_dirs
from pipeline.cluster.slots import make_tape
from pipeline.recipe import ExtractRecipe

_MARK = "ray-"
"""What their names begin with."""


@contextmanager
def marked(recipe: ExtractRecipe) -> Iterator[str]:
    """Leave a file on the tape by which actors know that it is the same one."""
    root = Path(recipe.tape.out).absolute()
    make_tape(root, recipe.tape.licence)
    folder = root / layout.LEASES_DIR
    make_dirs(folder)
    _sweep_marks(folder)
    mark = folder / f"{_MARK}{secrets.token_hex(8)}"
    beside = mark.with_name(f".{mark.name}")
    with takeover.lock(beside):
        beside.rename(mark)  # locked before anyone may look
        try:
            yield str(mark)
        finally:
            mark.unlink(missing_ok=True)
            with suppress(OSError):  # leases of a step that was stopped
                folder.rmdir()


def _sweep_marks(folder: Path) -> None:
    """Remove the marks of drivers that were killed: nobody holds their locks."""
    for mark in folder.glob(f"{_MARK}*"):
        if not mark.is_symlink() and not takeover.is_held(mark):
            mark.unlink(missing_ok=True)
