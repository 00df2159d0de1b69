"""The objective: student, projectors and the weighted, named terms as one module.

A term's value is a sum over its positions divided once by the number of such positions in the whole
step (all micro-batches, all processes), so a token weighs the same wherever it lands. The default
recipe is arXiv 2509.18579's ``L_txt + 0.05 L_ac + 0.5 L_SFT``. What each term computes is in
``train.losses``.

Shapes: N response tokens, n those of a chunk, A audio positions, V vocabulary, L layers, D width,
M terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from audio_models.forward import flatten_positions, forward_with_states
from train.batch import TrainBatch
from train.losses import vocabulary
from train.losses.chunked import chunked_sums
from train.losses.divergences import Divergence, divergence_of
from train.losses.precision import wide
from train.losses.sampled import sampled_cross_entropy
from train.losses.states import ANY_WIDTH, DISTANCES
from train.readout import lens_reader, output_reader
from train.targets import TopKTargets
from train.terms import Term, sources_read, states_read
from train.terms_recipe import DivergenceTerm, JensenShannonTerm, LensTerm, StatesTerm


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
        self._recorded = states_read(terms)
        self._read_output = output_reader(model)
        for term in terms:
            if not isinstance(term.settings, StatesTerm):
                continue
            width = teacher_widths[term.source]
            differs = width != student_width and term.settings.distance not in ANY_WIDTH
            for student, teacher in term.pairs:
                if differs or term.settings.projector == "linear":
                    projector = nn.Linear(student_width, width, bias=False)
                    nn.init.orthogonal_(projector.weight)
                    self.projectors[f"{term.name}-{student}-{teacher}"] = projector

    def counts(self, batch: TrainBatch) -> Tensor:
        """Return float64 [M]: the positions each term sums over."""
        return torch.tensor([_count(term, batch) for term in self.terms], dtype=torch.float64)

    def forward(self, batch: TrainBatch) -> Tensor:
        """Return [M]: every term summed over the batch's positions, unweighted."""
        layers = sorted({student for term in self.terms for student, _ in term.pairs})
        output = forward_with_states(
            self.model,
            batch.audio.inputs,
            layers,
            batch.audio.predict_positions,
            unembed_now=False,
        )
        sums: dict[str, Tensor] = {}
        over_output = tuple(term for term in self.terms if term.over_output)
        if over_output:
            values_M = chunked_sums(
                output.readout_ND,
                self._read_output,
                lambda logits_nV, where: _output_sums(over_output, batch, logits_nV, where),
                self.vocab_chunk,
            )
            sums.update({t.name: v for t, v in zip(over_output, values_M, strict=True)})
        for term in self.terms:
            if term.spec.signal == "lens":
                sums[term.name] = self._lens_sum(term, batch, output.states)
            elif term.spec.signal == "hidden":
                sums[term.name] = self._states_sum(term, batch, output.states)
        return torch.stack([sums[term.name] for term in self.terms])

    def _lens_sum(self, term: Term, batch: TrainBatch, states: Mapping[int, Tensor]) -> Tensor:
        """Return the mean over layer pairs of the divergence of their lenses, over positions.

        ``mean_(s,t) D(p_t, q_s)``: ``p_t`` the recorded lens of teacher layer t, ``q_s`` the
        student's layer s through its own final norm and unembedding, a chunk at a time. ``L_layer``
        of arXiv 2509.18579 in the form that needs no projector (the logit lens: nostalgebraist,
        "interpreting GPT", 2020).
        """
        settings = cast("LensTerm", term.settings)
        divergence = divergence_of(settings.divergence, settings.temperature)
        read = lens_reader(self.model, settings.readout == "trained")
        total: list[Tensor] = []
        for student, teacher in term.pairs:
            topk = batch.lens[term.source][teacher]

            def loss(logits_nV: Tensor, where: slice, topk: TopKTargets = topk) -> Tensor:
                p_nB, q_nB = vocabulary.buckets(topk, logits_nV, where)
                return divergence(p_nB, q_nB).sum()[None]

            states_ND = _at(states[student], batch.audio.predict_positions)
            total.append(chunked_sums(states_ND, read, loss, self.vocab_chunk)[0])
        return torch.stack(total).mean()

    def _states_sum(self, term: Term, batch: TrainBatch, states: Mapping[int, Tensor]) -> Tensor:
        """Return the mean over layer pairs of the distance of their states, over positions.

        ``mean_(s,t) d(P h_s, h_t)``, P a learned projector where there is one: ``L_layer`` of arXiv
        2509.18579 at response tokens, its ``L_ac`` at audio positions: those of another front end,
        or an encoder's frames, are averaged over the student's seconds (``alignment.meeting``).
        """
        settings = cast("StatesTerm", term.settings)
        meeting = batch.meetings.get(term.states_at)
        positions = meeting.positions if meeting else batch.audio.predict_positions
        recorded_LFD = batch.states[term.states_at]
        layers = self._recorded[term.states_at]
        distance = DISTANCES[settings.distance]
        total: list[Tensor] = []
        for student, teacher in term.pairs:
            student_ND = wide(_at(states[student], positions))
            name = f"{term.name}-{student}-{teacher}"
            if name in self.projectors:
                student_ND = wide(self.projectors[name](student_ND))
            teacher_FD = recorded_LFD[layers.index(teacher)]
            teacher_ND = (meeting.states(teacher_FD) if meeting else teacher_FD).to(
                student_ND.dtype
            )
            total.append(distance(student_ND, teacher_ND, [len(row) for row in positions]).sum())
        return torch.stack(total).mean()


