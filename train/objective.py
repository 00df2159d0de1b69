"""The objective: weighted, named terms, each naming the signals it needs.

A term's value is a sum over its positions divided once by the number of such positions in the whole
step (all micro-batches, all processes), so a token weighs the same wherever it lands. The default
recipe is arXiv 2509.18579's ``L_txt + 0.05 L_ac + 0.5 L_SFT``.

Shapes: N response tokens, A audio positions, K kept tokens, B = K + 1 buckets, V vocabulary,
L layers, D width, M terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from audio_models.forward import flatten_positions, forward_with_states, unembed
from cache_schema import Tape
from cache_schema.errors import MissingSignalError
from cache_schema.types import AUDIO_SOURCE, TEXT_SOURCE
from train.batch import TrainBatch
from train.layers import Pairs, map_layers
from train.losses import vocabulary
from train.losses.chunked import chunked_sums
from train.losses.states import DISTANCES
from train.recipe import DivergenceTerm, StatesTerm, TermsRecipe, TokenTerm

Divergence = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class TermSpec:
    """What a term is.

    Attributes:
        signals: what it reads from the tape.
        source: whose signal.
        divergence: of bucketed next-token distributions, for a term over the vocabulary.
        temperature_power: the value is multiplied by ``T`` to this power.
        states: a distance of hidden states, at response tokens or audio positions.
    """

    signals: tuple[str, ...]
    source: str = TEXT_SOURCE
    divergence: Divergence | None = None
    temperature_power: int = 0
    states: bool = False


TERMS: Mapping[str, TermSpec] = {
    # -log q(target) on trace and answer tokens
    "ce": TermSpec(signals=("textual/trace",)),
    # T^2 KL(p || q); T^2 keeps the gradient's scale (Hinton et al., 2015; arXiv 2509.14930)
    "text_kl": TermSpec(
        signals=("textual/trace", "textual/topk"),
        divergence=vocabulary.forward_kl,
        temperature_power=2,
    ),
    # JSD(p, q): L_top of arXiv 2509.18579
    "text_jsd": TermSpec(
        signals=("textual/trace", "textual/topk"), divergence=vocabulary.jensen_shannon
    ),
    # distance(P h_S, h_T) at the positions that predict the trace: L_layer of arXiv 2509.18579
    "text_hidden": TermSpec(signals=("textual/trace", "textual/hidden"), states=True),
    # distance(h_S, h_T) at audio positions: L_ac of arXiv 2509.18579
    "acoustic_hidden": TermSpec(
        signals=("textual/trace", "acoustic/hidden"), source=AUDIO_SOURCE, states=True
    ),
    # T^2 KL(p || q) with the acoustic teacher, on the trace's tokens
    "acoustic_kl": TermSpec(
        signals=("textual/trace", "acoustic/topk"),
        source=AUDIO_SOURCE,
        divergence=vocabulary.forward_kl,
        temperature_power=2,
    ),
}
"""Term -> what it is; its settings are a field of ``TermsRecipe``."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """A term of this run: its spec, its settings and, for states, the layer pairs."""

    name: str
    spec: TermSpec
    settings: TokenTerm
    pairs: Pairs = ()


def check_signals(recipe: TermsRecipe, tape: Tape) -> tuple[str, ...]:
    """Return the signals the recipe reads, sorted.

    Raises:
        MissingSignalError: the tape lacks some, with what it has and which recipe line asks.
    """
    asked = {name: TERMS[name].signals for name in recipe.active()}
    absent = [
        f"  [terms.{name}] needs {signal}"
        for name, signals in asked.items()
        for signal in signals
        if signal not in tape.signals
    ]
    if absent:
        switch = absent[0].split()[0].strip("[]")
        lines = [
            f"{tape.location} lacks signals the recipe needs:",
            *absent,
            f"It has: {', '.join(tape.signals) or 'no signals'}.",
            f"Extract them with pipeline extract-teachers, or leave out: --set {switch}.weight=0",
        ]
        raise MissingSignalError("\n".join(lines))
    return tuple(sorted({signal for signals in asked.values() for signal in signals}))


def resolve_terms(recipe: TermsRecipe, tape: Tape, student_layers: int) -> tuple[Term, ...]:
    """Return the run's terms with their layer pairs.

    Raises:
        MissingSignalError: a layer pair is not on the tape.
        UsageError: a layer map is malformed.
    """
    terms = []
    for name, settings in recipe.active().items():
        spec = TERMS[name]
        pairs: Pairs = ()
        if spec.states:
            source = tape.sources[spec.source]
            pairs = map_layers(
                cast("StatesTerm", settings).layers,
                student_layers,
                source["num_layers"],
                source["signals"]["hidden"]["layers"],
                f"terms.{name}.layers",
            )
        terms.append(Term(name=name, spec=spec, settings=settings, pairs=pairs))
    return tuple(terms)


def teacher_layers(terms: tuple[Term, ...], source: str) -> tuple[int, ...]:
    """Return the layers of a source the terms read, ascending."""
    return tuple(sorted({t for term in terms if term.spec.source == source for _, t in term.pairs}))


class Objective(nn.Module):
    """Student, projectors and loss as one module, so that data parallelism wraps all of it.

    Args:
        model: the student.
        terms: what to compute.
        student_width: D of the student.
        teacher_widths: source -> D of its teacher.
        vocab_chunk: tokens whose logits exist at one time.
    """

    def __init__(
        self,
        model: Any,
        terms: tuple[Term, ...],
        student_width: int,
        teacher_widths: Mapping[str, int],
        vocab_chunk: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.terms = terms
        self.vocab_chunk = vocab_chunk
        self.projectors = nn.ModuleDict()
        for term in terms:
            for student, teacher in term.pairs:
                width = teacher_widths[term.spec.source]
                linear = cast("StatesTerm", term.settings).projector == "linear"
                if linear or width != student_width:
                    projector = nn.Linear(student_width, width, bias=False)
                    nn.init.orthogonal_(projector.weight)
                    self.projectors[f"{term.name}-{student}-{teacher}"] = projector

    def counts(self, batch: TrainBatch) -> Tensor:
        """Return float64 [M]: the positions each term sums over."""
        counts = [
            batch.num_audio_positions if _at_audio(term) else len(batch.target_ids)
            for term in self.terms
        ]
        return torch.tensor(counts, dtype=torch.float64)

    def forward(self, batch: TrainBatch) -> Tensor:
        """Return float32 [M]: every term summed over the batch's positions, unweighted."""
        layers = sorted({student for term in self.terms for student, _ in term.pairs})
        output = forward_with_states(
            self.model,
            batch.audio.inputs,
            layers,
            batch.audio.predict_positions,
            unembed_now=False,
        )
        sums: dict[str, Tensor] = {}
        over_vocabulary = tuple(term for term in self.terms if not term.spec.states)
        if over_vocabulary:
            values_M = chunked_sums(
                output.readout_ND,
                lambda readout_ND: unembed(self.model, readout_ND),
                lambda logits_NV, where: _vocabulary_sums(over_vocabulary, batch, logits_NV, where),
                self.vocab_chunk,
            )
            sums.update({t.name: v for t, v in zip(over_vocabulary, values_M, strict=True)})
        for term in self.terms:
            if term.spec.states:
                sums[term.name] = self._states_sum(term, batch, output.states)
        return torch.stack([sums[term.name] for term in self.terms])

    def _states_sum(self, term: Term, batch: TrainBatch, states: Mapping[int, Tensor]) -> Tensor:
        """Return the mean over layer pairs of the distance summed over positions."""
        audio = _at_audio(term)
        positions = batch.audio.audio_positions if audio else batch.audio.predict_positions
        recorded_LND = batch.audio_states if audio else batch.text_states
        assert recorded_LND is not None
        rows, columns = flatten_positions(positions)
        layers = teacher_layers(self.terms, term.spec.source)
        distance = DISTANCES[cast("StatesTerm", term.settings).distance]
        total = torch.zeros((), device=recorded_LND.device)
        for student, teacher in term.pairs:
            states_BTD = states[student]
            device = states_BTD.device
            student_ND = states_BTD[rows.to(device), columns.to(device)].float()
            name = f"{term.name}-{student}-{teacher}"
            if name in self.projectors:
                student_ND = self.projectors[name](student_ND)
            teacher_ND = recorded_LND[layers.index(teacher)].float()
            total = total + distance(student_ND.float(), teacher_ND).sum()
        return total / len(term.pairs)


def _at_audio(term: Term) -> bool:
    return term.spec.states and term.spec.source == AUDIO_SOURCE


def _vocabulary_sums(
    terms: tuple[Term, ...], batch: TrainBatch, logits_NV: Tensor, where: slice
) -> Tensor:
    """Return [M] sums of the terms over the vocabulary for one chunk of positions."""
    buckets: dict[str, tuple[Tensor, Tensor]] = {}
    sums = []
    for term in terms:
        divergence = term.spec.divergence
        if divergence is None:
            sums.append(vocabulary.cross_entropy(logits_NV, batch.target_ids[where]).sum())
            continue
        source = term.spec.source
        if source not in buckets:
            topk = batch.topk[source]
            buckets[source] = (
                vocabulary.teacher_buckets(topk.logprobs[where], topk.tail[where]),
                vocabulary.student_buckets(logits_NV, topk.token_ids[where]),
            )
        temperature = cast("DivergenceTerm", term.settings).temperature
        teacher_NB, student_NB = (vocabulary.temper(b, temperature) for b in buckets[source])
        value_N = divergence(teacher_NB, student_NB)
        sums.append(value_N.sum() * temperature**term.spec.temperature_power)
    return torch.stack(sums)
