"""Recipes of text encoders, and the states they read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.teachers.hf_encoder import HfEncoder
from pipeline.textual_recipe import TextualRecipe


def read(encoder: HfEncoder, rows: Sequence[Any], layers: Sequence[int]) -> list[Any]:
    """Read texts; return their states in the order given."""
    found = dict(encoder.read(rows, layers))
    return [found[number] for number in range(len(rows))]


def textual(path: Path, dtype: str = "float32", **settings: Any) -> TextualRecipe:
    return TextualRecipe(teacher=str(path), engine="encoder", dtype=dtype, **settings)
