"""What loading a family takes: halves of processors, adapters, composites, refusals."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import tiny_audio_families
import tiny_audio_lm
import torch
import transformers
from family_requests import plain, requests_for

from audio_models import families, processors
from audio_models.encoders.load import load_audio_encoder
from audio_models.generate import generate
from audio_models.inputs import build_inputs
from audio_models.load import load_audio_lm, resolve_device
from audio_models.tower import load_audio_tower
from cache_schema.errors import AudioError, ModelError, UsageError


def needing_torchvision(model: str) -> None:
    raise ImportError("an image processor requires the Torchvision library")


def test_the_audio_half_counts_as_the_whole_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_audio_families.save_qwen3_omni(tmp_path)
    monkeypatch.setattr(
        processors.transformers.AutoProcessor, "from_pretrained", needing_torchvision
    )
    monkeypatch.setattr(processors, "is_torchvision_available", lambda: False)
    with caplog.at_level(logging.WARNING):
        lm = load_audio_lm(str(tmp_path), "float32", "cpu")
    assert "torchvision is not installed" in caplog.text
    batch = build_inputs(lm, requests_for(lm))
    audio_tokens = sum(len(positions) for positions in batch.audio_positions)
    features = lm.model.get_audio_features(
        batch.inputs["input_features"], batch.inputs["feature_attention_mask"], return_dict=True
    )
    assert features.last_hidden_state.shape[0] == audio_tokens


def test_a_composite_qwen3_omni_gives_its_thinker(tmp_path: Path) -> None:
    thinker = tiny_audio_families.save_qwen3_omni(tmp_path / "thinker")
    composite = tiny_audio_lm.save_composite_omni(thinker, tmp_path / "composite")
    config = json.loads((composite / "config.json").read_text())
    config["architectures"] = ["Qwen3OmniMoeForConditionalGeneration"]
    config["model_type"] = "qwen3_omni_moe"
    (composite / "config.json").write_text(json.dumps(config))
    alone, inner = (load_audio_lm(str(path), "float32", "cpu") for path in (thinker, composite))
    assert inner.family.name == "Qwen3-Omni"
    assert inner.audio_token_id == alone.audio_token_id
    for name, parameter in alone.model.named_parameters():
        assert torch.equal(parameter, inner.model.get_parameter(name)), name


def test_a_processor_without_an_audio_half_names_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_audio_families.save_glm_asr(tmp_path)
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", needing_torchvision)
    monkeypatch.setattr(processors, "is_torchvision_available", lambda: False)
    with pytest.raises(ModelError, match="pip install torchvision"):
        load_audio_lm(str(tmp_path), "float32", "cpu")


def test_an_adapter_beside_the_weights_is_merged(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    tiny_audio_families.save_phi(tmp_path)
    bare = load_audio_lm(str(tmp_path), "float32", "cpu")
    batch = build_inputs(bare, requests_for(bare))
    without = plain(bare, batch).logits
    network = type(bare.model).from_pretrained(tmp_path, dtype=torch.float32).eval()
    adapted = get_peft_model(
        network,
        LoraConfig(r=2, target_modules=["o_proj", "down_proj"], init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "speech-lora")
    heard = load_audio_lm(str(tmp_path), "float32", "cpu")
    assert [name for name, _ in heard.model.named_parameters()] == [
        name for name, _ in bare.model.named_parameters()
    ]
    single = build_inputs(bare, requests_for(bare)[:1])
    expected = plain(bare, single, adapted.eval()).logits
    torch.testing.assert_close(plain(heard, single).logits, expected, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(plain(heard, batch).logits, without, atol=1e-2)


def test_an_adapter_among_the_weights_is_merged_and_the_model_saved_whole(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    tiny_audio_families.save_granite(tmp_path / "granite")
    bare = load_audio_lm(str(tmp_path / "granite"), "float32", "cpu")
    batch = build_inputs(bare, requests_for(bare)[:1])
    network = type(bare.model).from_pretrained(tmp_path / "granite", dtype=torch.float32).eval()
    adapted = get_peft_model(
        network, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path / "granite")
    expected = plain(bare, batch, adapted.eval()).logits
    heard = load_audio_lm(str(tmp_path / "granite"), "float32", "cpu")
    assert not [name for name, _ in heard.model.named_parameters() if "lora" in name]
    heard.model.save_pretrained(tmp_path / "saved")
    heard.processor.save_pretrained(tmp_path / "saved")
    again = load_audio_lm(str(tmp_path / "saved"), "float32", "cpu")
    for lm in (heard, again):
        torch.testing.assert_close(plain(lm, batch).logits, expected, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(plain(bare, batch).logits, expected, atol=1e-2)


def test_a_package_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = transformers.VoxtralConfig(architectures=["VoxtralForConditionalGeneration"])
    config.save_pretrained(tmp_path)
    monkeypatch.setattr(processors, "is_mistral_common_available", lambda: False)
    with pytest.raises(ModelError, match=r"Voxtral.*pip install mistral-common"):
        load_audio_lm(str(tmp_path), "float32", "cpu")


@pytest.fixture
def nothing_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", {})


@pytest.mark.usefixtures("nothing_listed")
def test_a_family_nobody_listed_is_read_by_conventions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_audio_families.save_glm_asr(tmp_path)
    with caplog.at_level(logging.WARNING):
        lm = load_audio_lm(str(tmp_path), "float32", "cpu")
    assert "GlmAsrForConditionalGeneration is not among the families known here" in caplog.text
    assert lm.family is families.UNLISTED
    assert lm.max_audio_s == 4.0  # of several windows nothing is known
    requests = requests_for(lm)
    batch = build_inputs(lm, requests)
    network = type(lm.model).from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.equal(plain(lm, batch).logits, plain(lm, batch, network).logits)
    for positions, times, request in zip(
        batch.audio_positions, batch.audio_times_s, requests, strict=True
    ):
        assert len(positions) == len(times) >= 1
        assert times[-1, 1] == pytest.approx(len(request.audio) / 16_000)
    (answer,) = generate(lm, requests[:1], max_new_tokens=2, batch_size=1)
    assert len(answer.token_ids) >= 1


@pytest.mark.usefixtures("nothing_listed")
@pytest.mark.parametrize(
    ("family", "missing"),
    [
        ("granite", r"fails on a turn given as parts.*Family\.inline_audio"),
        ("voxtral", r"no chat template; add chat_template\.jinja"),
        ("phi", "no processor could be read"),
    ],
)
def test_an_unlisted_family_is_told_what_it_lacks(
    tmp_path: Path, family: str, missing: str
) -> None:
    tiny_audio_families.SAVE[family](tmp_path)

    def load_and_build() -> None:
        lm = load_audio_lm(str(tmp_path), "float32", "cpu")
        build_inputs(lm, requests_for(lm))

    with pytest.raises(ModelError, match=missing):
        load_and_build()


def test_a_configuration_without_a_placeholder_is_told_so() -> None:
    with pytest.raises(ModelError, match=r"config\.audio_token_id is missing"):
        processors.audio_token_id(transformers.Qwen2Config(), families.UNLISTED, "some/model")


def test_a_configuration_with_a_wrong_value_is_named(tmp_path: Path) -> None:
    tiny_audio_families.save_glm_asr(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["audio_token_id"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json.*'audio_token_id'.*expected int"):
        load_audio_lm(str(tmp_path), "float32", "cpu")


@pytest.mark.usefixtures("nothing_listed")
def test_a_template_that_renders_no_audio_is_named(tmp_path: Path) -> None:
    tiny_audio_families.save_glm_asr(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'][1]['text'] }}")
    lm = load_audio_lm(str(tmp_path), "float32", "cpu")
    with pytest.raises(AudioError, match=r"0 audio placeholders.*render audio"):
        build_inputs(lm, requests_for(lm))


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_fastest_device_there_is(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto") == torch.device(expected)
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "gpus", "there"),
    [
        ("cuda", 0, "cpu"),
        ("cuda:7", 0, "cpu"),
        ("cuda:7", 2, "cuda:0, cuda:1, cpu"),
        ("mps", 0, "cpu"),
        ("meta", 0, "cpu"),
        ("quantum", 1, "cuda:0, cpu"),
        ("cuda:-1", 1, "cuda:0, cpu"),
        ("", 0, "cpu"),
    ],
)
def test_a_device_that_is_not_there_is_named_before_anything_loads(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, there: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for use in (load_audio_lm, load_audio_tower, load_audio_encoder):
        with pytest.raises(UsageError, match=rf"device {device!r}: .*{there}"):
            use("/nothing/there", "float32", device)
    if gpus:
        assert resolve_device("cuda") == torch.device("cuda")
        assert resolve_device("cuda:0") == torch.device("cuda:0")
