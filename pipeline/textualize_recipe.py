"""How audio becomes the description a textual teacher reads: what a recipe can say of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TextualizeRecipe:
    """How audio becomes a description: a template with ``{column}`` fields, or known columns."""

    template: str = ""
