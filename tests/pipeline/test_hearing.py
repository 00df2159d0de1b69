"""The acoustic step with an audio language model: every signal, against a plain pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_audio_families
import torch
from family_requests import plain
from hearing_recipes import ROWS, contents, recipe_for
from sound_tape import uncounted
from tiny_audio_lm import save_omni

from audio_models.decoder import find_decoder, logits_of
from audio_models.inputs import Request, build_inputs
from audio_models.load import AudioLM, load_audio_lm
from cache_schema import TapeRow, open_tape
from cache_schema.answers.questions import question_text
from cache_schema.errors import ProvenanceError, QuarantineError, UsageError
from cache_schema.validate.tape import validate
from pipeline.acoustic_recipe import AcousticRecipe
from pipeline.extract import run_step
from pipeline.hearing import language_model
from pipeline.recipe import ExtractRecipe
from pipeline.step import seed_of
from pipeline.teachers.readout import draw_tokens, uniforms

ATOL = 2e-4
"""Of float32 states of order 1 and log-probabilities, a row alone against a batch."""


class Plainly:
    """A row through transformers' own forward pass, alone."""

    def __init__(self, lm: AudioLM, row: TapeRow) -> None:
        ids = lm.tokenizer(row.answer, add_special_tokens=False)["input_ids"]
        self.ids = np.asarray([*ids, lm.tokenizer.eos_token_id])
        text = question_text(row.question, row.choices)
        self.batch = build_inputs(lm, [Request(audio=row.audio, text=text, response_ids=self.ids)])
        self._model = lm.model
        decoder = find_decoder(lm.model.get_decoder(), lm.num_layers)
        last: list[torch.Tensor] = []
        handle = decoder.blocks[-1].register_forward_hook(
            lambda _m, _a, out: last.append(out[0] if isinstance(out, tuple) else out)
        )
        output = plain(lm, self.batch)
        handle.remove()
        self.states = [*output.hidden_states[:-1], last[0]]
        self.logits = output.logits[0][self.batch.predict_positions[0]]
        self._norm = decoder.norm

    def at(self, positions: torch.Tensor, layers: Sequence[int]) -> np.ndarray:
        return np.stack([self.states[n][0, positions].numpy() for n in layers], axis=1)

    def lens(self, layer: int) -> torch.Tensor:
        states = self.states[layer][0, self.batch.predict_positions[0]]
        with torch.no_grad():
            return logits_of(self._model, self._norm(states))


def assert_entries(logits: torch.Tensor, ids: np.ndarray, logprobs: np.ndarray, tail: np.ndarray):
    reference = logits.double().log_softmax(-1)
    k = ids.shape[-1]
    np.testing.assert_allclose(logprobs, reference.topk(k).values.numpy(), atol=ATOL)
    np.testing.assert_allclose(
        logprobs, reference.gather(-1, torch.from_numpy(ids)).numpy(), atol=ATOL
    )
    outside = reference.scatter(-1, torch.from_numpy(ids), -torch.inf).exp().sum(-1)
    np.testing.assert_allclose(tail, outside.numpy(), atol=ATOL)


SAVE = {"omni": save_omni} | {
    name: tiny_audio_families.SAVE[name] for name in ("flamingo", "granite", "qwen3_omni")
}


@pytest.fixture(scope="module", params=sorted(SAVE))
def recorded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ExtractRecipe, AudioLM]:
    teacher = SAVE[request.param](tmp_path_factory.mktemp("teacher"))
    recipe = recipe_for(
        tmp_path_factory.mktemp("run"),
        teacher,
        layers="0,1,2",
        states_at="both",
        top_k=8,
        lens="0,2",
        lens_top_k=5,
        draws=12,
        batch_size=3,
    )
    run_step("acoustic", recipe)
    return recipe, load_audio_lm(str(teacher), "float32", "cpu")


