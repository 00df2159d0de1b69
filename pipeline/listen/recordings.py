"""The recordings of a tape: its own, or those of the dataset it refers to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cache_schema import Tape, TapeRow
from cache_schema.attached import is_whole
from cache_schema.codecs.pcm import audio_sha256
from cache_schema.errors import AudioError, DatasetError
from cache_schema.types import FloatArray
from pipeline.dataset.recordings_of_row import joining
from pipeline.dataset.rows import open_rows
from pipeline.dataset.samples import Rows
from pipeline.recipe import DatasetRecipe


class Recordings:
    """Reads recordings, float32 [num_samples], mono, 16 kHz.

    Args:
        tape: made with ``--audio store``, or ``--audio reference``.
        recipe: where samples come from; opened only for references, unless all are attached.

    Raises:
        DatasetError: the tape refers to another dataset, it cannot be used, or its recordings are
            now joined otherwise.
    """

    def __init__(self, tape: Tape, recipe: DatasetRecipe) -> None:
        self._rows: Rows | None = None
        made = tape.groups["samples"].identity
        if made.get("audio") != "reference" or is_whole(tape):
            return
        told = {key: made[key] for key in ("several", "gap_s") if key in made}
        if told != joining(recipe):
            raise DatasetError(
                f"{tape.location}: its recordings were read with {_settings(told)}, and are read "
                f"again with {_settings(joining(recipe))}; give the same"
            )
        self._rows = open_rows(recipe)
        if self._rows.digest != made.get("dataset_digest"):
            raise DatasetError(
                f"{tape.location}: made with --audio reference, so its recordings are read from "
                f"the dataset, and {recipe.path} is another one than it was made from, or changed "
                f"(digest {made.get('dataset_digest')!r}, now {self._rows.digest!r}); give that one"
            )

    def read(self, row: TapeRow) -> FloatArray:
        """Read one.

        Raises:
            AudioError: the dataset's recording cannot be used, or is not the one referred to.
            DatasetError: the dataset cannot be read any more.
            TapeError: the tape's recording is damaged.
        """
        if self._rows is None or row.has_audio:
            return row.audio
        if row.row_index >= len(self._rows):
            raise AudioError(f"the dataset has {len(self._rows)} rows, this is row {row.row_index}")
        audio = self._rows.audio(row.row_index)
        if audio_sha256(audio) != row.audio_sha256:
            raise AudioError("the dataset's recording is another than when the tape was made")
        return audio


def _settings(joined: Mapping[str, Any]) -> str:
    return ", ".join(f"dataset.{key}={value}" for key, value in joined.items()) or (
        "dataset.several=refuse"
    )
