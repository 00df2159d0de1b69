from __future__ import annotations

import numpy as np
import pytest
import torch

from audio_models.forward import forward_with_states, unembed
from audio_models.inputs import Request, build_inputs
from audio_models.load import AudioLM
from audio_models.prompt import render_prompt
from audio_models.waveforms import audio_position_times_s
from cache_schema.errors import AudioError, TokenizerMismatchError

# float32; a padded batch reorders the sums of attention and of matrix products
ATOL = 2e-5


def requests_for(lm: AudioLM, tones: list[np.ndarray]) -> list[Request]:
    texts = ["How many?", "Which of them is it?", "Is it even?"]
    answers = ["three", "no, odd", "yes"]
    return [
        Request(
            audio=audio,
            text=text,
            response_ids=np.asarray(lm.tokenizer(answer)["input_ids"], dtype=np.int64),
        )
        for audio, text, answer in zip(tones, texts, answers, strict=True)
    ]


def run(lm: AudioLM, requests: list[Request], layers: list[int], side: str = "right"):
    batch = build_inputs(lm, requests, padding_side=side)
    with torch.no_grad():
        return batch, forward_with_states(lm.model, batch.inputs, layers, batch.predict_positions)


@pytest.mark.parametrize("side", ["right", "left"])
def test_batched_rows_equal_single_rows(lm: AudioLM, tones: list[np.ndarray], side: str) -> None:
    requests = requests_for(lm, tones)
    batch, output = run(lm, requests, [0, 1, 2], side)
    logits = torch.split(output.logits_NV, [len(p) for p in batch.predict_positions])
    for index, request in enumerate(requests):
        alone, expected = run(lm, [request], [0, 1, 2])
        torch.testing.assert_close(logits[index], expected.logits_NV, atol=ATOL, rtol=1e-4)
        for layer in (0, 1, 2):
            ours = output.states[layer][index, batch.audio_positions[index]]
            theirs = expected.states[layer][0, alone.audio_positions[0]]
            torch.testing.assert_close(ours, theirs, atol=ATOL, rtol=1e-4)


def test_states_equal_a_plain_forward_and_the_last_is_before_the_norm(
    lm: AudioLM, tones: list[np.ndarray]
) -> None:
    batch, output = run(lm, requests_for(lm, tones), [0, 1, 2])
    with torch.no_grad():
        plain = lm.model(**batch.inputs, output_hidden_states=True)
    torch.testing.assert_close(output.states[0], plain.hidden_states[0], atol=0, rtol=0)
    torch.testing.assert_close(output.states[1], plain.hidden_states[1], atol=0, rtol=0)
    normed = lm.model.get_decoder().norm(output.states[2])
    torch.testing.assert_close(normed, plain.hidden_states[2], atol=0, rtol=0)
    assert not torch.allclose(output.states[2], plain.hidden_states[2], atol=1e-2)


def test_logits_are_those_that_predict_each_response_token(
    lm: AudioLM, tones: list[np.ndarray]
) -> None:
    requests = requests_for(lm, tones)
    batch, output = run(lm, requests, [])
    with torch.no_grad():
        full_BTV = lm.model(**batch.inputs).logits
    start = 0
    for index, request in enumerate(requests):
        columns = batch.predict_positions[index]
        np.testing.assert_array_equal(
            batch.inputs["input_ids"][index, columns + 1], request.response_ids
        )
        got = output.logits_NV[start : start + len(columns)]
        # fewer rows in the matrix product: another order of sums
        torch.testing.assert_close(got, full_BTV[index, columns], atol=ATOL, rtol=1e-4)
        start += len(columns)


def test_unembedding_later_gives_the_same_logits_and_no_vocabulary_tensor_before(
    lm: AudioLM, tones: list[np.ndarray]
) -> None:
    batch = build_inputs(lm, requests_for(lm, tones))
    with torch.no_grad():
        now = forward_with_states(lm.model, batch.inputs, [], batch.predict_positions)
        later = forward_with_states(
            lm.model, batch.inputs, [], batch.predict_positions, unembed_now=False
        )
        torch.testing.assert_close(unembed(lm.model, later.readout_ND), now.logits_NV)
    assert later.logits_NV.shape[0] == 0


