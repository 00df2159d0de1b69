"""The tape: what teachers recorded, on disk, readable without any model framework."""

from cache_schema.reader import Tape, open_tape
from cache_schema.row import TapeRow

__all__ = ["Tape", "TapeRow", "open_tape"]
