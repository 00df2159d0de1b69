"""The training recipe: what is rarely changed, as sections of a TOML file.

Shipped recipes lie in ``train/recipes``; ``joint`` is the default. A term (``train.terms.recipe``)
that is absent, or whose weight is 0, is not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cache_schema.commands.recipes import load_recipe
from cache_schema.errors import UsageError, nearest
from train.settings import (
    CheckpointRecipe,
    DataRecipe,
    EvalRecipe,
    LoggingRecipe,
    LoopRecipe,
    OptimRecipe,
    StudentRecipe,
)
from train.tasks_recipe import MixRecipe, StageRecipe, TaskRecipe, check_parts
from train.terms.recipe import TermsRecipe

SHIPPED = Path(__file__).parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Everything that decides what a run computes."""

    terms: TermsRecipe = field(default_factory=TermsRecipe)
    tasks: dict[str, TaskRecipe] = field(default_factory=dict)
    mix: MixRecipe = field(default_factory=MixRecipe)
    stages: dict[str, StageRecipe] = field(default_factory=dict)
    data: DataRecipe = field(default_factory=DataRecipe)
    student: StudentRecipe = field(default_factory=StudentRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    loop: LoopRecipe = field(default_factory=LoopRecipe)
    eval: EvalRecipe = field(default_factory=EvalRecipe)
    checkpoints: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    logging: LoggingRecipe = field(default_factory=LoggingRecipe)

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("no [terms]: say what is computed, as [terms.ce] with weight = 1.0")
        computed = {name: term.weight > 0 for name, term in self.terms.items()}
        check_parts(computed, self.tasks, self.mix, self.stages)


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes by name, sorted."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def load_train_recipe(recipe: str | None, overrides: Sequence[str]) -> TrainRecipe:
    """Load a recipe file, or a shipped recipe by name.

    Raises:
        UsageError: no such file or shipped recipe, or a value in it is wrong.
    """
    name = recipe or "joint"
    shipped = shipped_recipes()
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise UsageError(
            f"--recipe {name!r}: no such file, and no shipped recipe{nearest(name, shipped)} "
            f"(shipped: {', '.join(shipped)})"
        )
    return load_recipe(TrainRecipe, path, overrides)
