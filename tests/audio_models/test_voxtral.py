"""What is Voxtral's alone: ids from a chat request, windows of 30 s, tekken tokens."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_tape
import tiny_voxtral
import torch
import transformers
from family_requests import one_request, requests_for, tone
from typer.testing import CliRunner

from audio_models.forward import forward_with_states
from audio_models.generate import generate
from audio_models.inputs import Request, build_inputs
from audio_models.load import AudioLM, load_audio_lm
from audio_models.prompt import prompt_ids
from cache_schema.errors import AudioError
from cache_schema.fingerprint import tokenizer_digest
from cache_schema.types import TopK
from pipeline.teachers.describe import describe_model, load_tokenizer
from train.cli import app
from train.metrics import read_metrics
from train.student import save_student

ATOL = 5e-5  # see test_families


@pytest.fixture(scope="module")
def voxtral_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_voxtral.save_voxtral(tmp_path_factory.mktemp("voxtral"))


@pytest.fixture(scope="module")
def voxtral(voxtral_dir: Path) -> AudioLM:
    return load_audio_lm(str(voxtral_dir), "float32", "cpu")


def test_the_prompt_is_that_of_its_template(voxtral: AudioLM) -> None:
    batch = build_inputs(voxtral, [Request(audio=tone(0.5, 300.0), text="Which?")])
    ids = batch.inputs["input_ids"][0].tolist()
    names = voxtral.tokenizer.convert_ids_to_tokens(ids)
    assert names[:3] == ["<s>", "[INST]", "[BEGIN_AUDIO]"]
    assert names[3:378] == ["[AUDIO]"] * 375
    assert names[-1] == "[/INST]"
    assert voxtral.tokenizer.decode(ids[378:-1]) == "Which?"


def test_a_recording_of_several_windows(voxtral: AudioLM) -> None:
    long, short = (Request(audio=tone(s, 300.0), text="?") for s in (62.3, 30.0))
    batch = build_inputs(voxtral, [long, short])
    assert batch.inputs["input_features"].shape == (4, 16, 3000)
    placeholders = (batch.inputs["input_ids"] == 24).sum(-1).tolist()
    assert placeholders == [3 * 375, 375]
    # what stands for the silence behind the recording alone is left out
    assert [len(p) for p in batch.audio_positions] == [779, 375]
    assert batch.audio_times_s[0][-1] == pytest.approx([62.24, 62.3])
    assert batch.audio_times_s[1][-1] == pytest.approx([29.92, 30.0])
    alone = build_inputs(voxtral, [short])
    with torch.no_grad():
        ours, theirs = (
            forward_with_states(voxtral.model, b.inputs, [2], b.predict_positions).states[2]
            for b in (batch, alone)
        )
    torch.testing.assert_close(
        ours[1, batch.audio_positions[1]], theirs[0, alone.audio_positions[0]], atol=ATOL, rtol=1e-3
    )


def test_the_recording_arrives_bit_for_bit(voxtral: AudioLM) -> None:
    generator = np.random.default_rng(0)
    audio = (3.0 * generator.standard_normal(48_000)).astype(np.float32)  # beyond full scale
    audio[:100] = 1e-30
    padded = np.pad(audio, (0, 480_000 - len(audio)))
    expected = voxtral.processor.feature_extractor(
        padded, sampling_rate=16_000, return_tensors="pt"
    )["input_features"]
    batch = build_inputs(voxtral, [Request(audio=audio, text="?")])
    torch.testing.assert_close(batch.inputs["input_features"], expected, atol=0, rtol=0)


def test_the_placeholder_in_a_question_is_text_and_in_a_response_refused(voxtral: AudioLM) -> None:
    request = Request(audio=tone(0.5, 300.0), text="say [AUDIO]")
    batch = build_inputs(voxtral, [request])
    assert int((batch.inputs["input_ids"] == 24).sum()) == 375
    ids = batch.inputs["input_ids"][0, 378:-1]
    assert voxtral.tokenizer.decode(ids) == "say [AUDIO]"
    wrong = Request(audio=request.audio, text="?", response_ids=np.asarray([50, 24]))
    with pytest.raises(AudioError, match="response holds the audio placeholder"):
        build_inputs(voxtral, [wrong])


@pytest.mark.parametrize("text", ["Which?", "", "say [AUDIO]"])
def test_a_prompt_is_counted_without_its_recording(voxtral: AudioLM, text: str) -> None:
    ids = prompt_ids(voxtral, text)
    batch = build_inputs(voxtral, [Request(audio=tone(40.0, 300.0), text=text)])
    assert ids.count(24) == 1
    assert len(ids) - 1 + 2 * 375 == batch.inputs["input_ids"].shape[1]


def test_its_tokenizer_answers_what_the_tape_asks(voxtral: AudioLM) -> None:
    tokenizer = voxtral.tokenizer
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (11, 1, 2)
    ids = tokenizer("three é", add_special_tokens=False)["input_ids"]
    assert 1 not in ids
    assert tokenizer.decode(np.asarray([*ids, 2]), skip_special_tokens=True) == "three é"
    assert tokenizer.convert_ids_to_tokens(24) == "[AUDIO]"
    assert len(tokenizer) == 640


def test_the_digest_tells_tokens_without_a_string_apart(voxtral: AudioLM, tmp_path: Path) -> None:
    """Parts of characters are U+FFFD as text; two that read the same change places."""
    file = tiny_voxtral.tekken()
    same = [
        token
        for token in file["vocab"][256:]
        if base64.b64decode(token["token_bytes"]).decode(errors="replace") == "\ufffd"
    ]
    digests = []
    for name in ("same", "swapped"):
        (tmp_path / name).mkdir()
        if name == "swapped":
            first, second = same[-2:]
            first["token_bytes"], second["token_bytes"] = (
                second["token_bytes"],
                first["token_bytes"],
            )
        (tmp_path / name / "tekken.json").write_text(json.dumps(file))
        tokenizer = transformers.MistralCommonBackend.from_pretrained(tmp_path / name)
        digests.append(tokenizer_digest(tokenizer))
    assert digests[0] == tokenizer_digest(voxtral.tokenizer) != digests[1]


def test_the_pipeline_identifies_its_tokenizer_and_its_chat(
    voxtral: AudioLM, voxtral_dir: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(voxtral_dir))
    about = describe_model(str(voxtral_dir), tokenizer)
    assert about["tokenizer_digest"] == tokenizer_digest(voxtral.tokenizer)
    file = tiny_voxtral.tekken()
    file["audio"]["chunk_length_s"] = 15.0  # the same tokens, another prompt
    (tmp_path / "tekken.json").write_text(json.dumps(file))
    other = describe_model(
        str(voxtral_dir), transformers.MistralCommonBackend.from_pretrained(tmp_path)
    )
    assert other["tokenizer_digest"] == about["tokenizer_digest"]
    assert other["chat_template_digest"] != about["chat_template_digest"]


def test_a_student_is_saved_and_loads_as_it_was(voxtral_dir: Path, tmp_path: Path) -> None:
    lm = load_audio_lm(str(voxtral_dir), "float32", "cpu")
    requests = requests_for(lm)
    before = build_inputs(lm, requests)
    save_student(lm, tmp_path / "student", torch.bfloat16)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "student")
    assert isinstance(processor, transformers.VoxtralProcessor)
    again = load_audio_lm(str(tmp_path / "student"), "auto", "cpu")
    assert again.model.dtype == torch.bfloat16
    after = build_inputs(again, requests)
    assert torch.equal(before.inputs["input_ids"], after.inputs["input_ids"])
    with torch.no_grad():
        output = forward_with_states(again.model, after.inputs, [0], after.predict_positions)
    assert output.logits_NV.isfinite().all()


def test_one_request_of_the_longest_kind_is_not_cut(voxtral: AudioLM) -> None:
    request = one_request(voxtral, 95.0)
    batch = build_inputs(voxtral, [request])
    assert batch.inputs["input_features"].shape[0] == 4
    assert len(batch.audio_positions[0]) == -(-95 * 16_000 // 1280)


def test_stage_two_trains_it_from_a_tape(
    voxtral: AudioLM, voxtral_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_tape, "random_topk", topk_of_its_vocabulary)
    tape = tiny_tape.build_tape(tmp_path / "tape", voxtral, num_samples=4)
    result = CliRunner().invoke(
        app,
        [
            "student", "--cache", str(tape), "--student", str(voxtral_dir),
            "--out", str(tmp_path / "run"), "--max-steps", "2", "--batch-tokens", "1000",
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (first, second) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    # the student is the acoustic teacher: the positions are the same, and so are the states
    assert first["terms"]["acoustic_hidden"]["value"] < 1e-5
    assert second["loss"] != first["loss"]
    trained = load_audio_lm(str(tmp_path / "run" / "student"), "auto", "cpu")
    request = Request(audio=tone(1.0, 300.0), text="Is it high?")
    assert len(generate(trained, [request], max_new_tokens=2, batch_size=1)[0].token_ids) > 0


def topk_of_its_vocabulary(targets: np.ndarray, seed: int) -> TopK:
    logits = torch.randn(len(targets), 640, generator=torch.Generator().manual_seed(seed))
    kept, ids = logits.log_softmax(-1).topk(tiny_tape.TOP_K)
    return TopK(
        target_ids=targets,
        token_ids=ids.numpy(),
        logprobs=kept.numpy(),
        tail=(1 - kept.exp().sum(-1)).clamp(min=0).numpy(),
    )
