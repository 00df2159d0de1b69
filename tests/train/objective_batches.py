"""Batches of a tape of every term, the objective over them, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from audio_models.load import AudioLM
from cache_schema import Tape
from train.batch.build import Share, TrainBatch, load_batches
from train.data import Example
from train.objective import Objective
from train.steps.ring import HostBuffer, Readers
from train.terms.needs import resolve_needs
from train.terms.recipe import TermsRecipe
from train.terms.resolve import Term, check_signals, resolve_terms

NAMES = ("s0", "s3", "s5")


# float32 sums in another order, of logits of size 10
TOLERANCE = {"rtol": 2e-4, "atol": 1e-6}


def terms_of(tape: Tape, **sections: dict[str, object]) -> tuple[Term, ...]:
    recipe = TermsRecipe.from_values(sections, "recipe.terms")
    check_signals(recipe, tape)
    return resolve_terms(recipe, tape, 2)


def load(
    lm: AudioLM, tape: Tape, terms: tuple[Term, ...], shares: Sequence[Sequence[str]]
) -> list[TrainBatch]:
    rows = [Example(sample_id=name, trace_index=0, num_tokens=1) for name in NAMES]
    needs = resolve_needs(lm, tape, terms, rows)
    buffer = HostBuffer()
    with Readers() as readers:
        rows = [[(name, 0) for name in share] for share in shares]
        found = [Share(tape=tape, needs=needs, rows=each) for each in rows]
        batches = load_batches(lm, found, buffer, readers)
        buffer.wait()
    return batches


def objective(lm: AudioLM, terms: tuple[Term, ...], chunk: int = 16) -> Objective:
    torch.manual_seed(0)
    return Objective(lm.model, terms, lm.width, chunk)


def gradients(module: Objective, value: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    value.backward(retain_graph=True)
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def compare(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() >= other.keys()
    largest = max(float(each.abs().max()) for each in other.values())
    for name, each in one.items():
        # a parameter of other terms alone may come with zeros
        reference = other.get(name, torch.zeros_like(each))
        # of small gradients the digits of the large ones they are sums of
        torch.testing.assert_close(each, reference, rtol=1e-3, atol=1e-5 * max(largest, 1e-3))
