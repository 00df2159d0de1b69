"""Runs in a process of its own: what the vLLM teacher says of tiny models, saved for the tests.

``python record.py FOLDER [ranks]``: FOLDER holds the models; one ``.npz`` is written there for each
case. With ``ranks``, one model is split over two processes, and then its engine is killed.
"""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import torch

from cache_schema.errors import UsageError
from pipeline.teachers import vllm_options
from pipeline.teachers.base import EngineDiedError, Entries, Sampling, TokenSignals, Wanted
from pipeline.teachers.vllm_taps import Taps
from pipeline.teachers.vllm_text import VllmTextTeacher
from pipeline.textual_recipe import TextualRecipe

FAMILIES = ("qwen3", "llama", "gemma3", "gpt2")
CASES = [*[(family, dtype) for family in FAMILIES for dtype in ("bfloat16", "float32")]]
COMPILED = ("llama", "float32")
"""Comes last. Only GPUs compile by default; the states must be those of the compiled model too."""
RANKS = ("gpt2", "float32")

TOP_K, LENS_TOP_K, DRAWS = 8, 6, 5
LAYERS = {"qwen3": (0, 2, 4), "llama": (0, 1, 3), "gemma3": (0, 1, 3), "gpt2": (0, 1, 2)}
LENS = {"qwen3": (1, 4), "llama": (0, 3), "gemma3": (2, 3), "gpt2": (1, 2)}
SEEDS = [11, 12, 13, 14, 15]
SAMPLING = Sampling(num_traces=2, max_new_tokens=20, temperature=1.5)
"""Not 1: what is recorded is at temperature 1, however a token was drawn."""


def wanted_of(family: str) -> Wanted:
    return Wanted(
        top_k=TOP_K, layers=LAYERS[family], lens=LENS[family], lens_top_k=LENS_TOP_K, draws=DRAWS
    )


def prompts_of(teacher: VllmTextTeacher) -> list[np.ndarray]:
    """Ragged: from 20 to about 110 tokens."""
    texts = [f"what is {'three plus ' * repeats}four?" for repeats in (1, 6, 2, 15, 30)]
    return [teacher.encode([{"role": "user", "content": text}]) for text in texts]


def save_signals(out: dict[str, np.ndarray], name: str, signals: TokenSignals) -> None:
    out[f"{name}/target_ids"] = signals.target_ids
    out[f"{name}/target_logprobs"] = signals.target_logprobs
    out[f"{name}/drawn_ids"] = signals.drawn_ids
    for part in ("topk", "lens"):
        entries: Entries = getattr(signals, part)
        for field, values in vars(entries).items():
            out[f"{name}/{part}/{field}"] = values
    for layer, states in signals.states.items():
        out[f"{name}/state{layer}"] = states


def record(teacher: VllmTextTeacher, path: Path, family: str) -> None:
    wanted = wanted_of(family)
    prompts = prompts_of(teacher)
    out: dict[str, np.ndarray] = {}
    traced = teacher.trace(prompts, SEEDS, SAMPLING, wanted)
    for row, many in enumerate(traced):
        out[f"prompt{row}"] = prompts[row]
        for index, (generated, signals) in enumerate(many):
            assert np.array_equal(generated.token_ids, signals.target_ids)
            save_signals(out, f"trace{row}.{index}", signals)
    # Given traces of ragged lengths, one of them a single token.
    targets = [traced[row][0][0].token_ids[: 1 + 6 * row] for row in range(len(prompts))]
    for row, signals in enumerate(teacher.score(prompts, targets, SEEDS, wanted)):
        save_signals(out, f"score{row}", signals)
    # The same seeds, in another order and alone.
    backwards = teacher.generate(prompts[::-1], SEEDS[::-1], SAMPLING)[::-1]
    (alone,) = teacher.generate(prompts[2:3], SEEDS[2:3], SAMPLING)
    out["same_backwards"] = np.array(
        [
            np.array_equal(ours.token_ids, theirs.token_ids)
            for many, other in zip(traced, backwards, strict=True)
            for (ours, _), theirs in zip(many, other, strict=True)
        ]
    )
    out["same_alone"] = np.array(
        [
            np.array_equal(ours.token_ids, theirs.token_ids)
            for (ours, _), theirs in zip(traced[2], alone, strict=True)
        ]
    )
    np.savez(path, **out)


