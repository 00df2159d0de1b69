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
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from audio_models.forward import flatten_positions
from train.batch.build import TrainBatch
from train.batch.targets import TopKTargets
from train.heads import AudioHead, head_of
from train.losses import vocabulary
from train.losses.asked import Asked, Seen
from train.losses.chunked import Chunked
from train.losses.divergences import Divergence, divergence_of
from train.losses.fused import Fused
from train.losses.precision import wide
from train.losses.sampled import sampled_cross_entropy
from train.losses.states import ANY_WIDTH, DISTANCES
from train.pooling import row_means
from train.readout import lens_inputs, output_head
from train.terms.counts import count_of, unknown_of
from train.terms.resolve import Term, sources_read, states_read
from train.terms.settings import DivergenceTerm, JensenShannonTerm, LensTerm, StatesTerm
from train.terms.tower import TowerPass, tower_sum

TARGET = ""
"""What the token itself is called among those whose logits are asked for; sources have names."""


class Weighted(NamedTuple):
    """The weighted total of all terms, which has the gradient, and each one's sum [M]."""

    loss: Tensor
    sums_M: Tensor  # noqa: N815


class Objective(nn.Module):
    """Student, projectors and loss as one module, so that data parallelism wraps all of it.

    ``trained`` names the parameters that the run trains, in one stage or another.

    Args:
        model: the student.
        terms: what to compute.
        student_width: D of the student.
        vocab_chunk: tokens whose logits exist at one time.
    """

    def __init__(
        self,
        model: Any,
        terms: tuple[Term, ...],
        student_width: int,
        vocab_chunk: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.terms = terms
        self.vocab_chunk = vocab_chunk
        self.projectors = nn.ModuleDict()
        self._recorded = states_read(terms)
        self._head = output_head(model)
        self._passes = TowerPass(model, terms)
        self.meets_all_blocks = self._for_company = False
        for term in terms:
            if isinstance(term.settings, StatesTerm):
                self.projectors.update(_projectors(term, term.settings, student_width))
            elif term.spec.at == "tower" and (tower := self._passes.tower):
                self.projectors[term.name] = head_of(term, tower.num_layers, tower.width)
        self.trained = frozenset(name for name, p in self.named_parameters() if p.requires_grad)
        self.train()

    def train(self, mode: bool = True) -> Objective:
        """Set the mode; batch norms (of Granite Speech's tower) stay in evaluation.

        By its batch's statistics a row would depend on what it is batched with, each process would
        have statistics of its own, and every pass more, as one that measures, would move them.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    @property
    def unread(self) -> bool:
        """Whether the last pass went through parts that no term reads, and left them zeros."""
        return self._passes.unread or self._for_company

    def counts(self, batch: TrainBatch) -> Tensor:
        """Return float64 [M]: the positions each term sums over."""
        return torch.tensor([count_of(term, batch) for term in self.terms], dtype=torch.float64)

    def unknown(self, batch: TrainBatch) -> Tensor:
        """Return float64 [M]: the teacher's mass, over these, on tokens the student lacks."""
        return torch.tensor([unknown_of(term, batch) for term in self.terms], dtype=torch.float64)

    def forward(self, batch: TrainBatch, scale_M: Tensor | None = None) -> Tensor | Weighted:
        """Return every term summed over the batch's positions; 0 for those not computed on it.

        Args:
            batch: what to compute on.
            scale_M: each term's factor in the loss: its weight, divided by its count in the whole
                step.

        Returns:
            ``Weighted`` if ``scale_M`` is given, the loss's gradient found along the way
            (``train.losses.fused``). Otherwise [M], unweighted, each with a gradient of its own
            where gradients are enabled: the slower way.
        """
        active = [term for term in self.terms if term.name in batch.terms]
        output, frames_ND = self._passes.run(batch, active, self)
        apart = scale_M is None and torch.is_grad_enabled()
        summing = Chunked(self.vocab_chunk) if apart else Fused(self.vocab_chunk)
        scales_M = output.readout_ND.new_ones(len(self.terms)) if scale_M is None else scale_M
        scales = {t.name: each for t, each in zip(self.terms, scales_M, strict=True)}
        # a term that is not computed here is 0, and belongs to the graph as the others do
        nothing = wide(output.readout_ND[:0]).sum()
        sums = dict.fromkeys((t.name for t in self.terms), nothing)
        over_output = tuple(term for term in active if term.over_output)
        # a term over the output, and one that is not computed here, go through all blocks anyway
        whole = over_output or len(active) < len(self.terms)
        self._for_company = self.meets_all_blocks and not whole
        if over_output:
            values_M = summing.sums(
                output.readout_ND,
                self._head(True),
                _asked(over_output, batch),
                lambda seen, where: _output_sums(over_output, batch, seen, where),
                torch.stack([scales[term.name] for term in over_output]),
            )
            sums.update({t.name: v for t, v in zip(over_output, values_M, strict=True)})
        for term in active:
            if term.spec.signal == "lens":
                sums[term.name] = self._lens_sum(term, batch, output.states, summing, scales)
            elif term.spec.signal == "hidden":
                sums[term.name] = self._states_sum(term, batch, output.states)
            elif term.spec.at == "tower":
                head = cast("AudioHead", self.projectors[term.name])
                sums[term.name] = tower_sum(term, head, batch, frames_ND)
            else:
                assert term.over_output, f"no code computes {term.name}"
        sums_M = torch.stack([sums[term.name] for term in self.terms])
        if self._for_company:
            sums_M = sums_M + nothing
        if scale_M is None:
            return sums_M
        return Weighted(summing.attach((sums_M * scale_M).sum()), sums_M.detach())

    def _lens_sum(
        self,
        term: Term,
        batch: TrainBatch,
        states: Mapping[int, Tensor],
        summing: Chunked | Fused,
        scales: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the mean over layer pairs of the divergence of their lenses, over positions.

        ``mean_(s,t) D(p_t, q_s)``: ``p_t`` the recorded lens of teacher layer t, ``q_s`` the
        student's layer s through its own final norm and unembedding, a chunk at a time. ``L_layer``
        of arXiv 2509.18579 in the form that needs no projector (the logit lens: nostalgebraist,
        "interpreting GPT", 2020).
        """
        settings = cast("LensTerm", term.settings)
        divergence = divergence_of(settings.divergence, settings.temperature)
        trained = settings.readout == "trained"
        total: list[Tensor] = []
        for student, teacher in term.pairs:
            topk = batch.lens[term.source][teacher]

            def loss(seen: Seen, where: slice, topk: TopKTargets = topk) -> Tensor:
                return _divergence_sum(divergence, topk, term.source, seen, where)[None]

            states_ND = _at(states[student], batch.audio.predict_positions)
            sums_1 = summing.sums(
                lens_inputs(self.model, states_ND, trained),
                self._head(trained),
                Asked(buckets={term.source: topk.token_ids}),
                loss,
                scales[term.name][None] / len(term.pairs),
            )
            total.append(sums_1[0])
        return torch.stack(total).mean()

    def _states_sum(self, term: Term, batch: TrainBatch, states: Mapping[int, Tensor]) -> Tensor:
        """Return the mean over layer pairs of the distance of their states, over positions.

        ``mean_(s,t) d(P h_s, h_t)``, P a learned projector where there is one: ``L_layer`` of arXiv
        2509.18579 at response tokens, its ``L_ac`` at audio positions: those of another front end,
        or an encoder's frames, are averaged over the student's seconds (``alignment.meeting``).

        ``text_pooled`` has one position a row: the mean over its audio positions, against the mean
        over a description's tokens, special ones included, as an encoder of text read them (after
        Wav-BERT, arXiv 2109.09161, whose text encoder brings what a transcript means to an encoder
        of speech). Means are not set against those of other rows, as a contrastive loss would: a
        row's weight, and what it is compared with, would depend on its micro-batch.
        """
        settings = cast("StatesTerm", term.settings)
        meeting = batch.meetings.get(term.states_at)
        positions = meeting.positions if meeting else batch.audio.predict_positions
        if term.spec.at == "pooled":
            positions = batch.audio.audio_positions
        recorded_LFD = batch.states[term.states_at]
        layers = self._recorded[term.states_at]
        distance = DISTANCES[settings.distance]
        rows = [len(row) for row in positions]
        total: list[Tensor] = []
        for student, teacher in term.pairs:
            student_ND = wide(_at(states[student], positions))
            if term.spec.at == "pooled":
                student_ND = row_means(student_ND, rows)
            name = f"{term.name}-{student}-{teacher}"
            if name in self.projectors:
                student_ND = wide(self.projectors[name](student_ND))
            teacher_ND = recorded_LFD[layers.index(teacher)]
            if meeting:
                teacher_ND = meeting.states(teacher_ND)
            elif term.spec.at == "pooled":
                teacher_ND = row_means(wide(teacher_ND), batch.text_tokens[term.states_at])
            teacher_ND = teacher_ND.to(student_ND.dtype)
            total.append(distance(student_ND, teacher_ND, rows).sum())
        return torch.stack(total).mean()


def _projectors(term: Term, settings: StatesTerm, student_width: int) -> dict[str, nn.Module]:
    """Return a term's learned projectors, by their names; none where its distance needs none."""
    width = term.teacher_width
    differs = width != student_width and settings.distance not in ANY_WIDTH
    found: dict[str, nn.Module] = {}
    if differs or settings.projector == "linear":
        for student, teacher in term.pairs:
            projector = nn.Linear(student_width, width, bias=False)
            nn.init.orthogonal_(projector.weight)
            found[f"{term.name}-{student}-{teacher}"] = projector
    return found


def _at(states_BTD: Tensor, positions: Sequence[Tensor]) -> Tensor:
    """Return [N, D]: the states at each row's positions, row after row."""
    rows, columns = (index.to(states_BTD.device) for index in flatten_positions(positions))
    return states_BTD[rows, columns]


def _divergence(settings: DivergenceTerm, name: str) -> Divergence:
    beta = settings.beta if isinstance(settings, JensenShannonTerm) else 0.5
    return divergence_of(name, settings.temperature, beta)


def _asked(terms: tuple[Term, ...], batch: TrainBatch) -> Asked:
    """Return what the terms over the student's own distribution see of its logits."""
    drawn = {source: batch.sampled[source].token_ids for source in sources_read(terms, "sampled")}
    return Asked(
        buckets={source: batch.topk[source].token_ids for source in sources_read(terms, "topk")},
        tokens={TARGET: batch.target_ids[:, None], **drawn},
    )


def _divergence_sum(
    divergence: Divergence, topk: TopKTargets, source: str, seen: Seen, where: slice
) -> Tensor:
    """Return a divergence from what a teacher said, summed over some positions."""
    return divergence(
        vocabulary.teacher_buckets(topk.logprobs[where], topk.tail[where]),
        seen.log_masses[source] - seen.log_total_N[:, None],
    ).sum()


def _output_sums(terms: tuple[Term, ...], batch: TrainBatch, seen: Seen, where: slice) -> Tensor:
    """Return [M] sums of the terms over the student's own distribution, for one chunk."""
    sums = []
    for term in terms:
        source = term.source
        if term.spec.signal == "sampled":
            drawn = batch.sampled[source]
            value = sampled_cross_entropy(
                seen.logits[source], drawn.token_ids[where], drawn.shares[where], seen.log_total_N
            ).sum()
        elif term.spec.signal == "topk":
            divergence = _divergence(cast("DivergenceTerm", term.settings), term.spec.divergence)
            value = _divergence_sum(divergence, batch.topk[source], source, seen, where)
        else:
            assert not term.spec.signal, f"no code computes {term.name}"
            value = vocabulary.cross_entropy(seen.logits[TARGET][:, 0], seen.log_total_N).sum()
        sums.append(value)
    return torch.stack(sums)
