"""The writer of a worker that leases its rows: any free name, and no commit without the lease."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cache_schema import layout, takeover
from cache_schema.codecs.files import write_atomic
from cache_schema.maker import GroupInfo, dataset_json
from cache_schema.takeover import WriterBusyError
from cache_schema.writer import TapeWriter


def always() -> None:
    """Allow a commit."""


class LeasedWriter(TapeWriter):
    """A writer that asks before every commit.

    Attributes:
        fence: called before a shard is committed or a sample quarantined; raises
            ``LeaseLostError`` where the rows are another worker's by now.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fence: Callable[[], None] = always

    def seal(self) -> None:
        """Commit the open shard, if there is one and it is still this worker's to record."""
        self.fence()
        super().seal()

    def quarantine(self, sample_id: str, row_index: int, reason: str, detail: str) -> None:
        """Record that a sample could not be recorded, if that is still this worker's to say."""
        self.fence()
        super().quarantine(sample_id, row_index, reason, detail)


def make_tape(root: Path, licence: str) -> None:
    """Make an empty tape where none is, so that names of writers can be locked.

    Raises:
        OutputError: the folder holds something else.
    """
    if not takeover.check_output(root):
        write_atomic(root / layout.DATASET_FILE, dataset_json(licence))


@contextmanager
def taking_a_slot(root: Path, info: GroupInfo, options: Mapping[str, Any]) -> Iterator[TapeWriter]:
    """Give a writer under the first name that no living worker holds.

    The tape is made first if it is not there, so that the name can be locked. Names are used again,
    so that what a worker that was killed left is removed by the next one of its name, or by
    ``sweep_slots`` in the end.
    """
    make_tape(root, options["licence"])
    writer = next(filter(None, (_slot(root, info, n, options) for n in itertools.count())))
    with _entered(writer):
        yield writer


def _slot(
    root: Path, info: GroupInfo, number: int, options: Mapping[str, Any]
) -> TapeWriter | None:
    """Enter the writer of one name; ``None`` if a living worker has it."""
    name = f"{layout.LEASED_WRITER}{number}"
    if takeover.is_held(root / layout.lock_file(name)):
        return None
    try:
        return LeasedWriter(root, info, writer=name, **options).__enter__()
    except WriterBusyError:
        return None


@contextmanager
def _entered(writer: TapeWriter) -> Iterator[None]:
    """Leave a writer that was entered before."""
    try:
        yield
    except BaseException as error:
        writer.__exit__(type(error), error, error.__traceback__)
        raise
    writer.__exit__(None, None, None)


def sweep_slots(root: Path, group: str) -> None:
    """Remove what workers that were killed left of a group; of living ones nothing is touched."""
    pattern = f"{layout.LEASED_WRITER}[0-9]*.lock"
    for path in sorted((root / layout.MANIFEST_DIR).glob(pattern)):
        if not takeover.is_held(path):
            with suppress(WriterBusyError), takeover.lock(path):
                takeover.recover(root, group, path.stem)
