"""The terms of one run: their signals found on the tape, their layers paired.

What a recipe asks is checked against the tape's own description before anything is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from cache_schema import Tape
from cache_schema.errors import MissingSignalError, nearest
from cache_schema.types import AUDIO_SOURCE, TEXT_SOURCE
from train.layers import Pairs, map_layers
from train.terms.recipe import At, TermSpec, TermsRecipe, spec_of
from train.terms.settings import LensTerm, StatesTerm, TeacherTerm, TokenTerm

KINDS = {"audio": "audio positions", "token": "response positions", "frame": "an encoder's frames",
         "text": "a description's tokens"}  # fmt: skip
"""Kind of recorded states -> where they were taken."""


class StatesAt(NamedTuple):
    """Where states are compared: of which source, and where."""

    source: str
    at: At

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of recorded states that can be compared there."""
        return {"audio": ("audio", "frame"), "pooled": ("text",)}.get(self.at, (self.at,))

    @property
    def of_trace(self) -> bool:
        """Whether they belong to a trace, not to the recording."""
        return self.at == "token"


@dataclass(frozen=True, kw_only=True)
class Term:
    """A term of this run.

    Attributes:
        name: in the recipe.
        spec: what it is.
        settings: how it was set.
        pairs: (student, teacher) layers, of a term over layers.
        teacher_width: width of its teacher's states or embeddings; 0 where it compares none.
        labels: the classes its teacher judges, of a term over classes.
        multi_label: whether it judges each by itself.
    """

    name: str
    spec: TermSpec
    settings: TokenTerm
    pairs: Pairs = ()
    teacher_width: int = 0
    labels: tuple[str, ...] = ()
    multi_label: bool = False

    @property
    def source(self) -> str:
        """Its teacher's name on the tape; empty where it has none."""
        return source_of(self.settings)

    @property
    def states_at(self) -> StatesAt:
        """Where it compares states."""
        return StatesAt(self.source, self.spec.at)

    @property
    def over_output(self) -> bool:
        """Whether it reads the student's own next-token distribution."""
        return self.spec.signal in ("", "topk", "sampled")


def source_of(settings: TokenTerm) -> str:
    """Return the source a term's settings name, empty if it has none."""
    return settings.source if isinstance(settings, TeacherTerm) else ""


def check_signals(recipe: TermsRecipe, tape: Tape) -> tuple[str, ...]:
    """Return the signals the recipe reads, sorted.

    Raises:
        MissingSignalError: the tape lacks some: which recipe line asks, how to record it, and what
            the tape has.
    """
    active = recipe.active()
    signals = {f"{TEXT_SOURCE}/trace"} if active.need_traces else set()
    faults: list[str] = []
    if not signals <= set(tape.signals):
        asking = ", ".join(name for name in active if spec_of(name).needs_trace)
        faults.append(f"  {TEXT_SOURCE}/trace, which {asking} need: give a --text-teacher")
    for name, settings in active.items():
        spec, source = spec_of(name), source_of(settings)
        if not source:
            continue
        signals.add(f"{source}/{spec.signal}")
        if fault := _fault(tape, spec, source):
            faults.append(f"  [terms.{name}] {fault}")
    if faults:
        named = [fault.split()[0] for fault in faults if fault.startswith("  [")]
        off = f", or leave out: --set {named[0].strip('[]')}.weight=0" if named else ""
        lines = [
            f"{tape.location} lacks signals the recipe needs:",
            *faults,
            f"It has: {', '.join(tape.signals) or 'no signals'}.",
            f"Record them with pipeline extract-teachers{off}",
        ]
        raise MissingSignalError("\n".join(lines))
    return tuple(sorted(signals))


def _fault(tape: Tape, spec: TermSpec, source: str) -> str:
    """Return why the tape cannot serve a term and how to record what it lacks, else nothing."""
    name = f"{source}/{spec.signal}"
    group = tape.groups.get(source)
    if group is not None and group.kind != spec.kind:
        near = [other for other, each in tape.groups.items() if each.kind == spec.kind]
        return (
            f"source {source!r} is of kind {group.kind}; the term needs one of kind {spec.kind} "
            f"(the tape has: {', '.join(near) or 'none'})"
        )
    how = _how_to_record(spec, source)
    if name not in tape.signals:
        others = [each for each in tape.signals if each.endswith(f"/{spec.signal}")]
        return f"needs {name} ({how}){nearest(name, others)}"
    if spec.signal == "hidden":
        kinds = recorded_kinds(tape, source)
        wanted = StatesAt(source, spec.at).kinds
        if not set(wanted) & set(kinds):
            has = " and ".join(KINDS[kind] for kind in kinds) or "no states"
            needs = " or ".join(KINDS[kind] for kind in wanted)
            return f"needs {name} at {needs}, it has {has} ({how})"
    return ""


