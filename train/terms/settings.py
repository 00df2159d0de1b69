"""What a recipe can set of a term, for each form of term. Loads no model framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from train.settings import require

DISTANCES = ("cosine", "mse", "cosine_mse", "cka")
PROJECTORS = ("auto", "linear")
READOUTS = ("trained", "fixed")
POOLINGS = ("mean", "statistics")


@dataclass(frozen=True, kw_only=True)
class TokenTerm:
    """A term with nothing to set but its weight."""

    weight: float

    def __post_init__(self) -> None:
        require(self.weight >= 0, f"weight {self.weight}: expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class TeacherTerm(TokenTerm):
    """A term that compares with a teacher.

    Attributes:
        source: what the teacher is called on the tape; empty for its side's: ``textual`` or
            ``acoustic``.
    """

    source: str = ""


@dataclass(frozen=True, kw_only=True)
class DivergenceTerm(TeacherTerm):
    """A divergence of next-token distributions at ``temperature``."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, f"temperature {self.temperature}: expected more than 0")


@dataclass(frozen=True, kw_only=True)
class JensenShannonTerm(DivergenceTerm):
    """The Jensen-Shannon divergence, ``beta`` the teacher's share in the mixture."""

    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.beta < 1, f"beta {self.beta}: expected a number between 0 and 1")


DIVERGENCES: Mapping[str, type[DivergenceTerm]] = {
    "kl": DivergenceTerm,
    "reverse_kl": DivergenceTerm,
    "jsd": JensenShannonTerm,
    "tv": DivergenceTerm,
}
"""Name of a divergence (of ``train.losses.divergences``) -> what can be set of a term of it."""


@dataclass(frozen=True, kw_only=True)
class LensTerm(DivergenceTerm):
    """A divergence of what paired layers say of the next token, by the logit lens.

    Attributes:
        layers: as of ``StatesTerm``, from the layers the lens was recorded of.
        divergence: one of ``DIVERGENCES``.
        readout: whether the student's final norm and unembedding, through which its layers are
            read, are ``trained`` by this term too or ``fixed`` for it; the states are, always.
    """

    layers: str = "proportional"
    divergence: str = "jsd"
    readout: str = "trained"

    def __post_init__(self) -> None:
        super().__post_init__()
        names = tuple(DIVERGENCES)
        require(self.divergence in names, f"divergence {self.divergence!r}: one of {names}")
        require(self.readout in READOUTS, f"readout {self.readout!r}: one of {READOUTS}")


@dataclass(frozen=True, kw_only=True)
class StatesTerm(TeacherTerm):
    """A distance between hidden states of paired layers.

    Attributes:
        layers: ``top``, ``proportional``, ``every:N`` or ``student:teacher`` pairs (``4:5,8:9``).
        distance: ``cosine``, ``mse`` (relative to the teacher's energy), ``cosine_mse`` (both) or
            ``cka`` (how positions of a row relate to each other, of whatever width).
        projector: ``auto`` (linear where widths differ and the distance minds) or ``linear``.
    """

    layers: str = "proportional"
    distance: str = "cosine_mse"
    projector: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.distance in DISTANCES, f"distance {self.distance!r}: one of {DISTANCES}")
        require(self.projector in PROJECTORS, f"projector {self.projector!r}: one of {PROJECTORS}")


@dataclass(frozen=True, kw_only=True)
class PooledTerm(StatesTerm):
    """A distance between mean states: of a row's audio positions, and of a description's tokens."""

    layers: str = "top"

    def __post_init__(self) -> None:
        super().__post_init__()
        related = self.distance == "cka"
        require(not related, "distance 'cka' relates positions of a row, and a mean is but one")


@dataclass(frozen=True, kw_only=True)
class UtteranceTerm(DivergenceTerm):
    """What a classifier says of a recording, against a light head on the student's audio tower.

    Attributes:
        pooling: how frames become one vector: their ``mean``, or attentive ``statistics``.
    """

    pooling: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.pooling in POOLINGS, f"pooling {self.pooling!r}: one of {POOLINGS}")


@dataclass(frozen=True, kw_only=True)
class EmbeddingTerm(TeacherTerm):
    """A distance between a recording's embedding and a light head on the student's audio tower.

    Attributes:
        distance: ``cosine``, ``mse`` or ``cosine_mse``, as of ``StatesTerm``.
        pooling: as of ``UtteranceTerm``.
    """

    distance: str = "cosine"
    pooling: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = DISTANCES[:3]  # of vectors by themselves
        require(self.distance in known, f"distance {self.distance!r}: one of {known}")
        require(self.pooling in POOLINGS, f"pooling {self.pooling!r}: one of {POOLINGS}")