def _count(term: Term, batch: TrainBatch) -> int:
    """Return the positions a term sums over: all tokens, or those its teacher says something of."""
    count: int | None = None
    if term.spec.signal == "hidden" and term.states_at in batch.meetings:
        count = batch.meetings[term.states_at].count
    elif term.spec.signal == "topk":
        count = batch.topk[term.source].count
    elif term.spec.signal == "sampled":
        count = batch.sampled[term.source].count
    elif term.spec.signal == "lens":
        count = next(iter(batch.lens[term.source].values())).count
    return len(batch.target_ids) if count is None else count


def _at(states_BTD: Tensor, positions: Sequence[Tensor]) -> Tensor:
    """Return [N, D]: the states at each row's positions, row after row."""
    rows, columns = (index.to(states_BTD.device) for index in flatten_positions(positions))
    return states_BTD[rows, columns]


def _divergence(settings: DivergenceTerm, name: str) -> Divergence:
    beta = settings.beta if isinstance(settings, JensenShannonTerm) else 0.5
    return divergence_of(name, settings.temperature, beta)


def _output_sums(
    terms: tuple[Term, ...], batch: TrainBatch, logits_nV: Tensor, where: slice
) -> Tensor:
    """Return [M] sums of the terms over the student's own distribution, for one chunk."""
    masses = {
        source: vocabulary.log_masses(logits_nV, batch.topk[source].token_ids[where])
        for source in sources_read(terms, "topk")
    }
    # any source's buckets divide the vocabulary: no term goes over it again for its sum
    log_total_n = next(iter(masses.values()), logits_nV).logsumexp(-1)
    sums = []
    for term in terms:
        source = term.source
        if term.spec.signal == "sampled":
            drawn = batch.sampled[source]
            value_n = sampled_cross_entropy(
                logits_nV, drawn.token_ids[where], drawn.shares[where], log_total_n
            )
        elif term.spec.signal == "topk":
            topk = batch.topk[source]
            divergence = _divergence(cast("DivergenceTerm", term.settings), term.spec.divergence)
            value_n = divergence(
                vocabulary.teacher_buckets(topk.logprobs[where], topk.tail[where]),
                masses[source] - log_total_n[:, None],
            )
        else:
            value_n = vocabulary.cross_entropy(logits_nV, batch.target_ids[where], log_total_n)
        sums.append(value_n.sum())
    return torch.stack(sums)
