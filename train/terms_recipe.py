"""The terms of a recipe: their names, what each can set, what each reads. Loads no model framework.

A name is a side and a measure, ``text_kl`` or ``acoustic_hidden`` (or ``ce``), and takes a label
where a term comes twice: ``[terms.acoustic_hidden-second]``. The side says of which kind the
teacher is; ``source`` says which one, where a tape has several.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cache_schema.errors import UsageError, nearest
from cache_schema.recipes import build
from cache_schema.types import AUDIO_SOURCE, TEXT_SOURCE

DISTANCES = ("cosine", "mse", "cosine_mse", "cka")
DIVERGENCES = ("kl", "reverse_kl", "jsd", "tv")
PROJECTORS = ("auto", "linear")
READOUTS = ("trained", "fixed")
POOLINGS = ("mean", "statistics")
PLACES = ("token", "audio", "tower", "pooled")
"""Where terms compare: where response tokens are predicted, at audio positions, on frames of the
student's audio tower, or means over all audio positions of a row with means over a text."""

_NAME = re.compile(r"([a-z_]+)(-[A-Za-z0-9_]+)?", re.ASCII)


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
        _require(self.temperature > 0, f"temperature {self.temperature}: expected more than 0")


@dataclass(frozen=True, kw_only=True)
class JensenShannonTerm(DivergenceTerm):
    """The Jensen-Shannon divergence, ``beta`` the teacher's share in the mixture."""

    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 < self.beta < 1, f"beta {self.beta}: expected a number between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class LensTerm(DivergenceTerm):
    """A divergence of what paired layers say of the next token, by the logit lens.

    Attributes:
        layers: as of ``StatesTerm``, from the layers the lens was recorded of.
        divergence: ``jsd``, ``kl``, ``reverse_kl`` or ``tv``.
        readout: whether the student's final norm and unembedding, through which its layers are
            read, are ``trained`` by this term too or ``fixed`` for it; the states are, always.
    """

    layers: str = "proportional"
    divergence: str = "jsd"
    readout: str = "trained"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.divergence in DIVERGENCES
        _require(known, f"divergence {self.divergence!r}: one of {DIVERGENCES}")
        _require(self.readout in READOUTS, f"readout {self.readout!r}: one of {READOUTS}")


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
        _require(self.distance in DISTANCES, f"distance {self.distance!r}: one of {DISTANCES}")
        _require(self.projector in PROJECTORS, f"projector {self.projector!r}: one of {PROJECTORS}")


@dataclass(frozen=True, kw_only=True)
class PooledTerm(StatesTerm):
    """A distance between mean states: of a row's audio positions, and of a description's tokens."""

    layers: str = "top"

    def __post_init__(self) -> None:
        super().__post_init__()
        related = self.distance == "cka"
        _require(not related, "distance 'cka' relates positions of a row, and a mean is but one")


@dataclass(frozen=True, kw_only=True)
class UtteranceTerm(DivergenceTerm):
    """What a classifier says of a recording, against a light head on the student's audio tower.

    Attributes:
        pooling: how frames become one vector: their ``mean``, or attentive ``statistics``.
    """

    pooling: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.pooling in POOLINGS, f"pooling {self.pooling!r}: one of {POOLINGS}")


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
        _require(self.distance in known, f"distance {self.distance!r}: one of {known}")
        _require(self.pooling in POOLINGS, f"pooling {self.pooling!r}: one of {POOLINGS}")


@dataclass(frozen=True, kw_only=True)
class TermSpec:
    """What a term is.

    Attributes:
        settings: what a recipe can set.
        kind: of its teacher, ``textual`` or ``acoustic``; empty where it needs none.
        signal: what it reads of its teacher, beside the trace.
        divergence: of next-token distributions, where the name says which.
        at: where it compares, one of ``PLACES``.
    """

    settings: type[TokenTerm]
    kind: str = ""
    signal: str = ""
    divergence: str = ""
    at: str = "token"

    @property
    def needs_trace(self) -> bool:
        """Whether it looks at a response; otherwise the recording is enough."""
        return self.at == "token"


