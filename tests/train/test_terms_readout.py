"""The student's own logits and its lens, whatever its class does to logits."""

from __future__ import annotations

import pytest
import tiny_audio_families
import torch
from family_requests import plain, requests_for
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from audio_models.forward import forward_with_states, unembed
from audio_models.inputs import build_inputs
from audio_models.load import AudioLM, load_audio_lm
from train.readout import lens_inputs, output_head


@pytest.fixture(scope="module", params=sorted(tiny_audio_families.SAVE))
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AudioLM:
    path = tiny_audio_families.SAVE[request.param](tmp_path_factory.mktemp(request.param))
    return load_audio_lm(str(path), "float32", "cpu")


def test_logits_of_readouts_are_the_classs_own(lm: AudioLM) -> None:
    batch = build_inputs(lm, requests_for(lm))
    with torch.no_grad():
        output = forward_with_states(
            lm.model, batch.inputs, [2], batch.predict_positions, unembed_now=False
        )
        head = output_head(lm.model)(True)
        found = head.read(output.readout_ND)
        states = [
            row[where] for row, where in zip(output.states[2], batch.predict_positions, strict=True)
        ]
        by_lens = head.read(lens_inputs(lm.model, torch.cat(states), trained=True))
    own = plain(lm, batch).logits
    rows = [row[where] for row, where in zip(own, batch.predict_positions, strict=True)]
    torch.testing.assert_close(found, torch.cat(rows), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_lens, torch.cat(rows), rtol=1e-5, atol=1e-5)


TINY = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip


def test_a_scale_behind_the_unembedding_is_kept() -> None:
    model = GraniteForCausalLM(GraniteConfig(**TINY, logits_scaling=8.0, pad_token_id=0))
    states = torch.randn(3, 16)
    torch.testing.assert_close(output_head(model)(True).read(states), unembed(model, states) / 8)


def test_a_soft_cap_behind_the_unembedding_is_kept() -> None:
    model = Gemma2ForCausalLM(Gemma2Config(**TINY, final_logit_softcapping=0.5))
    states = torch.randn(3, 16, requires_grad=True)
    expected = 0.5 * torch.tanh(unembed(model, states) / 0.5)
    found = output_head(model)(True).read(states)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(each.sum(), states)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients)
