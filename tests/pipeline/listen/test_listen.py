"""Models that listen: what they hear, alone and in batches, and which models cannot."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from listening_steps import chirps, planned
from tiny_whisper import WINDOW_S, save_whisper

from audio_models.waveforms import window_edges
from cache_schema.errors import AudioError, ModelError, UsageError
from cache_schema.types import Heard
from pipeline.listen.plan import load, plan, settle
from pipeline.textualize_recipe import ListenRecipe

SILENCE_ID = 264  # <|nospeech|> of the tiny Whisper


def test_speech_of_any_length_alone_and_in_a_batch(whisper: Path) -> None:
    one = planned(whisper)
    assert one.kind == "asr"
    listener = load(one)
    seconds = (0.3, 2.6, 9.1, 0.005, 2 * WINDOW_S, WINDOW_S)
    audios = chirps(*seconds)
    together = listener.hear(audios)
    assert together == [listener.hear([audio])[0] for audio in audios], "exactly: rows are apart"
    assert together == listener.hear(audios[::-1])[::-1]
    assert sum(len(hearing.heard.text) > 0 for hearing in together) >= 5, "a random model babbles"
    for hearing, length_s in zip(together, seconds, strict=True):
        parts = hearing.heard.segments
        assert all(0 <= part.start_s <= part.end_s <= length_s for part in parts)
        assert all(a.end_s <= b.start_s for a, b in pairwise(parts))
        assert all(part.text in hearing.heard.text for part in parts)
    long = together[2].heard.segments
    assert len(long) > 2
    assert long[-1].start_s > WINDOW_S, "more than one window was heard"


def test_short_speech_is_what_transformers_makes_of_it(whisper: Path) -> None:
    """One whole window: where the two ways of transformers agree, ours is theirs.

    A random model puts times behind the recording's end; ours end where it does.
    """
    from transformers import AutoProcessor, WhisperForConditionalGeneration

    (audio,) = chirps(WINDOW_S)
    model = WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    processor = AutoProcessor.from_pretrained(whisper)
    inputs = processor(audio, sampling_rate=16_000, return_tensors="pt")
    theirs = model.generate(
        **inputs, return_timestamps=True, return_segments=True, task="transcribe",
        max_new_tokens=24, do_sample=False,
    )["segments"][0]  # fmt: skip
    ours = load(planned(whisper)).hear([audio])[0].heard.segments
    expected = [processor.tokenizer.decode(s["tokens"], skip_special_tokens=True) for s in theirs]
    kept = [(s, text.strip()) for s, text in zip(theirs, expected, strict=True) if text.strip()]
    assert [part.text for part in ours] == [text for _, text in kept]
    starts = [min(float(s["start"]), WINDOW_S) for s, _ in kept]
    assert [part.start_s for part in ours] == pytest.approx(starts, abs=1e-3)


def test_language_and_task_reach_the_model(whisper: Path) -> None:
    audios = chirps(3.0)
    heard = {
        (language, task): load(planned(whisper, language=language, task=task)).hear(audios)[0]
        for language in ("en", "German")
        for task in ("transcribe", "translate")
    }
    assert len({hearing.heard.text for hearing in heard.values()}) >= 3
    assert planned(whisper, language="german").settled["language"] == "<|de|>"
    detected = load(planned(whisper)).hear(audios)[0]
    assert detected in (heard["en", "transcribe"], heard["German", "transcribe"])


def test_silence_is_told_from_babble(whisper: Path) -> None:
    """The model's own token for silence, made likely: nothing is heard, and nothing is made up."""
    listener: Any = load(planned(whisper))
    with torch.no_grad():
        norm, weight_VD = listener._model.model.decoder.layer_norm, listener._model.proj_out.weight
        weight_VD *= 0.1  # unsure of every word
        norm.weight[0], norm.bias[0], weight_VD[:, 0] = 0, 1, 0
        assert all(hearing.heard.text for hearing in listener.hear(chirps(3.0, 9.0)))
        weight_VD[SILENCE_ID, 0] = 50
    for audios in (chirps(3.0), chirps(1.0, 9.0)):
        assert {hearing.heard for hearing in listener.hear(audios)} == {Heard(text="")}


def test_a_text_cut_short_is_told(whisper: Path, audio_lm: Path) -> None:
    audios = chirps(1.0, 2.0)
    assert all(h.is_cut for h in load(planned(whisper, max_new_tokens=2)).hear(audios))
    assert all(h.is_cut for h in load(planned(audio_lm, max_new_tokens=2)).hear(audios))