def _of_side(side: str, kind: str) -> dict[str, TermSpec]:
    """Return the measures both kinds of teachers have."""

    def spec(settings: type[TokenTerm], signal: str, divergence: str = "") -> TermSpec:
        return TermSpec(settings=settings, kind=kind, signal=signal, divergence=divergence)

    return {
        f"{side}_kl": spec(DivergenceTerm, "topk", "kl"),
        f"{side}_reverse_kl": spec(DivergenceTerm, "topk", "reverse_kl"),
        f"{side}_jsd": spec(JensenShannonTerm, "topk", "jsd"),
        f"{side}_tv": spec(DivergenceTerm, "topk", "tv"),
        f"{side}_sampled": spec(TeacherTerm, "sampled"),
        f"{side}_lens": spec(LensTerm, "lens"),
    }


def _of_tower(settings: type[TokenTerm], signal: str) -> TermSpec:
    return TermSpec(settings=settings, kind=AUDIO_SOURCE, signal=signal, at="tower")


TERMS: Mapping[str, TermSpec] = {
    "ce": TermSpec(settings=TokenTerm),
    **_of_side("text", TEXT_SOURCE),
    "text_hidden": TermSpec(settings=StatesTerm, kind=TEXT_SOURCE, signal="hidden"),
    "text_pooled": TermSpec(settings=PooledTerm, kind=TEXT_SOURCE, signal="hidden", at="pooled"),
    **_of_side("acoustic", AUDIO_SOURCE),
    "acoustic_hidden": TermSpec(
        settings=StatesTerm, kind=AUDIO_SOURCE, signal="hidden", at="audio"
    ),
    "acoustic_response": TermSpec(settings=StatesTerm, kind=AUDIO_SOURCE, signal="hidden"),
    "acoustic_utterance": _of_tower(UtteranceTerm, "utterance_logits"),
    "acoustic_frames": _of_tower(DivergenceTerm, "frame_logits"),
    "acoustic_embedding": _of_tower(EmbeddingTerm, "embedding"),
}
"""Name -> what it is. Equations and papers are in ``train.losses``: ``vocabulary`` (ce),
``divergences`` (kl, reverse_kl, jsd, tv and, layer by layer, lens), ``sampled``, ``states``,
``classes`` (utterance, frames)."""


def spec_of(name: str) -> TermSpec:
    """Return what a term of this name, its label included, is.

    Raises:
        KeyError: there is none.
    """
    match = _NAME.fullmatch(name)
    return TERMS[match[1] if match else name]


class TermsRecipe(dict[str, TokenTerm]):
    """The objective: terms by name, each with its settings, in the order of ``TERMS``."""

    def active(self, names: Collection[str] = ()) -> TermsRecipe:
        """Return the terms that are computed: those of a weight above 0, of ``names`` if given."""
        return TermsRecipe(
            (name, term)
            for name, term in self.items()
            if term.weight > 0 and (not names or name in names)
        )

    @property
    def of_audio(self) -> tuple[str, ...]:
        """Names of those that compare what is heard."""
        return tuple(name for name in self if not spec_of(name).needs_trace)

    @property
    def need_traces(self) -> bool:
        """Whether any of them looks at a response."""
        return any(spec_of(name).needs_trace for name in self)

    @classmethod
    def from_values(cls, values: Any, where: str) -> TermsRecipe:
        """Build the terms from a recipe's section.

        Raises:
            UsageError: there is no such term, it has no such setting, or none is computed.
        """
        if not isinstance(values, Mapping):
            raise UsageError(f"{where}: expected sections such as [terms.ce], got {values!r}")
        found: dict[str, TokenTerm] = {}
        for name, given in values.items():
            inside = f"{where}.{name}"
            spec = _known(name, where)
            if not isinstance(given, Mapping):
                raise UsageError(f"{inside}: expected a section, got {given!r}")
            term = build(spec.settings, given, inside)
            if isinstance(term, TeacherTerm) and not term.source:
                term = replace(term, source=spec.kind)
            found[name] = term
        order = {name: number for number, name in enumerate(TERMS)}
        names = sorted(found, key=lambda name: (order[name.partition("-")[0]], name))
        terms = cls((name, found[name]) for name in names)
        if not terms.active():
            raise UsageError(f"{where}: no term has a weight above 0; nothing to train on")
        return terms


def _known(name: str, where: str) -> TermSpec:
    try:
        return spec_of(name)
    except KeyError as error:
        raise UsageError(
            f"{where}: unknown key {name!r}{nearest(name, TERMS)} (known: {', '.join(TERMS)}, "
            "each also with a label: text_kl-second)"
        ) from error
