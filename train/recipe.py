"""The training recipe: what is rarely changed, as sections of a TOML file.

Shipped recipes lie in ``train/recipes``; ``joint`` is the default. A term that is absent, or whose
weight is 0, is not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from cache_schema.errors import UsageError, nearest
from cache_schema.recipes import load_recipe
from train.settings import (
    CheckpointRecipe,
    DataRecipe,
    LoggingRecipe,
    LoopRecipe,
    OptimRecipe,
    StudentRecipe,
)

SHIPPED = Path(__file__).parent / "recipes"
DISTANCES = ("cosine", "mse", "cosine_mse")
PROJECTORS = ("auto", "linear")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class TokenTerm:
    """A term with nothing to set but its weight."""

    weight: float

    def __post_init__(self) -> None:
        _require(self.weight >= 0, f"weight {self.weight}: expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class DivergenceTerm(TokenTerm):
    """A divergence of next-token distributions at ``temperature``."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.temperature > 0, f"temperature {self.temperature}: expected more than 0")


@dataclass(frozen=True, kw_only=True)
class StatesTerm(TokenTerm):
    """A distance between hidden states of paired layers.

    Attributes:
        layers: ``top``, ``proportional``, ``every:N`` or ``student:teacher`` pairs (``4:5,8:9``).
        distance: ``cosine``, ``mse`` (relative to the teacher's energy) or ``cosine_mse`` (both).
        projector: ``auto`` (linear where widths differ) or ``linear`` (always).
    """

    layers: str = "proportional"
    distance: str = "cosine_mse"
    projector: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.distance in DISTANCES, f"distance {self.distance!r}: one of {DISTANCES}")
        _require(self.projector in PROJECTORS, f"projector {self.projector!r}: one of {PROJECTORS}")


@dataclass(frozen=True, kw_only=True)
class TermsRecipe:
    """The objective: named terms, each with its weight; see ``train.objective.TERMS``."""

    ce: TokenTerm | None = None
    text_kl: DivergenceTerm | None = None
    text_jsd: DivergenceTerm | None = None
    text_hidden: StatesTerm | None = None
    acoustic_hidden: StatesTerm | None = None
    acoustic_kl: DivergenceTerm | None = None

    def __post_init__(self) -> None:
        _require(bool(self.active()), "no term has a weight above 0; nothing to train on")

    def active(self) -> dict[str, TokenTerm]:
        """Return the terms that are computed, by name, in the order of the fields."""
        terms = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: term for name, term in terms.items() if term is not None and term.weight > 0}


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Everything that decides what a run computes."""

    terms: TermsRecipe
    data: DataRecipe = field(default_factory=DataRecipe)
    student: StudentRecipe = field(default_factory=StudentRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    loop: LoopRecipe = field(default_factory=LoopRecipe)
    checkpoints: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    logging: LoggingRecipe = field(default_factory=LoggingRecipe)


def load_train_recipe(recipe: str | None, overrides: Sequence[str]) -> TrainRecipe:
    """Load a recipe file, or a shipped recipe by name.

    Raises:
        UsageError: no such file or shipped recipe, or a value in it is wrong.
    """
    name = recipe or "joint"
    shipped = {path.stem: path for path in SHIPPED.glob("*.toml")}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise UsageError(
            f"--recipe {name!r}: no such file, and no shipped recipe{nearest(name, shipped)} "
            f"(shipped: {', '.join(sorted(shipped))})"
        )
    return load_recipe(TrainRecipe, path, overrides)