def test_every_signal_equals_a_plain_pass(recorded: tuple[ExtractRecipe, AudioLM]) -> None:
    recipe, lm = recorded
    tape = open_tape(recipe.tape.out)
    assert validate(recipe.tape.out, uncounted, deep=True).problems == []
    assert len(tape.recorded("acoustic")) == ROWS
    for row in tape:
        alone = Plainly(lm, row)
        hidden = row["acoustic/hidden"]
        assert (hidden.kind, hidden.layers) == ("audio", (0, 1, 2))
        at_audio = alone.at(alone.batch.audio_positions[0], hidden.layers)
        np.testing.assert_allclose(hidden.states, at_audio, atol=ATOL)
        of_tokens = row.signal("acoustic/hidden", trace=0)
        assert of_tokens.kind == "token"
        np.testing.assert_array_equal(of_tokens.target_ids, alone.ids)
        at_tokens = alone.at(alone.batch.predict_positions[0], hidden.layers)
        np.testing.assert_allclose(of_tokens.states, at_tokens, atol=ATOL)
        topk = row["acoustic/topk"]
        assert_entries(alone.logits, topk.token_ids, topk.logprobs, topk.tail)
        lens = row["acoustic/lens"]
        assert lens.layers == (0, 2)
        for place, layer in enumerate(lens.layers):
            kept = (lens.token_ids[:, place], lens.logprobs[:, place], lens.tail[:, place])
            assert_entries(alone.lens(layer), *kept)
        # of the last layer the lens is the model's own distribution
        np.testing.assert_allclose(lens.logprobs[:, 1], topk.logprobs[:, :5], atol=ATOL)
        drawn = row["acoustic/sampled"]
        numbers = torch.from_numpy(uniforms(seed_of(7, f"{row.sample_id}/0"), 0, len(alone.ids)))
        expected = draw_tokens(alone.logits, numbers, 12)
        found = np.repeat(drawn.token_ids, drawn.counts).reshape(len(alone.ids), 12)
        assert (found == expected.numpy()).mean() > 0.99  # a draw may fall on a rounded edge


def test_another_seed_is_another_maker(recorded: tuple[ExtractRecipe, AudioLM]) -> None:
    recipe, _ = recorded
    other = ExtractRecipe(**{**vars(recipe), "seed": 8})
    with pytest.raises(ProvenanceError, match=r"seed: tape 7, now 8"):
        run_step("acoustic", other)


def test_states_do_not_depend_on_the_batch(tmp_path: Path, acoustic_teacher: Path) -> None:
    found = []
    for size in (1, 4, 0):
        (tmp_path / str(size)).mkdir()
        recipe = recipe_for(tmp_path / str(size), acoustic_teacher, batch_size=size)
        run_step("acoustic", recipe)
        found.append(contents(open_tape(recipe.tape.out)))
    for other in found[1:]:
        for name, states in found[0].items():
            np.testing.assert_allclose(other[name], states, atol=ATOL)


def test_states_of_the_response_alone(tmp_path: Path, acoustic_teacher: Path) -> None:
    recipe = recipe_for(tmp_path, acoustic_teacher, states_at="response", top_k=0)
    run_step("acoustic", recipe)
    tape = open_tape(recipe.tape.out)
    assert tape.signals == ("acoustic/hidden",)
    assert {row["acoustic/hidden"].kind for row in tape} == {"token"}


def test_a_setting_of_frames_is_refused(tmp_path: Path, acoustic_teacher: Path) -> None:
    recipe = recipe_for(tmp_path, acoustic_teacher, chunk_s=10.0)
    with pytest.raises(UsageError, match=r"acoustic\.chunk_s=10\.0: .* an audio language model"):
        run_step("acoustic", recipe)


def test_draws_of_no_distribution_are_no_record(
    tmp_path: Path, acoustic_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"top_k": 0, "draws": 4, "layers": "none"}
    recipe = recipe_for(tmp_path, acoustic_teacher, **settings)
    load = language_model.load_audio_lm

    def with_a_hole(*arguments: Any) -> AudioLM:
        lm = load(*arguments)
        with torch.no_grad():
            lm.model.get_output_embeddings().weight[3] = torch.nan
        return lm

    monkeypatch.setattr(language_model, "load_audio_lm", with_a_hole)
    with pytest.raises(QuarantineError, match="signals"):
        run_step("acoustic", recipe)
    assert open_tape(recipe.tape.out).recorded("acoustic") == set()


@pytest.mark.parametrize("name", ["samples", "textual", "heard_x", "Whisper", ""])
def test_names_that_are_the_tapes_own(name: str) -> None:
    with pytest.raises(UsageError, match=r"acoustic\.name"):
        AcousticRecipe(name=name)
