"""What heads compute with, without a model: pooled frames, beliefs, frames that meet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cache_schema.errors import TapeError
from train.alignment.meeting import meet_frames
from train.losses.classes import belief_kl, log_beliefs
from train.pooling import AttentiveStatistics, row_means


def test_pooling_is_of_a_row_alone() -> None:
    torch.manual_seed(3)
    rows = [torch.randn(length, 6) for length in (1, 5, 3)]
    pool = AttentiveStatistics(6)
    together = pool(torch.cat(rows), [1, 5, 3])
    means = row_means(torch.cat(rows), [1, 5, 3])
    for row, statistics, mean in zip(rows, together, means, strict=True):
        torch.testing.assert_close(statistics, pool(row, [len(row)])[0])
        assert torch.equal(mean, row.mean(0))
    # a single frame is its own mean, its deviation as good as none, and its gradient finite
    torch.testing.assert_close(together[0, :6], rows[0][0])
    one = rows[0].clone().requires_grad_()
    pool(one, [1]).sum().backward()
    assert one.grad is not None
    assert one.grad.isfinite().all()


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_gradient_is_that_of_each_frame_a_mean_is_of(multi_label: bool) -> None:
    """Why probabilities are averaged: ``sum_f w_f KL(p_f || q) = KL(mean p || q) + const``."""
    generator = torch.Generator().manual_seed(1)
    recorded = 4 * torch.randn(3, 5, generator=generator)
    weights = torch.tensor([0.2, 0.5, 0.3])
    found = []
    for averaged in (True, False):
        student = torch.linspace(-1, 1, 5)[None].clone().requires_grad_()
        log_q = log_beliefs(student, 2.0, multi_label)
        p_FO = log_beliefs(recorded, 2.0, multi_label).exp()
        if averaged:
            value = belief_kl((weights @ p_FO)[None], log_q, 2.0).sum()
        else:
            value = (weights * belief_kl(p_FO, log_q.expand(3, -1), 2.0)).sum()
        value.backward()
        found.append(student.grad)
    torch.testing.assert_close(*found)


def test_sure_teachers_and_sure_students_have_finite_divergences() -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0]])
    student = -logits.clone().requires_grad_()
    for multi_label in (False, True):
        same = belief_kl(log_beliefs(logits, 1.0, multi_label).exp(),
                         log_beliefs(logits, 1.0, multi_label), 1.0)  # fmt: skip
        assert same.item() == pytest.approx(0, abs=1e-6)
        value = belief_kl(
            log_beliefs(logits, 1.0, multi_label).exp(),
            log_beliefs(student, 1.0, multi_label), 1.0,
        )  # fmt: skip
        assert value.item() == pytest.approx(400)
        (gradient,) = torch.autograd.grad(value, student)
        assert gradient.isfinite().all()


def test_frames_meet_by_seconds_and_a_row_without_any_has_nothing_to_compare() -> None:
    own = [np.array([[0, 0.04], [0.04, 0.08]], np.float32), np.array([[0, 0.04]], np.float32)]
    recorded = [np.array([[0, 0.02], [0.02, 0.06]], np.float32), np.empty((0, 2), np.float32)]
    meeting = meet_frames(["one", "two"], recorded, own)
    assert [each.tolist() for each in meeting.positions] == [[0, 1], []]
    values = torch.tensor([[1.0], [3.0]])
    torch.testing.assert_close(meeting.states(values), torch.tensor([[2.0], [3.0]]))
    with pytest.raises(TapeError, match=r"one: frames were recorded for 9.00 s of audio, and"):
        meet_frames(["one"], [np.array([[0, 9]], np.float32)], own[:1])