def _how_to_record(spec: TermSpec, source: str) -> str:
    """Return the flags of stage one that record a term's signal."""
    textual = spec.kind == TEXT_SOURCE
    side = "textual" if textual else "acoustic"
    if spec.at == "pooled":
        return (
            "record it: --text-teacher M --engine encoder --text-layers top, where M is an encoder "
            "of text (BERT, ...), on a tape of its own where the textual teacher writes traces"
        )
    flags = {
        "topk": "--top-k 64",
        "sampled": f"--set {side}.draws=50",
        "lens": f"--set {side}.lens=every:4",
        "hidden": "--text-layers proportional:4" if textual else "--acoustic-layers proportional:4",
        "utterance_logits": "--acoustic-layers none",
        "frame_logits": "--acoustic-layers none",
        "embedding": "--acoustic-layers none",
    }[spec.signal]
    if spec.signal == "hidden" and not textual and spec.at == "token":
        flags += " --set acoustic.states_at=both"
    whose = {
        "utterance_logits": ", where M is a classifier (...ForSequenceClassification)",
        "frame_logits": ", where M is a classifier (...ForAudioFrameClassification)",
        "embedding": ", where M is a classifier (...ForXVector, ...ForSequenceClassification), or "
        "any encoder with --set acoustic.embedding=mean",
    }.get(spec.signal, "")
    named = source not in (TEXT_SOURCE, AUDIO_SOURCE)
    teacher = "--text-teacher M" if textual else "--acoustic-teacher M"
    return f"record it: {teacher} {flags}" + f" --set {side}.name={source}" * named + whose


def recorded_kinds(tape: Tape, source: str) -> tuple[str, ...]:
    """Return of which kinds a source's states are, from the manifest alone."""
    totals = [shard.record.totals for shard in tape.shards[source]]
    return tuple(k for k in KINDS if any(each.get(f"hidden_{k}_positions", 0) for each in totals))


def resolve_terms(recipe: TermsRecipe, tape: Tape, student_layers: int) -> tuple[Term, ...]:
    """Return the run's terms with their layer pairs.

    Raises:
        MissingSignalError: a layer pair is not on the tape, or how many layers its teacher has.
        UsageError: a layer map is malformed.
    """
    terms = []
    for name, settings in recipe.active().items():
        pairs: Pairs = ()
        width = 0
        if isinstance(settings, StatesTerm | LensTerm):
            about = tape.sources[settings.source]
            where = f"terms.{name}.layers"
            if not isinstance(about.get("num_layers"), int):
                raise MissingSignalError(
                    f"{where}: {tape.location} does not say how many layers the teacher of "
                    f"{settings.source!r} has (num_layers), so none can be paired"
                )
            pairs = map_layers(
                settings.layers,
                student_layers,
                about["num_layers"],
                about["signals"][spec_of(name).signal]["layers"],
                where,
            )
        if isinstance(settings, StatesTerm):
            width = int(about["width"])
        terms.append(
            _with_facts(
                Term(
                    name=name,
                    spec=spec_of(name),
                    settings=settings,
                    pairs=pairs,
                    teacher_width=width,
                ),
                tape,
            )
        )
    return tuple(terms)


def _with_facts(term: Term, tape: Tape) -> Term:
    """Return a term with what the tape says of the classes or the embedding it compares with."""
    if term.spec.at != "tower":
        return term
    facts = tape.sources[term.source]["signals"][term.spec.signal]
    if term.spec.signal == "embedding":
        return replace(term, teacher_width=int(facts["width"]))
    return replace(term, labels=tuple(facts["labels"]), multi_label=bool(facts["multi_label"]))


def recordings_read(terms: tuple[Term, ...]) -> tuple[str, ...]:
    """Return the signals of recordings the terms read, beside states, sorted."""
    names = {f"{t.source}/{t.spec.signal}" for t in terms if t.spec.at == "tower"}
    return tuple(sorted(names))


def sources_read(terms: tuple[Term, ...], signal: str) -> tuple[str, ...]:
    """Return the sources whose signal the terms read, sorted."""
    return tuple(sorted({term.source for term in terms if term.spec.signal == signal}))


def states_read(terms: tuple[Term, ...]) -> dict[StatesAt, tuple[int, ...]]:
    """Return the recorded states the terms read: where -> layers, ascending."""
    found: dict[StatesAt, set[int]] = {}
    for term in terms:
        if term.spec.signal == "hidden":
            found.setdefault(term.states_at, set()).update(teacher for _, teacher in term.pairs)
    return {where: tuple(sorted(layers)) for where, layers in sorted(found.items())}


def lens_read(terms: tuple[Term, ...]) -> dict[str, tuple[int, ...]]:
    """Return the layers of the lens the terms read: source -> layers, ascending."""
    found: dict[str, set[int]] = {}
    for term in terms:
        if term.spec.signal == "lens":
            found.setdefault(term.source, set()).update(teacher for _, teacher in term.pairs)
    return {source: tuple(sorted(layers)) for source, layers in sorted(found.items())}
