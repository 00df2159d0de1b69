from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_audio_encoders as tiny
import tiny_audio_lm
import tiny_encoders
import torch
import transformers
from safetensors.torch import load_file, save_file

from audio_models.digest import model_digest
from audio_models.encoders.load import encoder_shape, is_audio_encoder, load_audio_encoder
from cache_schema.errors import ModelError, UsageError
from pipeline.teachers.describe_audio import describe_audio_encoder

LAYERS = range(tiny.NUM_LAYERS + 1)


@torch.inference_mode()
def states_of(path: Path, audio: np.ndarray) -> dict[int, torch.Tensor]:
    encoder = load_audio_encoder(str(path), "float32", "cpu")
    return dict(encoder.forward(encoder.build([audio]), LAYERS).states)


@pytest.mark.parametrize(
    ("family", "ending"),
    [
        ("wav2vec2", "ForCTC"),
        ("wav2vec2", "ForPreTraining"),
        ("hubert", "ForCTC"),
        ("wavlm", "ForCTC"),
        ("data2vec", "ForCTC"),
        ("unispeech", "ForPreTraining"),
        ("unispeech-sat", "ForPreTraining"),
        ("conformer", "ForPreTraining"),
        ("wav2vec2-bert", "ForCTC"),
    ],
)
def test_other_classes_give_their_encoder(tmp_path: Path, family: str, ending: str) -> None:
    path = tiny.save_encoder(tmp_path, family, ending)
    shape = encoder_shape(str(path))
    assert shape.embedding_width == len(shape.utterance_labels + shape.frame_labels) == 0
    (audio,) = tiny.recordings(0.7)
    found = states_of(path, audio)
    class_name = transformers.AutoConfig.from_pretrained(path).architectures[0]
    network = getattr(transformers, class_name).from_pretrained(path).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(path)
    inputs = extractor(audio, sampling_rate=16_000, return_tensors="pt")
    inputs.pop("attention_mask", None)
    base = getattr(network, network.base_model_prefix)
    with torch.inference_mode():
        expected = base(**inputs, output_hidden_states=True).hidden_states
    for layer in LAYERS[:-1]:
        num_frames = len(found[layer])
        torch.testing.assert_close(found[layer], expected[layer][0, :num_frames], rtol=0, atol=1e-5)


@pytest.mark.parametrize("ending", ["Model", "ForConditionalGeneration", "ForAudioClassification"])
def test_whisper_is_its_encoder_alone(tmp_path: Path, ending: str) -> None:
    path = tiny.save_encoder(tmp_path, "whisper", ending)
    encoder = load_audio_encoder(str(path), "float32", "cpu")
    assert not [name for name, _ in encoder.module.named_parameters() if "decoder" in name]
    weights = load_file(path / "model.safetensors")
    (saved,) = (value for name, value in weights.items() if name.endswith("encoder.conv1.weight"))
    (loaded,) = (
        value for name, value in encoder.module.named_parameters() if name.endswith("conv1.weight")
    )
    assert torch.equal(saved, loaded)


def test_weights_named_as_they_once_were(tmp_path: Path) -> None:
    """Checkpoints on the hub have the names that weight norm had before torch 2."""
    path = tiny.save_encoder(tmp_path, "wav2vec2", "ForCTC")
    (audio,) = tiny.recordings(0.7)
    before = states_of(path, audio)
    file = path / "model.safetensors"
    old = {}
    for name, value in load_file(file).items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        old[name.replace("parametrizations.weight.original1", "weight_v")] = value
    assert any("weight_g" in name for name in old)
    save_file(old, file, {"format": "pt"})
    after = states_of(path, audio)
    assert all(torch.equal(before[layer], after[layer]) for layer in LAYERS)


def test_a_weight_of_training_alone_may_be_missing(tmp_path: Path) -> None:
    path = tiny.save_encoder(tmp_path, "hubert")
    file = path / "model.safetensors"
    weights = load_file(file)
    del weights["masked_spec_embed"]
    save_file(weights, file, {"format": "pt"})
    load_audio_encoder(str(path), "float32", "cpu")
    del weights["encoder.layers.1.attention.k_proj.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelError, match="lack 1 weights"):
        load_audio_encoder(str(path), "float32", "cpu")


def test_what_is_an_acoustic_encoder(tmp_path: Path) -> None:
    assert is_audio_encoder(str(tiny.save_encoder(tmp_path / "w", "wav2vec2", "ForCTC")))
    assert is_audio_encoder(
        str(tiny.save_encoder(tmp_path / "x", "whisper", "ForConditionalGeneration"))
    )
    text = tiny_encoders.save_encoder(tmp_path / "t", "bert")
    assert not is_audio_encoder(str(text))
    assert not is_audio_encoder(str(tiny_audio_lm.save_qwen_audio(tmp_path / "l")))
    for use in (encoder_shape, load_audio_encoder):
        with pytest.raises(ModelError, match=r"\(bert\) is no acoustic encoder"):
            use(str(text))


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    for use in (is_audio_encoder, encoder_shape, load_audio_encoder):
        with pytest.raises(ModelError, match="does not exist"):
            use(str(tmp_path / "nothing"))


def test_no_feature_extractor(tmp_path: Path) -> None:
    path = tiny.save_encoder(tmp_path, "wavlm")
    (path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="preprocessor_config"):
        load_audio_encoder(str(path), "float32", "cpu")
    with pytest.raises(ModelError, match="preprocessor_config"):
        describe_audio_encoder(str(path))


def test_a_feature_extractor_of_another_model(tmp_path: Path) -> None:
    path = tiny.save_encoder(tmp_path, "whisper")
    transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=5).save_pretrained(path)
    with pytest.raises(ModelError, match=r"makes .* \(500, 16\), its encoder takes \(400, 16\)"):
        load_audio_encoder(str(path), "float32", "cpu")


