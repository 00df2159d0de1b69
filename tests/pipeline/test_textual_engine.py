"""The textual step on a real model under transformers, its values against a plain forward pass.

Tolerance: float32, the same kernels on a padded batch of one; seen equal within 1e-5.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cache_schema import Tape, TapeRow, open_tape
from cache_schema.types import Lens, Sampled, TopK
from pipeline.extract import run_step
from pipeline.recipe import DatasetRecipe, ExtractRecipe, TapeRecipe, TextualRecipe

NUM_LAYERS = 3


def recipe_of(dataset: Path, teacher: Path, out: Path, **textual: Any) -> ExtractRecipe:
    return ExtractRecipe(
        dataset=DatasetRecipe(path=str(dataset), limit=4),
        textual=TextualRecipe(
            teacher=str(teacher), engine="transformers", top_k=5,
            layers="top", lens="1,3", lens_top_k=3, draws=7, prompt="plain.v1", **textual,
        ),
        tape=TapeRecipe(out=str(out), states_dtype="float32"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def described(dataset: Path, text_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("described") / "tape"
    for step in ("ingest", "textualize"):
        run_step(step, recipe_of(dataset, text_teacher, out))
    return out


@torch.no_grad()
def check_trace(row: TapeRow, index: int, model: Any) -> None:
    """Compare one trace's signals with a forward pass over prompt and trace."""
    trace = row.traces[index]
    ids = torch.from_numpy(np.concatenate([trace.prompt_token_ids, trace.token_ids]))[None]
    logits = model(ids).logits[0, len(trace.prompt_token_ids) - 1 : -1]
    logprobs = logits.log_softmax(-1).numpy()
    targets = logprobs[np.arange(len(trace.token_ids)), trace.token_ids]
    assert trace.logprob == pytest.approx(targets.sum(), abs=1e-4)
    topk, lens = row.signal("textual/topk", index), row.signal("textual/lens", index)
    assert isinstance(topk, TopK)
    assert isinstance(lens, Lens)
    np.testing.assert_array_equal(topk.target_ids, trace.token_ids)
    np.testing.assert_allclose(topk.logprobs, -np.sort(-logprobs, axis=1)[:, :5], atol=1e-4)
    np.testing.assert_allclose(lens.logprobs[:, 1], topk.logprobs[:, :3], atol=1e-4)
    drawn = row.signal("textual/sampled", index)
    assert isinstance(drawn, Sampled)
    np.testing.assert_array_equal(
        np.add.reduceat(drawn.counts, drawn.offsets[:-1]), np.full(len(trace.token_ids), 7)
    )


def run(recipe: ExtractRecipe, described: Path) -> Tape:
    shutil.copytree(described, recipe.tape.out)
    run_step("textual", recipe)
    return open_tape(recipe.tape.out)


def test_free_traces_and_told_ones(
    dataset: Path, text_teacher: Path, described: Path, tmp_path: Path
) -> None:
    """A random model is never right: each sample is asked again with the answer told."""
    model = AutoModelForCausalLM.from_pretrained(text_teacher).eval()
    tokenizer = AutoTokenizer.from_pretrained(text_teacher)
    recipe = recipe_of(
        dataset,
        text_teacher,
        tmp_path / "tape",
        traces=2,
        temperature=1.5,
        max_new_tokens=6,
        rationales="wrong",
    )
    tape = run(recipe, described)
    assert tape.signals == (
        "textual/hidden", "textual/lens", "textual/sampled", "textual/topk", "textual/trace",
    )  # fmt: skip
    for row in tape:
        assert [(trace.origin, trace.draw) for trace in row.traces] == [
            (origin, draw) for origin in ("free", "label") for draw in range(2)
        ]
        for index, trace in enumerate(row.traces):
            told = "The right answer is: yes" in tokenizer.decode(trace.prompt_token_ids)
            assert told is (trace.origin == "label")
            assert tokenizer.decode(trace.token_ids, skip_special_tokens=True) == trace.text
            check_trace(row, index, model)


def test_a_finished_step_loads_no_weights(
    dataset: Path, text_teacher: Path, described: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    recipe = recipe_of(
        dataset, text_teacher, tmp_path / "tape", max_new_tokens=2, chat=str(template)
    )
    run(recipe, described)

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    # The same template by another name is the same template.
    renamed = template.rename(tmp_path / "renamed.jinja")
    run_step("textual", replace(recipe, textual=replace(recipe.textual, chat=str(renamed))))
    assert "textual: every described sample is recorded" in capsys.readouterr().err


def test_given_traces_are_read(
    dataset: Path, text_teacher: Path, described: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(text_teacher).eval()
    recipe = recipe_of(dataset, text_teacher, tmp_path / "tape", given="transcript")
    tape = run(recipe, described)
    for row in tape:
        (trace,) = row.traces
        assert trace.text == row.metadata["transcript"]
        assert (trace.origin, trace.finish_reason, trace.correct) == ("given", "stop", False)
        assert trace.token_ids[-1] == model.generation_config.eos_token_id
        check_trace(row, 0, model)
