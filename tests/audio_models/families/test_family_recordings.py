"""What families make of recordings: tokens, their seconds, windows, what is too short or long."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_audio_families
import torch
from family_requests import one_request, requests_for, tone

from audio_models.forward import forward_with_states
from audio_models.generate import generate
from audio_models.inputs import Request, build_inputs
from audio_models.load import AudioLM, load_audio_lm
from cache_schema.errors import AudioError


def tokens_of(family: str, num_samples: int) -> int:
    """Return the audio tokens of a recording, written down apart from the table of families."""
    frames = -(-num_samples // 160)
    if family == "Audio Flamingo 3":
        return ((frames + 1) // 2 - 2) // 2 + 1
    if family == "GLM-ASR":
        return (frames + 1) // 2 // 4
    if family == "Phi-4-multimodal":
        return -(-((num_samples - 400) // 160 + 1) // 8)
    if family == "Voxtral":
        return -(-num_samples // 1280)
    if family == "Qwen3-Omni":
        return frames // 100 * 13 + -(-(frames % 100) // 8)
    if family == "Granite Speech":
        return -(-((num_samples // 160 + 1) // 2) // 15) * 3
    raise KeyError(f"say here how many audio tokens {family} has")


def test_every_placeholder_has_its_feature(lm: AudioLM) -> None:
    requests = requests_for(lm)
    batch = build_inputs(lm, requests)
    for ids, positions, times, request in zip(
        batch.inputs["input_ids"],
        batch.audio_positions,
        batch.audio_times_s,
        requests,
        strict=True,
    ):
        count = tokens_of(lm.family.name, len(request.audio))
        assert len(positions) == count
        placeholders = 375 * -(-len(request.audio) // 480_000) if lm.family.chat_ids else count
        assert placeholders == int((ids == lm.audio_token_id).sum())
        assert torch.equal(positions, torch.arange(count) + positions[0])
        assert times.shape == (count, 2)
        assert times[0, 0] == 0.0
        assert times[-1, 1] == pytest.approx(len(request.audio) / 16_000, abs=0.02)
        assert (np.diff(times) >= 0).all()
        np.testing.assert_array_equal(times[1:, 0], times[:-1, 1])


def test_a_recording_is_heard_to_its_end_or_refused(lm: AudioLM) -> None:
    """A change in the last tenth of a second of the longest recording moves the last states."""
    longest_s = min(lm.max_audio_s, 10.0)
    request = one_request(lm, longest_s)
    other = request.audio.copy()
    other[-1600:] = 0.0
    changed = Request(audio=other, text=request.text, response_ids=request.response_ids)
    batch, quiet = build_inputs(lm, [request]), build_inputs(lm, [changed])
    assert len(batch.audio_positions[0]) == tokens_of(lm.family.name, len(request.audio))
    with torch.no_grad():
        states = [
            forward_with_states(lm.model, b.inputs, [0], b.predict_positions).states[0]
            for b in (batch, quiet)
        ]
    last = batch.audio_positions[0][-1]
    assert not torch.allclose(states[0][0, last], states[1][0, last], atol=1e-3)
    if lm.max_audio_s < float("inf"):
        too_long = Request(audio=tone(longest_s + 0.01, 300.0), text="?")
        with pytest.raises(AudioError, match=rf"hears {longest_s:g} s"):
            build_inputs(lm, [too_long])


def test_an_empty_question_is_the_recording_alone(lm: AudioLM) -> None:
    audio = tone(1.37, 300.0)
    asked, empty = (build_inputs(lm, [Request(audio=audio, text=text)]) for text in ("Which?", ""))
    for key, value in asked.inputs.items():
        if key not in ("input_ids", "attention_mask"):
            torch.testing.assert_close(value, empty.inputs[key], atol=0, rtol=0, equal_nan=True)
    assert torch.equal(asked.audio_positions[0], empty.audio_positions[0])
    np.testing.assert_array_equal(asked.audio_times_s[0], empty.audio_times_s[0])
    ids = empty.inputs["input_ids"][0].tolist()
    question = lm.tokenizer("Which?", add_special_tokens=False)["input_ids"]
    behind = asked.inputs["input_ids"][0].tolist()
    for start in range(len(behind)):
        if behind[start : start + len(question)] == question:
            del behind[start : start + len(question)]
            break
    assert ids == behind
    (answer,) = generate(lm, [Request(audio=audio, text="")], max_new_tokens=2, batch_size=1)
    assert len(answer.token_ids) >= 1


def test_windows_are_the_whole_ones_the_processor_takes(lm: AudioLM) -> None:
    expected = {"Audio Flamingo 3": 8.0, "GLM-ASR": 8.0, "Qwen3-Omni": 10.0}
    name = lm.family.name
    assert lm.max_audio_s == expected.get(name, float("inf")), f"say here what {name} hears"


@pytest.mark.parametrize("samples", [1, 160, 300])
def test_a_recording_too_short_is_named(lm: AudioLM, samples: int) -> None:
    request = Request(audio=tone(1.0, 300.0)[:samples], text="?")
    if tokens_of(lm.family.name, samples) >= 1 and lm.family.min_audio_s == 0:
        assert len(build_inputs(lm, [request]).audio_positions[0]) >= 1
        return
    with pytest.raises(AudioError, match="too short"):
        build_inputs(lm, [request])


def test_qwen3_omni_tokens_have_the_seconds_of_their_frames(tmp_path: Path) -> None:
    """13 tokens a second: twelve of 80 ms and one of 40 ms."""
    lm = load_audio_lm(str(tiny_audio_families.save_qwen3_omni(tmp_path)), "float32", "cpu")
    batch = build_inputs(lm, [one_request(lm, 1.5)])
    (times_s,) = batch.audio_times_s
    assert len(times_s) == len(batch.audio_positions[0]) == 13 + 7
    expected = [*np.arange(13) * 0.08, *(1 + np.arange(7) * 0.08)]
    np.testing.assert_allclose(times_s[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(times_s[:, 1], [*expected[1:], 1.5], atol=1e-6)


def test_no_position_ends_behind_the_recording(lm: AudioLM) -> None:
    """The last feature frame of 1.0625 s ends at 1.07 s."""
    for samples in (1000, 17_000, 17_040):
        if tokens_of(lm.family.name, samples) < 1:
            continue
        request = Request(audio=tone(2.0, 300.0)[:samples], text="?")
        (times_s,) = build_inputs(lm, [request]).audio_times_s
        assert times_s.max() <= np.float32(samples / 16_000)
        assert times_s[-1, 1] > np.float32(samples / 16_000) - 0.1
        assert (times_s[:, 1] >= times_s[:, 0]).all()  # Granite's last stand for silence
