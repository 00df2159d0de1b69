"""The acoustic step with encoders, classifiers and audio towers: what is on the tape is theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny_audio_encoders
import torch
import torchaudio
from sound_tape import uncounted

from audio_models.encoders.load import load_audio_encoder
from audio_models.frames import FrameModel, FrameOutputs
from audio_models.tower import load_audio_tower
from cache_schema import Tape, open_tape
from cache_schema.errors import ModelError, ProvenanceError, UsageError
from cache_schema.types import FloatArray
from cache_schema.validate.tape import validate
from pipeline.acoustic_recipe import AcousticRecipe
from pipeline.costs.weigh import weights_of
from pipeline.extract import check, run_step
from pipeline.recipe import DatasetRecipe, ExtractRecipe, FailureRecipe, TapeRecipe

SECONDS = (2.9, 0.8, 1.7, 3.6, 1.2)
ATOL = 1e-4
"""Of float32 values of order 1, a recording alone against a batch."""


def recipe_for(folder: Path, teacher: str | Path, **settings: Any) -> ExtractRecipe:
    """A recipe whose samples, without answers, are on the tape."""
    lines = []
    for number, wave in enumerate(tiny_audio_encoders.recordings(*SECONDS)):
        soundfile.write(folder / f"{number}.wav", wave, 16_000, subtype="FLOAT")
        lines.append(json.dumps({"id": f"r{number}", "audio": f"{number}.wav", "question": ""}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    recipe = ExtractRecipe(
        dataset=DatasetRecipe(path=str(folder / "rows.jsonl")),
        tape=TapeRecipe(out=str(folder / "tape"), states_dtype="float32"),
        acoustic=AcousticRecipe(teacher=str(teacher), **settings),
        failures=FailureRecipe(max_fraction=0.9),
    )
    run_step("ingest", recipe)
    return recipe


def recorded(recipe: ExtractRecipe) -> Tape:
    run_step("acoustic", recipe)
    assert validate(recipe.tape.out, uncounted, deep=True).problems == []
    return open_tape(recipe.tape.out)


@torch.no_grad()
def alone(model: FrameModel, audio: FloatArray) -> tuple[FloatArray, FrameOutputs]:
    batch = model.build([audio])
    return batch.times_s[0], model.forward(batch, range(model.shape.num_layers + 1))


def assert_frames(tape: Tape, model: FrameModel, name: str = "acoustic") -> None:
    for row in tape:
        times_s, output = alone(model, row.audio)
        hidden = row[f"{name}/hidden"]
        assert hidden.kind == "frame"
        np.testing.assert_array_equal(hidden.times_s, times_s)
        for place, layer in enumerate(hidden.layers):
            expected = output.states[layer].numpy()
            np.testing.assert_allclose(hidden.states[:, place], expected, atol=ATOL)


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm", "whisper"])
def test_frames_of_an_encoder(tmp_path: Path, family: str) -> None:
    teacher = tiny_audio_encoders.save_encoder(tmp_path / "teacher", family)
    tape = recorded(recipe_for(tmp_path, teacher, layers="0,2,3", batch_size=3))
    assert tape.signals == ("acoustic/hidden",)
    model = load_audio_encoder(str(teacher), "float32", "cpu")
    assert_frames(tape, model)
    known = tape.sources["acoustic"]
    assert (known["engine"], known["num_layers"], known["width"]) == ("transformers", 3, 32)


def test_a_pipeline_of_torchaudio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    bundle = tiny_audio_encoders.save_bundle(
        tmp_path / "home" / "hub", "TINY", "Wav2Vec2", large=False
    )
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)
    monkeypatch.setattr(torchaudio.pipelines, "__all__", [*torchaudio.pipelines.__all__, "TINY"])
    tape = recorded(recipe_for(tmp_path, "torchaudio:TINY"))
    assert_frames(tape, load_audio_encoder("torchaudio:TINY", "float32", "cpu"))
    assert tape.sources["acoustic"]["engine"] == "torchaudio"


def logits_of(output: FrameOutputs) -> Mapping[str, FloatArray]:
    found = {
        "utterance_logits": output.utterance_logits_BC,
        "frame_logits": output.frame_logits_NC,
        "embedding": output.embedding_BE,
    }
    return {
        name: value.numpy() if name == "frame_logits" else value[0].numpy()
        for name, value in found.items()
        if value is not None
    }


@pytest.mark.parametrize(
    ("ending", "signals"),
    [
        ("ForSequenceClassification", {"utterance_logits", "embedding"}),
        ("ForAudioFrameClassification", {"frame_logits"}),
        ("ForXVector", {"utterance_logits", "embedding"}),
    ],
)
def test_what_a_classifier_says(tmp_path: Path, ending: str, signals: set[str]) -> None:
    teacher = tiny_audio_encoders.save_encoder(tmp_path / "teacher", "wav2vec2", ending)
    tape = recorded(recipe_for(tmp_path, teacher, layers="none"))
    assert set(tape.signals) == {f"acoustic/{name}" for name in signals}
    model = load_audio_encoder(str(teacher), "float32", "cpu")
    for row in tape:
        times_s, output = alone(model, row.audio)
        expected = logits_of(output)
        assert set(expected) == signals
        for name, values in expected.items():
            signal = row[f"acoustic/{name}"]
            found = signal.values if name == "embedding" else signal.logits
            np.testing.assert_allclose(found, values, atol=ATOL)
        if "frame_logits" in signals:
            np.testing.assert_array_equal(row["acoustic/frame_logits"].times_s, times_s)
            assert row["acoustic/frame_logits"].labels == tiny_audio_encoders.LABELS


def test_the_mean_over_frames_is_an_embedding(tmp_path: Path) -> None:
    teacher = tiny_audio_encoders.save_encoder(tmp_path / "teacher", "hubert")
    tape = recorded(recipe_for(tmp_path, teacher, layers="none", embedding="mean"))
    model = load_audio_encoder(str(teacher), "float32", "cpu")
    for row in tape:
        _, output = alone(model, row.audio)
        pooled = row["acoustic/embedding"]
        assert pooled.pooling == "mean of layer 3"
        np.testing.assert_allclose(pooled.values, output.states[3].mean(0).numpy(), atol=ATOL)


def test_the_tower_inside_an_audio_language_model(
    tmp_path: Path, acoustic_teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two sources on one tape, both of one checkpoint: its tower and its language model."""
    recipe = recipe_for(tmp_path, acoustic_teacher, part="audio_tower", name="tower", layers="all")
    recorded(recipe)
    whole = ExtractRecipe(
        **{**vars(recipe), "acoustic": AcousticRecipe(teacher=str(acoustic_teacher))}
    )
    tape = recorded(whole)
    assert tape.signals == ("acoustic/hidden", "tower/hidden")
    assert "tower: 5 samples in" in capsys.readouterr().err
    assert_frames(tape, load_audio_tower(str(acoustic_teacher), "float32", "cpu"), "tower")
    first = next(iter(tape))
    assert first["acoustic/hidden"].kind == "audio"
    weighed = weights_of(tape, "tower", range(len(SECONDS)))["tower/hidden"]
    assert weighed.tokens.sum() == sum(len(row["tower/hidden"].times_s) for row in tape)


