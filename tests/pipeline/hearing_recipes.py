"""Recipes of an acoustic step over ingested samples, and what it put on the tape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_stage_one import save_dataset

from cache_schema import Tape
from pipeline.acoustic_recipe import AcousticRecipe
from pipeline.extract import run_step
from pipeline.recipe import DatasetRecipe, ExtractRecipe, FailureRecipe, TapeRecipe

ROWS = 5


def recipe_for(folder: Path, teacher: Path, **settings: Any) -> ExtractRecipe:
    """A recipe whose samples are on the tape; the dataset's answers are the responses."""
    recipe = ExtractRecipe(
        dataset=DatasetRecipe(path=str(save_dataset(folder, ROWS))),
        tape=TapeRecipe(out=str(folder / "tape"), states_dtype="float32"),
        acoustic=AcousticRecipe(teacher=str(teacher), dtype="float32", **settings),
        failures=FailureRecipe(max_fraction=0.5),
        seed=7,
    )
    run_step("ingest", recipe)
    return recipe


def contents(tape: Tape) -> dict[str, np.ndarray]:
    return {row.sample_id: row["acoustic/hidden"].states for row in tape}