def test_captions_alone_and_in_a_batch(audio_lm: Path) -> None:
    one = planned(audio_lm, max_new_tokens=8, prompt="Say it.")
    assert (one.kind, one.settled["prompt"]) == ("caption", "Say it.")
    listener = load(one)
    audios = chirps(0.5, 3.9, 2.0)
    together = listener.hear(audios)
    assert together == [listener.hear([audio])[0] for audio in audios]
    assert any(hearing.heard.text for hearing in together)
    assert together != load(planned(audio_lm, max_new_tokens=8)).hear(audios), "the prompt counts"
    with pytest.raises(AudioError, match="too short"):
        listener.hear([audios[0], audios[0][:160]])


def test_captions_of_a_recording_longer_than_the_model_hears(audio_lm: Path) -> None:
    listener = load(planned(audio_lm, max_new_tokens=8))
    long, short = chirps(9.0, 1.0)
    parts = [listener.hear([long[start : start + 48_000]])[0] for start in (0, 48_000, 96_000)]
    heard, beside = listener.hear([long, short])
    texts = [part.heard.text for part in parts]
    spans = [(segment.start_s, segment.end_s) for segment in heard.heard.segments]
    assert [segment.text for segment in heard.heard.segments] == list(filter(None, texts))
    assert set(spans) <= {(0.0, 3.0), (3.0, 6.0), (6.0, 9.0)}
    assert len(spans) >= 2
    assert heard.heard.text == " ".join(filter(None, texts))
    assert beside == listener.hear([short])[0]
    assert beside.heard.segments == ()
    assert window_edges(64_000, 4.0) == [0, 64_000]
    assert window_edges(64_001, 4.0) == [0, 32_000, 64_001]
    assert window_edges(64_000, float("inf")) == [0, 64_000]


def test_what_does_not_go_with_a_model(
    whisper: Path, audio_lm: Path, tmp_path: Path, text_teacher: Path
) -> None:
    cases: list[tuple[Path, dict[str, Any], type[Exception], str]] = [
        (whisper, {"prompt": "Hi"}, UsageError, "a prompt is for captions"),
        (whisper, {"language": "gemran"}, UsageError, "did you mean 'german'"),
        (whisper, {"max_new_tokens": 99}, UsageError, "the decoder takes 44 a window"),
        (whisper, {"kind": "caption"}, ModelError, "it is a model for 'asr'"),
        (audio_lm, {"kind": "asr"}, ModelError, "it is a model for 'caption'"),
        (audio_lm, {"language": "en"}, UsageError, "are for speech recognition"),
        (text_teacher, {}, ModelError, "a 'qwen3' model does not listen"),
        (tmp_path / "none", {}, ModelError, "does not exist"),
    ]
    for model, settings, kind, message in cases:
        with pytest.raises(kind) as caught:
            settle("said", ListenRecipe(model=str(model), **settings))
        assert message in str(caught.value)

    english = save_whisper(tmp_path / "english", multilingual=False)
    with pytest.raises(UsageError, match="one language and one task"):
        settle("said", ListenRecipe(model=str(english), language="en"))
    assert load(planned(english)).hear(chirps(1.0))
    front_end = english / "processor_config.json"
    told = json.loads(front_end.read_text())
    told["feature_extractor"]["sampling_rate"] = 22_050
    front_end.write_text(json.dumps(told))
    with pytest.raises(ModelError, match="it hears 22050 Hz"):
        settle("said", ListenRecipe(model=str(english)))
    front_end.unlink()
    with pytest.raises(ModelError, match=r"no preprocessor_config\.json"):
        settle("said", ListenRecipe(model=str(english)))
    (english / "generation_config.json").unlink()
    with pytest.raises(ModelError, match=r"no generation_config\.json"):
        settle("said", ListenRecipe(model=str(english)))


def test_other_weights_are_another_listener(whisper: Path, tmp_path: Path) -> None:
    other = save_whisper(tmp_path / "other", seed=1)
    assert planned(whisper).info.fingerprint != planned(other).info.fingerprint
    copy = Path(shutil.copytree(whisper, tmp_path / "copy"))
    assert planned(whisper).info.fingerprint == planned(copy).info.fingerprint
    told = json.loads((copy / "generation_config.json").read_text())
    told["suppress_tokens"] = told["suppress_tokens"][1:]
    (copy / "generation_config.json").write_text(json.dumps(told))
    assert planned(whisper).info.fingerprint != planned(copy).info.fingerprint
    batch = replace(ListenRecipe(model=str(whisper)), batch_size=1, device="cpu")
    assert plan("heard", batch).info.fingerprint == planned(whisper).info.fingerprint
