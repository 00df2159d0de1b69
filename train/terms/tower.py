"""The terms on the student's audio tower: its frames, and what light heads make of them.

Shapes: B rows, N frames of the audio tower of all rows, K those that are compared, F recorded
frames, D width, C classes, E width of an embedding, O outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from audio_models.forward import Forward, forward_with_states
from audio_models.tower_inside import InnerTower
from train.batch.build import TrainBatch
from train.heads import AudioHead
from train.losses.classes import belief_kl, log_beliefs
from train.losses.precision import wide
from train.losses.states import DISTANCES
from train.terms.resolve import Term
from train.terms.settings import DivergenceTerm, EmbeddingTerm


class TowerPass:
    """Passes of the student that keep its audio tower's frames, where a term reads them.

    Args:
        model: the student.
        terms: of the run.

    Attributes:
        tower: the student's; ``None`` if no term reads it.
        unread: whether the last pass went through the language model though no term reads it.

    Raises:
        ModelError: a term reads the audio tower, and that of the student is not known.
    """

    def __init__(self, model: Any, terms: Sequence[Term]) -> None:
        self._model, self._terms = model, terms
        self.tower = InnerTower(model) if any(map(_reads_tower, terms)) else None
        self.unread = False

    def run(self, batch: TrainBatch, active: Sequence[Term], root: Any) -> tuple[Forward, Tensor]:
        """Return what a pass left, and the frames [N, D] of the audio tower.

        Where nothing reads the language model, the tower runs alone. Of a student in shards it does
        so only if that holds for every batch of the run: processes gather its parts together, also
        in the backward pass, which terms that are not computed lead through it, as zeros.

        Args:
            batch: what to read.
            active: the terms computed on it; no frames are kept if none reads the tower.
            root: the module that may be in shards.
        """
        audio = batch.audio
        self.unread = False
        if self.tower is None or not any(map(_reads_tower, active)):
            output = self._whole(batch, active)
            return output, output.readout_ND[:0]
        if all(map(_reads_tower, self._terms if isinstance(root, FSDPModule) else active)):
            frames_ND = self.tower.run(audio)
            nothing = frames_ND[:0]
            return Forward(states={}, readout_ND=nothing, logits_NV=nothing), frames_ND
        self.unread = all(map(_reads_tower, active))
        with self.tower.read() as outputs:
            output = self._whole(batch, active)
        return output, self.tower.frames(audio, outputs)

    def _whole(self, batch: TrainBatch, active: Sequence[Term]) -> Forward:
        return forward_with_states(
            self._model,
            batch.audio.inputs,
            sorted({student for term in active for student, _ in term.pairs}),
            batch.audio.predict_positions,
            unembed_now=False,
        )


def _reads_tower(term: Term) -> bool:
    return term.spec.at == "tower"


def tower_sum(term: Term, head: AudioHead, batch: TrainBatch, frames_ND: Tensor) -> Tensor:
    """Return what a term on the audio tower comes to, summed over recordings, or over frames.

    - ``acoustic_utterance``: ``T^2 KL(p_T || q_T)`` of every recording, ``p`` the teacher's belief
      and ``q`` the head's (``train.losses.classes``).
    - ``acoustic_frames``: the same of every frame of the tower that the teacher's frames overlap,
      ``p`` the mean of their beliefs, weighted by their common time. Probabilities are averaged,
      and not logits: ``sum_f w_f KL(p_f || q) = KL(sum_f w_f p_f || q) + const``, so the gradient
      is that of comparing the frame with each of the teacher's it overlaps, and a frame in which
      one class ends and another begins is believed to be half of each. A mean of logits is led
      by whichever frame was surest.
    - ``acoustic_embedding``: the distance of the head's vector from the recorded one.
    """
    counts = [len(times_s) for times_s in batch.audio.tower_times_s]
    name = f"{term.source}/{term.spec.signal}"
    if isinstance(term.settings, EmbeddingTerm):
        found_BE = head(frames_ND, counts)
        recorded_BE = batch.recordings.wholes[name].to(found_BE.dtype)
        return DISTANCES[term.settings.distance](found_BE, recorded_BE, [1] * len(counts)).sum()
    temperature = cast("DivergenceTerm", term.settings).temperature
    if term.spec.signal == "frame_logits":
        target = batch.recordings.frames[name]
        logits = head(frames_ND[target.kept_K], [])
        p_FO = log_beliefs(wide(target.logits_FC), temperature, term.multi_label).exp()
        p = target.meeting.states(p_FO)
    else:
        logits = head(frames_ND, counts)
        recorded_BC = wide(batch.recordings.wholes[name])
        p = log_beliefs(recorded_BC, temperature, term.multi_label).exp()
    log_q = log_beliefs(logits, temperature, term.multi_label)
    return belief_kl(p.to(log_q.dtype), log_q, temperature).sum()
