from __future__ import annotations

import pytest
import torch
from torch import Tensor

from train.losses import eager
from train.losses.states import DISTANCES, cka_distance, linear_cka

ROWS = (5, 1, 9)
N = sum(ROWS)


def states(seed: int, width: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(N, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", ["cosine", "mse", "cosine_mse"])
def test_distances_of_positions_equal_their_references(name: str) -> None:
    references = {
        "cosine": eager.cosine_of_each,
        "mse": eager.relative_mse_of_each,
        "cosine_mse": lambda s, t: eager.cosine_of_each(s, t) + eager.relative_mse_of_each(s, t),
    }
    student, teacher = states(0, 7).requires_grad_(), states(1, 7)
    value, expected = DISTANCES[name](student, teacher, ROWS), references[name](student, teacher)
    torch.testing.assert_close(value, expected)
    for one, other in zip(
        torch.autograd.grad(value.sum(), student),
        torch.autograd.grad(expected.sum(), student),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_cka_equals_its_definition_over_features() -> None:
    student, teacher = states(0, 7).requires_grad_(), states(1, 4)
    value = linear_cka(student, teacher)
    expected = eager.feature_cka(student, teacher)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(value, student)[0], torch.autograd.grad(expected, student)[0]
    )


def test_cka_minds_neither_rotation_nor_scale_nor_shift() -> None:
    teacher = states(0, 6)
    rotation = torch.linalg.qr(states(1, 6)[:6])[0]
    assert linear_cka(3 * teacher @ rotation + 5, teacher).item() == pytest.approx(1)
    assert linear_cka(states(2, 6), teacher).item() < 0.9


def test_cka_is_a_sum_over_rows_each_weighted_by_its_positions() -> None:
    student, teacher = states(0, 7), states(1, 4)
    value = cka_distance(student, teacher, ROWS)
    starts = torch.tensor([0, *ROWS]).cumsum(0).tolist()
    expected = sum(
        count
        * (1 - eager.feature_cka(student[start : start + count], teacher[start : start + count]))
        for start, count in zip(starts, ROWS, strict=False)
        if count > 1
    )
    assert value.shape == (N,)
    torch.testing.assert_close(value.sum(), expected)
    assert value[ROWS[0]] == 0  # a row of one position relates to nothing


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_cka_keeps_its_digits_in_float32(scale: float) -> None:
    student, teacher = states(0, 64, scale).float().requires_grad_(), states(1, 32, scale).float()
    value = linear_cka(student, teacher)
    assert value.item() == pytest.approx(
        eager.feature_cka(student.detach().double(), teacher.double()).item(), rel=1e-4
    )
    value.backward()
    assert torch.isfinite(student.grad).all()


def test_equal_states_of_a_row_make_no_nan() -> None:
    student = torch.ones(4, 3, requires_grad=True)
    cka_distance(student, torch.randn(4, 5), [4]).sum().backward()
    assert torch.isfinite(student.grad).all()
