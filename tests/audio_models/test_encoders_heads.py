from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_audio_encoders as tiny
import torch
import transformers
from safetensors.torch import load_file, save_file

from audio_models.encoders.load import encoder_shape, load_audio_encoder
from audio_models.frames import FrameModel, FrameOutputs
from cache_schema.errors import AudioError, ModelError

TOLERANCE = 5e-5
"""Of batched against alone, and against transformers, in float32 (5e-6 was seen)."""

UTTERANCE = [
    ("wav2vec2", "ForSequenceClassification"),
    ("wav2vec2-large", "ForSequenceClassification"),
    ("hubert", "ForSequenceClassification"),
    ("wavlm", "ForSequenceClassification"),
    ("data2vec", "ForSequenceClassification"),
    ("unispeech", "ForSequenceClassification"),
    ("unispeech-sat", "ForSequenceClassification"),
    ("conformer", "ForSequenceClassification"),
    ("sew", "ForSequenceClassification"),
    ("wav2vec2-bert", "ForSequenceClassification"),
    ("whisper", "ForAudioClassification"),
    ("ast", "ForAudioClassification"),
]
XVECTOR = [
    (family, "ForXVector")
    for family in ("wav2vec2", "wavlm", "data2vec", "unispeech-sat", "conformer", "wav2vec2-bert")
]
FRAME = [(family, "ForAudioFrameClassification") for family, _ in XVECTOR]
HEADS = UTTERANCE + XVECTOR + FRAME


@pytest.fixture(scope="module", params=HEADS, ids=lambda param: "-".join(param))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    family, ending = request.param
    weighted = family in ("wav2vec2", "whisper", "wavlm")
    path = tiny.save_encoder(
        tmp_path_factory.mktemp("head"), family, ending, use_weighted_layer_sum=weighted
    )
    return family, ending, path


@pytest.fixture(scope="module")
def classifier(saved: tuple[str, str, Path]) -> FrameModel:
    return load_audio_encoder(str(saved[2]), "float32", "cpu")


@torch.inference_mode()
def run(encoder: FrameModel, audios: list[np.ndarray]) -> FrameOutputs:
    return encoder.forward(encoder.build(audios), (0, 3))


def heads_of(output: FrameOutputs) -> dict[str, torch.Tensor]:
    heads = {
        "utterance": output.utterance_logits_BC,
        "frame": output.frame_logits_NC,
        "embedding": output.embedding_BE,
    }
    return {name: value for name, value in heads.items() if value is not None}


def test_logits_are_those_of_the_class(
    saved: tuple[str, str, Path], classifier: FrameModel
) -> None:
    _, ending, path = saved
    config = transformers.AutoConfig.from_pretrained(path)
    network = getattr(transformers, config.architectures[0]).from_pretrained(path).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(path)
    (audio,) = tiny.recordings(1.1)
    inputs = extractor(audio, sampling_rate=16_000, return_tensors="pt")
    inputs.pop("attention_mask", None)
    with torch.inference_mode():
        expected = network(**inputs)
    heads = heads_of(run(classifier, [audio]))
    (count,) = classifier.build([audio]).num_frames
    close = {"rtol": 0, "atol": TOLERANCE}
    if ending == "ForAudioFrameClassification":
        assert heads.keys() == {"frame"}
        torch.testing.assert_close(heads["frame"], expected.logits[0, :count], **close)
        return
    assert heads.keys() == {"utterance", "embedding"}
    if ending == "ForXVector":
        torch.testing.assert_close(heads["embedding"], expected.embeddings, **close)
        network.objective.margin = 0.0  # its loss, without the margin of training, is ours
        for label in range(len(tiny.LABELS)):
            label_B = torch.tensor([label])
            with torch.inference_mode():
                loss = network.objective(expected.logits, label_B)
            ours = torch.nn.functional.cross_entropy(heads["utterance"], label_B)
            torch.testing.assert_close(ours, loss, **close)
    else:
        torch.testing.assert_close(heads["utterance"], expected.logits, **close)
        with torch.inference_mode():
            again = network.classifier(heads["embedding"])
        torch.testing.assert_close(again, expected.logits, **close)


def test_a_batch_says_what_each_recording_says_alone(classifier: FrameModel) -> None:
    audios = tiny.recordings(*((0.413, 1.3, 0.7, 0.72) if classifier.may_pad else (0.7, 0.7)))
    together = heads_of(run(classifier, audios))
    alone = [heads_of(run(classifier, [audio])) for audio in audios]
    for name, value in together.items():
        joined = torch.cat([one[name] for one in alone])
        torch.testing.assert_close(value, joined, rtol=0, atol=TOLERANCE)
        assert joined.std(0).max() > 1e-3  # recordings differ