def refusals(folder: Path) -> list[str]:
    """Engine settings that are not there, or not the user's."""
    said = []
    for name in ("quantisation", "enable_prefix_caching"):
        try:
            VllmTextTeacher(TextualRecipe(teacher=str(folder / "qwen3"), vllm={name: True}), 0)
        except UsageError as error:
            said.append(str(error))
    return said


class InPlace(torch.nn.Module):
    """A block as vLLM's are on a GPU: it returns what is to be added, and adds in place."""

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        residual = hidden_states if residual is None else residual.add_(hidden_states)
        half = residual * 0.5
        residual.add_(half)
        return half + 1.0, residual


class Decoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([InPlace(), InPlace()])
        self.norm = torch.nn.LayerNorm(4)


@torch.inference_mode()
def taps_hold() -> None:
    """States taken by hooks survive what blocks do to them; a row of NaN condemns nothing."""
    decoder = Decoder()
    taps = Taps(decoder, [0, 1, 2], 2)
    embedded = torch.arange(12.0).reshape(3, 4)
    embedded[1] = torch.nan
    expected, hidden, residual = [embedded.clone()], embedded, None
    for block in decoder.layers:
        hidden, residual = block(torch.arange(3), hidden, residual)
        expected.append(hidden + residual)
    states = taps.states(None)
    for layer, values in enumerate(expected):
        torch.testing.assert_close(states[layer], values, equal_nan=True)
    rows = torch.arange(3)
    assert taps.problem(states, decoder.norm(expected[-1]), rows) == ""
    assert taps.problem(states, decoder.norm(expected[-1]), rows[1:2]) is None
    assert "cannot be trusted" in taps.problem(states, decoder.norm(expected[1]) * 2, rows)


def record_alone(folder: Path) -> None:
    """One process, every case; then nothing but log-probabilities."""
    taps_hold()
    (folder / "refusals.txt").write_text("\n".join(refusals(folder)), encoding="utf-8")
    # As little as one longest prompt a step: some prompts are read while others are continued.
    vllm_options.PREFILL_TOKENS = 1
    order = sorted(CASES, key=lambda case: case == COMPILED)
    for family, dtype in order:
        if (family, dtype) == COMPILED:
            vllm_options.compile_options = lambda on_cpu: {}
        recipe = TextualRecipe(teacher=str(folder / family), dtype=dtype)
        teacher = VllmTextTeacher(recipe, 0)
        record(teacher, folder / f"{family}-{dtype}.npz", family)
        if (family, dtype) == order[0]:
            ((generated, signals),) = teacher.trace(
                prompts_of(teacher)[:1], SEEDS[:1], Sampling(max_new_tokens=4), Wanted(top_k=0)
            )[0]
            assert len(generated.token_ids) == len(signals.target_logprobs)
            assert (signals.topk, signals.lens, signals.drawn_ids) == (None, None, None)
            assert signals.states == {}
        teacher.close()


def record_on_ranks(folder: Path) -> None:
    """Two ranks; then their engine is killed, which has a name."""
    family, dtype = RANKS
    settings = {"tensor_parallel_size": 2}
    recipe = TextualRecipe(teacher=str(folder / family), dtype=dtype, vllm=settings)
    teacher = VllmTextTeacher(recipe, 0)
    record(teacher, folder / f"{family}-{dtype}-ranks.npz", family)
    for child in active_children():
        os.kill(child.pid, signal.SIGKILL)
    try:
        teacher.trace(prompts_of(teacher), SEEDS, SAMPLING, wanted_of(family))
    except EngineDiedError as error:
        (folder / "death.txt").write_text(str(error), encoding="utf-8")
    teacher.close()


if __name__ == "__main__":
    (record_on_ranks if "ranks" in sys.argv else record_alone)(Path(sys.argv[1]))