def test_a_spectrogram_of_another_size(tmp_path: Path) -> None:
    path = tiny.save_encoder(tmp_path, "ast")
    transformers.ASTFeatureExtractor(num_mel_bins=32).save_pretrained(path)
    with pytest.raises(ModelError, match=r"makes .* \(1024, 32\), its encoder takes \(200, 32\)"):
        load_audio_encoder(str(path), "float32", "cpu")


def test_an_unknown_dtype(tmp_path: Path) -> None:
    path = tiny.save_encoder(tmp_path, "wavlm")
    with pytest.raises(UsageError, match="expected auto, float32"):
        load_audio_encoder(str(path), "int8", "cpu")


def test_a_recogniser_with_a_front_end_of_its_own_is_refused(tmp_path: Path) -> None:
    transformers.ParakeetCTCConfig().save_pretrained(tmp_path)
    assert is_audio_encoder(str(tmp_path))
    with pytest.raises(ModelError, match=r"\(parakeet_ctc\) cannot be used here: its encoder is"):
        encoder_shape(str(tmp_path))


def test_states_that_are_not_what_the_model_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.save_encoder(tmp_path, "wav2vec2")
    forward = transformers.Wav2Vec2Model.forward

    def other(self: Any, *args: Any, **settings: Any) -> Any:
        output = forward(self, *args, **settings)
        if output.hidden_states is not None:
            output.hidden_states = tuple(state + 1 for state in output.hidden_states)
        return output

    monkeypatch.setattr(transformers.Wav2Vec2Model, "forward", other)
    with pytest.raises(ModelError, match="this family cannot be read"):
        load_audio_encoder(str(path), "float32", "cpu")


def test_what_identifies_it(tmp_path: Path) -> None:
    path = str(tiny.save_encoder(tmp_path, "wavlm-large"))
    told = describe_audio_encoder(path)
    assert told.keys() == {"model", "model_digest", "front_end_digest"}
    assert (told["model"], told["model_digest"]) == (path, model_digest(path))
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False)
    extractor.save_pretrained(path)
    other = describe_audio_encoder(path)
    assert other["model_digest"] == told["model_digest"]
    assert other["front_end_digest"] != told["front_end_digest"]


@pytest.mark.parametrize(
    ("architecture", "extra", "told"),
    [
        ("Wav2Vec2ForSpeechClassification", True, r"Wav2Vec2ForSpeechClassification .* 2 weights"),
        ("Wav2Vec2ForSpeechClassification", False, "Wav2Vec2ForSpeechClassification"),
        ("Wav2Vec2Model", True, r"such as classifier\.dense\.bias"),
        ("Wav2Vec2ForCTC", True, "2 weights"),
        ("Wav2Vec2Model", False, None),
        ("Wav2Vec2ForCTC", False, None),
    ],
)
def test_a_head_that_is_not_read_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    architecture: str,
    extra: bool,
    told: str | None,
) -> None:
    path = tiny.save_encoder(tmp_path, "wav2vec2", "ForCTC")
    config = transformers.AutoConfig.from_pretrained(path)
    config.architectures = [architecture]
    config.save_pretrained(path)
    if extra:
        weights = load_file(path / "model.safetensors")
        weights |= {
            "classifier.dense.weight": torch.ones(3, 4),
            "classifier.dense.bias": torch.ones(3),
        }
        save_file(weights, path / "model.safetensors", {"format": "pt"})
    capsys.readouterr()
    load_audio_encoder(str(path), "float32", "cpu")
    said = capsys.readouterr().err
    assert ("not known here" in said) == (told is not None)
    if told:
        assert re.search(told, said)


@pytest.mark.parametrize(
    ("family", "ending"),
    [
        ("unispeech-sat", "ForPreTraining"),
        ("whisper", "ForConditionalGeneration"),
        ("ast", "Model"),
    ],
)
def test_what_trains_an_encoder_is_left_out_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, ending: str
) -> None:
    load_audio_encoder(str(tiny.save_encoder(tmp_path, family, ending)), "float32", "cpu")
    assert "not known here" not in capsys.readouterr().err