def test_long_recordings_are_refused_or_heard_in_pieces(tmp_path: Path) -> None:
    """Whisper's tiny front end hears 4 s; three of five recordings have several 1.5 s pieces."""
    teacher = tiny_audio_encoders.save_encoder(tmp_path / "teacher", "whisper")
    (tmp_path / "pieces").mkdir()
    recipe = recipe_for(tmp_path / "pieces", teacher, layers="3", chunk_s=1.5, embedding="mean")
    tape = recorded(recipe)
    model = load_audio_encoder(str(teacher), "float32", "cpu")
    for row in tape:
        count = int(np.ceil(len(row.audio) / 24_000))
        edges = [len(row.audio) * n // count for n in range(count + 1)]
        pieces = [alone(model, row.audio[a:b]) for a, b in pairwise(edges)]
        states = np.concatenate([output.states[3].numpy() for _, output in pieces])
        hidden = row["acoustic/hidden"]
        np.testing.assert_allclose(hidden.states[:, 0], states, atol=ATOL)
        np.testing.assert_allclose(row["acoustic/embedding"].values, states.mean(0), atol=ATOL)
        times_s = np.concatenate(
            [t + np.float32(a / 16_000) for (t, _), a in zip(pieces, edges, strict=False)]
        )
        np.testing.assert_allclose(hidden.times_s, times_s, atol=1e-6)
        assert hidden.times_s[-1, 1] <= len(row.audio) / 16_000 + 0.011

    config = json.loads((teacher / "preprocessor_config.json").read_text())
    window_s = config["chunk_length"]
    long = np.tile(tiny_audio_encoders.recordings(1.0)[0], window_s + 1)
    (tmp_path / "whole").mkdir()
    recipe = recipe_for(tmp_path / "whole", teacher)
    soundfile.write(tmp_path / "whole" / "0.wav", long, 16_000, subtype="FLOAT")
    other = ExtractRecipe(
        **{**vars(recipe), "tape": TapeRecipe(out=str(tmp_path / "whole" / "other"))}
    )
    run_step("ingest", other)
    tape = recorded(other)
    (failed,) = tape.quarantined
    assert (failed.sample_id, failed.reason) == ("r0", "audio")
    assert "5.000 s of audio, and" in failed.detail
    assert "hears 4 s at once; --set acoustic.chunk_s=4 cuts it" in failed.detail


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"states_at": "response"}, r"acoustic\.states_at='response': .* an audio encoder"),
        ({"lens": "top"}, r"acoustic\.lens='top'"),
        ({"layers": "none"}, "leaves nothing to record"),
        ({"layers": "9"}, "layers 0 to 3"),
        ({"chunk_s": 0.2}, "at least 1 s"),
        ({"chunk_s": 9.0}, "hears 4 s at once"),
    ],
)
def test_settings_that_mean_nothing(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    teacher = tiny_audio_encoders.save_encoder(tmp_path / "teacher", "whisper")
    recipe = recipe_for(tmp_path, teacher, **settings)
    with pytest.raises(UsageError, match=message):
        run_step("acoustic", recipe)


def test_an_utterance_is_not_judged_in_pieces(tmp_path: Path) -> None:
    ending = "ForSequenceClassification"
    teacher = tiny_audio_encoders.save_encoder(tmp_path / "teacher", "wavlm", ending)
    recipe = recipe_for(tmp_path, teacher, chunk_s=1.0)
    with pytest.raises(UsageError, match="cannot be put together from pieces"):
        check(recipe)


def test_a_tower_of_an_encoder_is_refused(tmp_path: Path) -> None:
    teacher = tiny_audio_encoders.save_encoder(tmp_path / "teacher", "wav2vec2")
    with pytest.raises(ModelError):
        check(recipe_for(tmp_path, teacher, part="audio_tower"))


def test_what_was_recorded_otherwise_is_refused(tmp_path: Path) -> None:
    teacher = tiny_audio_encoders.save_encoder(tmp_path / "teacher", "whisper")
    recipe = recipe_for(tmp_path, teacher, chunk_s=1.5)
    recorded(recipe)
    again = ExtractRecipe(**{**vars(recipe), "acoustic": AcousticRecipe(teacher=str(teacher))})
    with pytest.raises(ProvenanceError, match=r"chunk_s: tape 1\.5, now 0\.0"):
        run_step("acoustic", again)


def test_classes_that_may_be_there_together(tmp_path: Path) -> None:
    teacher = tiny_audio_encoders.save_encoder(
        tmp_path / "teacher", "wav2vec2", "ForSequenceClassification"
    )
    tape = recorded(recipe_for(tmp_path, teacher, layers="none", multi_label=True))
    assert next(iter(tape))["acoustic/utterance_logits"].multi_label is True
    plain = tiny_audio_encoders.save_encoder(tmp_path / "plain", "wav2vec2")
    with pytest.raises(UsageError, match="an encoder without classes"):
        check(recipe_for(tmp_path, plain, multi_label=True, name="plain"))
