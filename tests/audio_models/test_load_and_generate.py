from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_audio_lm
import torch

from audio_models import processors
from audio_models.generate import generate
from audio_models.inputs import Request, build_inputs
from audio_models.load import AudioLM, load_audio_lm
from cache_schema.errors import ModelError, UsageError


def test_facts_of_a_loaded_model(omni: AudioLM) -> None:
    assert (omni.num_layers, omni.width, omni.vocab_size) == (2, 32, 270)
    assert (omni.sample_rate_hz, omni.max_audio_s) == (16_000, 300.0)
    assert omni.family.name == "Qwen2.5-Omni"


def test_a_composite_checkpoint_gives_its_thinker(
    omni: AudioLM, omni_dir: Path, tmp_path: Path
) -> None:
    composite = tiny_audio_lm.save_composite_omni(omni_dir, tmp_path / "composite")
    thinker = load_audio_lm(str(composite), "float32", "cpu")
    for name, parameter in omni.model.named_parameters():
        assert torch.equal(parameter, thinker.model.get_parameter(name)), name


def without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    def needs_torchvision(model: str) -> None:
        raise ImportError("Qwen2VLVideoProcessor requires the Torchvision library")

    monkeypatch.setattr(processors.transformers.AutoProcessor, "from_pretrained", needs_torchvision)
    monkeypatch.setattr(processors, "is_torchvision_available", lambda: False)


def test_a_processor_that_wants_torchvision_falls_back_with_a_word(
    omni: AudioLM,
    omni_dir: Path,
    tones: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    without_torchvision(monkeypatch)
    fallen = load_audio_lm(str(omni_dir), "float32", "cpu")
    assert "torchvision is not installed" in caplog.text
    request = [Request(audio=tones[0], text="?")]
    ours, theirs = build_inputs(fallen, request), build_inputs(omni, request)
    assert ours.inputs.keys() == theirs.inputs.keys()
    for key, value in ours.inputs.items():
        assert torch.equal(value, theirs.inputs[key])


def test_models_that_cannot_serve_are_named(tmp_path: Path, omni_dir: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_audio_lm(str(tmp_path / "absent"), "float32", "cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_audio_lm(str(tmp_path / "empty"), "float32", "cpu")
    with pytest.raises(UsageError, match="dtype"):
        load_audio_lm(str(omni_dir), "int3", "cpu")


def test_a_text_model_is_not_an_audio_model(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=270, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    tiny_audio_lm.build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="audio"):
        load_audio_lm(str(tmp_path), "float32", "cpu")


def test_a_missing_chat_template_is_named(
    omni_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for item in omni_dir.iterdir():
        if item.name != "chat_template.jinja":
            (tmp_path / item.name).write_bytes(item.read_bytes())
    without_torchvision(monkeypatch)
    with pytest.raises(ModelError, match="chat template"):
        load_audio_lm(str(tmp_path), "float32", "cpu")


def test_answers_do_not_depend_on_the_batch(lm: AudioLM, tones: list[np.ndarray]) -> None:
    requests = [
        Request(audio=audio, text=text)
        for audio, text in zip(tones, ["How many?", "Which one of these?", "?"], strict=True)
    ]
    together = generate(lm, requests, max_new_tokens=8, batch_size=3)
    alone = [generate(lm, [request], max_new_tokens=8, batch_size=1)[0] for request in requests]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
        assert one.text == other.text
        assert one.finish_reason in ("stop", "length")


def test_generation_agrees_with_teacher_forcing(lm: AudioLM, tones: list[np.ndarray]) -> None:
    request = Request(audio=tones[1], text="How many?")
    (answer,) = generate(lm, [request], max_new_tokens=6, batch_size=1)
    forced = Request(audio=tones[1], text="How many?", response_ids=answer.token_ids)
    batch = build_inputs(lm, [forced])
    with torch.no_grad():
        logits_TV = lm.model(**batch.inputs).logits[0, batch.predict_positions[0]]
    np.testing.assert_array_equal(logits_TV.argmax(-1).numpy(), answer.token_ids)
