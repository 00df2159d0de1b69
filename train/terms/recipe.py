"""The terms of a recipe: their names and what each reads. Loads no model framework.

A name is a side and a measure, ``text_kl`` or ``acoustic_hidden`` (or ``ce``), and takes a label
where a term comes twice: ``[terms.acoustic_hidden-second]``. The side says of which kind the
teacher is; ``source`` says which one, where a tape has several.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from cache_schema.commands.recipes import build
from cache_schema.errors import UsageError, nearest
from cache_schema.types import AUDIO_SOURCE, TEXT_SOURCE
from train.terms.settings import (
    DIVERGENCES,
    DivergenceTerm,
    EmbeddingTerm,
    LensTerm,
    PooledTerm,
    StatesTerm,
    TeacherTerm,
    TokenTerm,
    UtteranceTerm,
)

At = Literal["token", "audio", "tower", "pooled"]
"""Where terms compare: where response tokens are predicted, at audio positions, on frames of the
student's audio tower, or means over all audio positions of a row with means over a text."""

_NAME = re.compile(r"([a-z_]+)(-[A-Za-z0-9_]+)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class TermSpec:
    """What a term is.

    Attributes:
        settings: what a recipe can set.
        kind: of its teacher, ``textual`` or ``acoustic``; empty where it needs none.
        signal: what it reads of its teacher, beside the trace.
        divergence: of next-token distributions, where the name says which.
        at: where it compares.
    """

    settings: type[TokenTerm]
    kind: str = ""
    signal: str = ""
    divergence: str = ""
    at: At = "token"

    @property
    def needs_trace(self) -> bool:
        """Whether it looks at a response; otherwise the recording is enough."""
        return self.at == "token"


def _of_side(side: str, kind: str) -> dict[str, TermSpec]:
    """Return the measures both kinds of teachers have."""

    def spec(settings: type[TokenTerm], signal: str, divergence: str = "") -> TermSpec:
        return TermSpec(settings=settings, kind=kind, signal=signal, divergence=divergence)

    return {
        **{f"{side}_{name}": spec(each, "topk", name) for name, each in DIVERGENCES.items()},
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
``divergences`` (those of ``DIVERGENCES`` and, layer by layer, lens), ``sampled``, ``states``,
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