def test_shape(saved: tuple[str, str, Path], classifier: FrameModel) -> None:
    _, ending, path = saved
    shape = encoder_shape(str(path))
    assert shape == classifier.shape
    of_frames = ending == "ForAudioFrameClassification"
    assert shape.frame_labels == (tiny.LABELS if of_frames else ())
    assert shape.utterance_labels == (() if of_frames else tiny.LABELS)
    assert shape.multi_label == of_frames  # config.problem_type is absent
    heads = heads_of(run(classifier, tiny.recordings(0.6)))
    width = heads["embedding"].shape[1] if "embedding" in heads else 0
    assert shape.embedding_width == width
    pooled = tiny.WIDTH if saved[0] == "ast" else 24
    assert width == {"ForXVector": 28, "ForAudioFrameClassification": 0}.get(ending, pooled)


def test_training_lowers_the_loss(saved: tuple[str, str, Path]) -> None:
    encoder = load_audio_encoder(str(saved[2]), "float32", "cpu")
    batch = encoder.build(tiny.recordings(*((0.5, 0.9) if encoder.may_pad else (0.6, 0.6))))
    optimizer = torch.optim.Adam(encoder.module.parameters(), lr=2e-4)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        heads = heads_of(encoder.forward(batch, ()))
        logits = heads["frame"] if "frame" in heads else heads["utterance"]
        target = torch.arange(len(logits)) % len(tiny.LABELS)
        loss = torch.nn.functional.cross_entropy(logits, target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    moved = [
        name
        for name, parameter in encoder.module.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    ]
    parts = {"classifier": "classifier", "block 1": "layers.0.", "block 3": "layers.2."}
    fronts = {"whisper": "conv1", "wav2vec2-bert": "feature_projection", "ast": "patch_embeddings"}
    parts["front end"] = fronts.get(saved[0], "conv_layers.0")
    if saved[1] == "ForXVector":
        parts |= {"time delays": "tdnn.0", "classes": "objective", "embedding": "feature_extractor"}
    for part, name in parts.items():
        assert any(name in one for one in moved), part


@pytest.mark.parametrize(
    ("problem", "ending", "multi_label"),
    [
        ("multi_label_classification", "ForSequenceClassification", True),
        ("single_label_classification", "ForSequenceClassification", False),
        ("multi_label_classification", "ForAudioFrameClassification", True),
        ("single_label_classification", "ForAudioFrameClassification", False),
    ],
)
def test_problem_type(tmp_path: Path, problem: str, ending: str, multi_label: bool) -> None:
    path = tiny.save_encoder(tmp_path, "wav2vec2", ending, problem_type=problem)
    assert encoder_shape(str(path)).multi_label == multi_label


def test_a_regression_head_is_refused(tmp_path: Path) -> None:
    path = tiny.save_encoder(
        tmp_path, "wav2vec2", "ForSequenceClassification", problem_type="regression"
    )
    with pytest.raises(ModelError, match="regression"):
        encoder_shape(str(path))


@pytest.mark.parametrize(
    ("ending", "lost"),
    [
        ("ForSequenceClassification", "projector.weight"),
        ("ForSequenceClassification", "classifier.bias"),
        ("ForAudioFrameClassification", "classifier.weight"),
        ("ForXVector", "objective.weight"),
    ],
)
def test_a_head_without_weights_is_refused(tmp_path: Path, ending: str, lost: str) -> None:
    path = tiny.save_encoder(tmp_path, "wavlm", ending)
    file = path / "model.safetensors"
    weights = load_file(file)
    del weights[lost]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelError, match=f"lack 1 weights of a WavLM{ending}, such as {lost}"):
        load_audio_encoder(str(path), "float32", "cpu")


def test_a_base_checkpoint_that_claims_a_head_is_refused(tmp_path: Path) -> None:
    path = tiny.save_encoder(tmp_path, "hubert")
    config = transformers.AutoConfig.from_pretrained(path)
    config.architectures = ["HubertForSequenceClassification"]
    config.save_pretrained(path)
    with pytest.raises(ModelError, match="lack 4 weights of a HubertForSequenceClassification"):
        load_audio_encoder(str(path), "float32", "cpu")


def test_other_numbers_of_classes_are_refused(tmp_path: Path) -> None:
    path = tiny.save_encoder(tmp_path, "hubert", "ForSequenceClassification")
    config = transformers.AutoConfig.from_pretrained(path)
    config.id2label = {0: "a", 1: "b"}
    config.save_pretrained(path)
    with pytest.raises(ModelError, match="cannot load it"):
        load_audio_encoder(str(path), "float32", "cpu")
    config.id2label = {1: "a", 2: "b", 3: "c"}
    config.save_pretrained(path)
    with pytest.raises(ModelError, match=r"numbers its classes \[1, 2, 3\]"):
        encoder_shape(str(path))


def test_x_vectors_need_enough_frames(tmp_path: Path) -> None:
    path = tiny.save_encoder(tmp_path, "wav2vec2", "ForXVector")
    encoder = load_audio_encoder(str(path), "float32", "cpu")
    # kernels of 5, 3 and 1 frames, the second of every other frame, leave 2 of 10
    fewest = 9 * 320 + 165
    output = run(encoder, [tiny.recordings(1.0)[0][:fewest]])
    assert output.embedding_BE is not None
    assert output.embedding_BE.isfinite().all()
    with pytest.raises(AudioError, match="too short"):
        encoder.build([tiny.recordings(1.0)[0][: fewest - 1]])