def test_gradients_reach_tower_projector_and_language_model(
    lm: AudioLM, tones: list[np.ndarray]
) -> None:
    batch = build_inputs(lm, requests_for(lm, tones))
    output = forward_with_states(lm.model, batch.inputs, [1], batch.predict_positions)
    loss = output.logits_NV.square().mean() + output.states[1].square().mean()
    loss.backward()
    for prefixes in lm.family.parts.values():
        grads = [
            p.grad.abs().sum()
            for name, p in lm.model.named_parameters()
            if name.startswith(prefixes) and p.grad is not None
        ]
        assert sum(grads) > 0, prefixes
    lm.model.zero_grad()


def test_placeholders_stand_where_the_prompt_has_its_audio(
    lm: AudioLM, tones: list[np.ndarray]
) -> None:
    batch = build_inputs(lm, requests_for(lm, tones))
    for ids, positions, audio in zip(
        batch.inputs["input_ids"], batch.audio_positions, tones, strict=True
    ):
        frames = -(-len(audio) // 160)
        assert len(positions) == ((frames - 1) // 2 + 1 - 2) // 2 + 1
        assert (ids == lm.audio_token_id).sum() == len(positions)
        assert torch.equal(positions, torch.arange(len(positions)) + positions[0])
        assert lm.tokenizer.decode(ids[positions[0] - 1]) == "<|audio_bos|>"


def test_positions_carry_their_seconds(omni: AudioLM, tones: list[np.ndarray]) -> None:
    batch = build_inputs(omni, requests_for(omni, tones))
    for times, audio, positions in zip(
        batch.audio_times_s, tones, batch.audio_positions, strict=True
    ):
        assert times.shape == (len(positions), 2)
        assert times[0, 0] == 0.0
        assert times[-1, 1] == pytest.approx(-(-len(audio) // 160) / 100)
        np.testing.assert_array_equal(times[1:, 0], times[:-1, 1])
    np.testing.assert_allclose(audio_position_times_s(1.0, 2), [[0.0, 0.5], [0.5, 1.0]])


def test_short_features_equal_those_of_the_full_window(
    omni: AudioLM, tones: list[np.ndarray]
) -> None:
    batch = build_inputs(omni, requests_for(omni, tones))
    prompts = [render_prompt(omni, "x")] * len(tones)
    full = omni.processor(
        text=prompts, audio=tones, return_tensors="pt", padding=True,
        audio_kwargs={"sampling_rate": 16_000},
    )  # fmt: skip
    longest = batch.inputs["input_features"].shape[-1]
    assert full["input_features"].shape[-1] == 30_000
    assert longest == max(-(-len(audio) // 160) for audio in tones)
    for index, frames in enumerate(full["feature_attention_mask"].sum(-1)):
        ours = batch.inputs["input_features"][index, :, :frames]
        torch.testing.assert_close(ours, full["input_features"][index, :, :frames])


def test_audio_beyond_the_window_is_refused(qwen_audio: AudioLM) -> None:
    with pytest.raises(AudioError, match=r"^5 s of audio.*hears 4 s"):
        build_inputs(qwen_audio, [Request(audio=np.zeros(80_000, np.float32), text="?")])


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros(0, np.float32), "mono"),
        (np.zeros((2, 8000), np.float32), "mono"),
        (np.full(8000, np.nan, np.float32), "NaN"),
        (np.zeros(100, np.float32), "too short"),
    ],
)
def test_unusable_audio_is_named(omni: AudioLM, audio: np.ndarray, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        build_inputs(omni, [Request(audio=audio, text="?")])


def test_a_response_holding_the_placeholder_is_refused(
    omni: AudioLM, tones: list[np.ndarray]
) -> None:
    response = np.asarray([1, omni.audio_token_id])
    with pytest.raises(AudioError, match="its response holds the audio placeholder"):
        build_inputs(omni, [Request(audio=tones[0], text="?", response_ids=response)])


def test_a_response_in_another_tokenizer_is_refused(omni: AudioLM, tones: list[np.ndarray]) -> None:
    with pytest.raises(TokenizerMismatchError, match="token id 270"):
        build_inputs(omni, [Request(audio=tones[0], text="?", response_ids=np.asarray([1, 270]))])


def test_a_question_holding_the_placeholder_is_refused(
    omni: AudioLM, tones: list[np.ndarray]
) -> None:
    with pytest.raises(AudioError, match="placeholder"):
        build_inputs(omni, [Request(audio=tones[0], text="say <|AUDIO|>")])
