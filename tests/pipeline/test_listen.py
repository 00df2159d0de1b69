"""Models that listen: what they hear, alone and in batches, and what the tape says of them."""

from __future__ import annotations

import gc
import json
import re
import shutil
import signal
import weakref
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import fast_listen
import numpy as np
import pytest
import torch
from forks import Forks
from tiny_audio_lm import save_qwen_audio
from tiny_stage_one import save_dataset
from tiny_whisper import WINDOW_S, save_whisper
from typer.testing import CliRunner, Result
from whole_tape import leftovers

from audio_models.waveforms import window_edges
from cache_schema import open_tape
from cache_schema.errors import AudioError, ModelError, UsageError
from cache_schema.types import FloatArray, Heard
from pipeline.cli import app
from pipeline.costs.measure import as_one
from pipeline.listen import record
from pipeline.listen.base import Hearing
from pipeline.listen.plan import Listening, load, plan, settle
from pipeline.textualize_recipe import ListenRecipe

SILENCE_ID = 264  # <|nospeech|> of the tiny Whisper


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def audio_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen_audio(tmp_path_factory.mktemp("audio_lm"))


def chirps(*seconds: float) -> list[FloatArray]:
    found = []
    for index, length_s in enumerate(seconds):
        times_s = np.arange(int(length_s * 16_000)) / 16_000
        noise = np.random.default_rng(index).normal(0, 0.02, len(times_s))
        found.append(0.3 * np.sin(2 * np.pi * (200 + 300 * times_s) * times_s) + noise)
    return [audio.astype(np.float32) for audio in found]


def planned(model: Path, **settings: Any) -> Listening:
    return plan("heard", ListenRecipe(model=str(model), device="cpu", **settings))


def pipeline(step: str, folder: Path, *settings: str) -> Result:
    told = ["--dataset", folder / "rows.jsonl", "--out", folder / "t", *settings]
    return CliRunner().invoke(app, [step, *map(str, told)])


def listening(whisper: Path, audio_lm: Path, *more: str) -> list[str]:
    settings = [
        f"transcript.model={whisper}", "transcript.batch_size=4", "transcript.device=cpu",
        f"scene.model={audio_lm}", "scene.max_new_tokens=6", "scene.device=cpu",
        "scene.prompt=What is heard?", *more,
    ]  # fmt: skip
    return [part for one in settings for part in ("--set", f"textualize.listen.{one}")]


def ingested(folder: Path, rows: int = 9) -> Path:
    """A tape of rows with no column but the speaker, to describe by listening."""
    dataset = save_dataset(folder, rows)
    lines = [json.loads(line) for line in dataset.read_text().splitlines()]
    for row in lines:
        del row["transcript"]
    dataset.write_text("".join(json.dumps(row) + "\n" for row in lines))
    done = pipeline("ingest", folder)
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingested(tmp_path_factory.mktemp("samples"))


@pytest.fixture
def folder(samples: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(samples, tmp_path / "copy"))


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


def test_both_make_the_description(folder: Path, whisper: Path, audio_lm: Path) -> None:
    told = listening(whisper, audio_lm)
    template = "textualize.template={speaker}: {transcript} [{scene}]\n{transcript.segments}"
    done = pipeline("textualize", folder, *told, "--set", template)
    assert done.exit_code == 0, done.stderr
    assert f"{whisper} listens (asr, float32)" in done.stderr
    assert re.search(r"scene: 9 of 9 .* [1-9] texts were cut at max_new_tokens=6", done.stderr)
    tape = open_tape(folder / "t")
    for row in tape:
        assert row.heard.keys() == {"transcript", "scene"}
        said, scene = row.heard["transcript"], row.heard["scene"]
        assert str(row.description).startswith(f"machine: {said.text} [{scene.text}]\n")
        assert said == load(planned(whisper)).hear([row.audio])[0].heard
        assert all(0 <= s.start_s <= s.end_s <= len(row.audio) / 16_000 for s in said.segments)
        if said.segments:
            assert f"[00:0{int(said.segments[0].start_s + 0.5)}-00:0" in str(row.description)

    makers = {name: group.identity for name, group in tape.groups.items()}
    assert makers["heard_transcript"]["listener"] == "asr"
    assert makers["heard_transcript"]["model_digest"].startswith("sha256:")
    assert makers["heard_transcript"]["decoding"]["no_speech_threshold"] == 0.6
    assert makers["heard_scene"]["prompt"] == "What is heard?"
    assert tape.groups["heard_scene"].notes["engine_version"]
    assert makers["descriptions"]["heard"] == {
        column: tape.groups[f"heard_{column}"].fingerprint for column in ("transcript", "scene")
    }
    verified = CliRunner().invoke(app, ["verify", str(folder / "t"), "--deep"])
    assert verified.exit_code == 0, verified.output

    again = pipeline("textualize", folder, *told, "--set", template)
    assert again.exit_code == 0
    assert again.stderr.count("every recording is heard") == 2
    assert "are described" in again.stderr


def test_another_listener_is_refused_by_name(folder: Path, whisper: Path, audio_lm: Path) -> None:
    only = [f"textualize.listen.transcript.{one}" for one in (f"model={whisper}", "language=en")]
    told = ["--set", only[0], "--set", only[1]]
    assert pipeline("textualize", folder, *told).exit_code == 0
    other = pipeline("textualize", folder, "--set", only[0])
    assert other.exit_code == 1
    assert "'heard_transcript' was recorded differently" in other.stderr
    assert "language: tape '<|en|>', now ''" in other.stderr
    more = pipeline("textualize", folder, *told, *listening(whisper, audio_lm)[6:])
    assert more.exit_code == 1
    assert "'descriptions' was recorded differently" in more.stderr
    assert "heard_scene" not in open_tape(folder / "t").groups, "refused before it listened"
    none = pipeline("textualize", folder)
    assert none.exit_code == 1
    assert "'descriptions' was recorded differently" in none.stderr


def test_a_column_of_the_dataset_is_not_overwritten(
    folder: Path, whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found before the first listener loads, also where it is another one's column."""
    monkeypatch.setattr(record, "load", lambda listening: pytest.fail("loaded"))
    told = [f"textualize.listen.{column}.model={whisper}" for column in ("said", "speaker")]
    done = pipeline("textualize", folder, "--set", told[0], "--set", told[1])
    assert done.exit_code == 1
    assert "the dataset has a column 'speaker' already (sample 'row-0')" in done.stderr
    assert "such as speaker_heard" in done.stderr
    assert not open_tape(folder / "t").groups.keys() & {"heard_said", "heard_speaker"}


def test_recordings_that_are_only_referred_to(
    tmp_path: Path, whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read from the dataset, and must be those the tape was made from."""
    dataset = save_dataset(tmp_path, 4)
    assert pipeline("ingest", tmp_path, "--audio", "reference").exit_code == 0
    monkeypatch.setattr(record, "load", lambda listening: Scripted(most=99))
    told = ["--set", f"textualize.listen.said.model={whisper}", "--audio", "reference"]
    told += ["--set", "failures.max_fraction=0.5"]
    content = dataset.read_text()
    dataset.write_text(content + "\n")
    other = pipeline("textualize", tmp_path, *told)
    assert other.exit_code == 1
    assert "another one than it was made from, or changed" in other.stderr
    dataset.write_text(content)

    shutil.copy(tmp_path / "clip-1.flac", tmp_path / "clip-2.ogg")
    done = pipeline("textualize", tmp_path, *told)
    assert done.exit_code == 0, done.stderr
    tape = open_tape(tmp_path / "t")
    for name in ("row-0", "row-1", "row-3"):
        assert tape[name].heard["said"].text == f"{tape[name].num_audio_samples} samples"
    (failed,) = (item for item in tape.quarantined if item.group == "heard_said")
    assert (failed.sample_id, failed.reason) == ("row-2", "audio")
    assert "is another than when the tape was made" in failed.detail


class Scripted:
    """Hears the length; runs out of memory above a batch size; one length cannot be heard."""

    def __init__(self, most: int, bad: int = 0) -> None:
        self.most, self.bad = most, bad
        self.batches: list[int] = []

    def hear(self, audios: Sequence[FloatArray]) -> list[Hearing]:
        self.batches.append(len(audios))
        if len(audios) > self.most:
            raise torch.cuda.OutOfMemoryError("out of memory")
        if self.bad in map(len, audios):
            raise AudioError("cannot be heard")
        heard = [Heard(text=f"{len(audio)} samples") for audio in audios]
        return [Hearing(heard=one, is_cut=False) for one in heard]


def test_memory_running_out_halves_the_batch_for_good(
    folder: Path, whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = Scripted(most=2)
    monkeypatch.setattr(record, "load", lambda listening: scripted)
    done = pipeline("textualize", folder, "--set", f"textualize.listen.said.model={whisper}")
    assert done.exit_code == 0, done.stderr
    assert "out of memory with 8 recordings, now 4" in done.stderr
    assert "out of memory with 4 recordings, now 2" in done.stderr
    assert scripted.batches == [8, 4, 2, 2, 2, 2, 1]
    for row in open_tape(folder / "t"):
        assert row.heard["said"].text == f"{row.num_audio_samples} samples"


def test_a_recording_that_cannot_be_heard(
    folder: Path, whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = open_tape(folder / "t")["row-4"].num_audio_samples
    monkeypatch.setattr(record, "load", lambda listening: Scripted(most=99, bad=bad))
    told = ["--set", f"textualize.listen.said.model={whisper}"]
    strict = pipeline("textualize", folder, *told)
    assert strict.exit_code == 1
    assert "textualize: said: 1 of 9 samples failed" in strict.stderr
    assert "row-4 (row 4): audio: cannot be heard" in strict.stderr
    done = pipeline("textualize", folder, *told, "--set", "failures.max_fraction=0.2")
    assert done.exit_code == 0, done.stderr
    tape = open_tape(folder / "t")
    failed = {(item.group, item.sample_id): item for item in tape.quarantined}
    assert failed.keys() == {("heard_said", "row-4"), ("descriptions", "row-4")}
    assert failed["descriptions", "row-4"].reason == "not heard"
    assert failed["descriptions", "row-4"].detail == "said: audio: cannot be heard"
    assert len(tape.recorded("descriptions")) == 8


def test_a_recording_too_long_for_the_memory(
    folder: Path, whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cannot be heard, another not even alone: each fails once, the others are heard."""
    samples = [row.num_audio_samples for row in open_tape(folder / "t")]

    class Small(Scripted):
        def hear(self, audios: Sequence[FloatArray]) -> list[Hearing]:
            if max(samples) in map(len, audios):
                raise torch.cuda.OutOfMemoryError("out of memory")
            return super().hear(audios)

    monkeypatch.setattr(record, "load", lambda listening: Small(most=99, bad=sorted(samples)[-2]))
    told = ["--set", f"textualize.listen.said.model={whisper}"]
    done = pipeline("textualize", folder, *told, "--set", "failures.max_fraction=0.5")
    assert done.exit_code == 0, done.stderr
    tape = open_tape(folder / "t")
    failed = [item for item in tape.quarantined if item.group == "heard_said"]
    assert sorted(item.reason for item in failed) == ["audio", "out of memory"]
    assert len(tape.recorded("heard_said")) == 7


class Breaking(Scripted):
    """Breaks on recordings of some lengths as models and allocators do."""

    def __init__(self, lengths: Sequence[int], error: Exception) -> None:
        super().__init__(most=99)
        self.lengths, self.error = set(lengths), error

    def hear(self, audios: Sequence[FloatArray]) -> list[Hearing]:
        if self.lengths & set(map(len, audios)):
            raise self.error
        return super().hear(audios)


@pytest.mark.parametrize(
    ("error", "reason", "detail"),
    [
        (RuntimeError("shapes\ndiffer"), "listener broke", "RuntimeError: shapes"),
        (IndexError("index 448"), "listener broke", "IndexError: index 448"),
        (RuntimeError("MPS backend out of memory"), "out of memory", "audio samples"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "out of memory", "audio samples"),
    ],
)
def test_a_listener_outlasts_a_recording_it_breaks_on(
    folder: Path, whisper: Path, monkeypatch: pytest.MonkeyPatch,
    error: Exception, reason: str, detail: str,
) -> None:  # fmt: skip
    lengths = sorted(row.num_audio_samples for row in open_tape(folder / "t"))
    bad = [lengths[0], lengths[1], lengths[-1]]  # three, not in a row
    monkeypatch.setattr(record, "load", lambda listening: Breaking(bad, error))
    told = ["--set", f"textualize.listen.said.model={whisper}"]
    done = pipeline("textualize", folder, *told, "--set", "failures.max_fraction=0.5")
    assert done.exit_code == 0, done.stderr
    failed = [item for item in open_tape(folder / "t").quarantined if item.group == "heard_said"]
    assert {item.reason for item in failed} == {reason}
    assert all(detail in item.detail for item in failed)
    assert len(failed) == 3


def test_a_listener_that_breaks_on_three_in_a_row_cannot_go_on(
    folder: Path, whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named, without a traceback, and what was heard stays."""
    lengths = sorted(row.num_audio_samples for row in open_tape(folder / "t"))
    assert len(set(lengths)) == 9
    broken = Breaking(lengths[4:], RuntimeError("device-side assert"))
    monkeypatch.setattr(record, "load", lambda listening: broken)
    told = ["--set", f"textualize.listen.said.model={whisper}"]
    done = pipeline("textualize", folder, *told, "--set", "failures.max_fraction=1.0")
    assert done.exit_code == 1
    assert "said: the model broke on 3 recordings in a row" in done.stderr
    assert "RuntimeError: device-side assert" in done.stderr
    tape = open_tape(folder / "t")
    assert len(tape.recorded("heard_said")) == 4
    assert tape.quarantined == []


class Silent:
    def hear(self, audios: Sequence[FloatArray]) -> list[Hearing]:
        return [Hearing(heard=Heard(text=""), is_cut=False) for _ in audios]


def test_nothing_heard_and_nothing_else_to_go_by(
    folder: Path, whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "load", lambda listening: Silent())
    told = ["--set", f"textualize.listen.said.model={whisper}"]
    with_speaker = pipeline("textualize", folder, *told)
    assert with_speaker.exit_code == 0, with_speaker.stderr
    assert "said: 9 of 9 recordings are heard; nothing was heard in 9" in with_speaker.stderr
    assert open_tape(folder / "t")["row-0"].description == "Speaker: machine"

    shutil.rmtree(folder / "t")
    assert pipeline("ingest", folder).exit_code == 0
    template = ["--set", "textualize.template={said}", "--set", "failures.max_fraction=1.0"]
    done = pipeline("textualize", folder, *told, *template)
    assert done.exit_code == 0, done.stderr
    reasons = {(item.reason, item.detail) for item in open_tape(folder / "t").quarantined}
    hint = "speaker; nothing was heard (said); give --set textualize.template='...{column}...'"
    assert reasons == {("empty description", hint)}


def test_a_listener_is_gone_before_the_next_one(
    folder: Path, whisper: Path, audio_lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []

    def noted(listening: Listening) -> Any:
        assert [one() for one in alive] == [None] * len(alive), "the one before is still there"
        listener: Any = load(listening)
        model = getattr(listener, "_model", None)
        alive.append(weakref.ref(listener._lm.model if model is None else model))
        return listener

    monkeypatch.setattr(record, "load", noted)
    done = pipeline("textualize", folder, *listening(whisper, audio_lm))
    assert done.exit_code == 0, done.stderr
    gc.collect()
    assert [one() for one in alive] == [None, None]


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


def test_a_missing_listener_is_found_before_anything_runs(
    tmp_path: Path, text_teacher: Path
) -> None:
    save_dataset(tmp_path, 2)
    told = ["--text-teacher", str(text_teacher), "--set", "textualize.listen.said.model=./nowhere"]
    done = pipeline("extract-teachers", tmp_path, *told)
    assert done.exit_code == 1
    assert "'./nowhere' does not exist" in done.stderr
    assert not (tmp_path / "t").exists()


def test_the_estimate_counts_listening_as_work_and_loading_as_start_up() -> None:
    listener = {"opened_s": 10.0, "marks": [[12.0, 1], [15.0, 1]], "closed_s": 15.5}
    described = {"opened_s": 20.0, "marks": [[20.1, 1], [20.2, 1]], "closed_s": 20.3}
    (one,) = as_one([listener, described])
    assert one == {**described, "opened_s": 14.5}, "4.5 s of loading went before"
    assert as_one([described]) == [described]
    assert as_one([]) == []


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


def test_killed_and_continued(samples: Path, whisper: Path, tmp_path: Path) -> None:
    """``kill -9`` at touches of the tape's files, spread over the step: nothing lost or doubled."""

    def arguments(name: str) -> tuple[str, ...]:
        root = Path(shutil.copytree(samples / "t", tmp_path / name, dirs_exist_ok=True))
        diary = tmp_path / f"{name}.log"
        diary.unlink(missing_ok=True)
        return str(samples / "rows.jsonl"), str(root), str(whisper), str(diary)

    def texts(name: str) -> dict[str, Any]:
        tape = open_tape(tmp_path / name)
        assert tape.catalog.index.duplicates == 0
        return {row.sample_id: (row.heard, row.description) for row in tape}

    step = "fast_listen:textualize"
    with Forks("fast_listen") as forks:
        whole = forks.run(step, *arguments("whole"), 0)
        assert whole.status == 0, whole.trace
        assert len((tmp_path / "whole.log").read_bytes()) == 9
        killed = 0
        told = arguments("killed")
        for part in (0.2, 0.35, 0.5, 0.5, 0.6):
            ended = forks.run(step, *told, max(1, int(part * whole.value)))
            assert ended.status in (0, -signal.SIGKILL), ended.trace
            killed += ended.status != 0
        last = forks.run(step, *told, 0)
        assert last.status == 0, last.trace
    assert killed >= 3
    assert texts("killed") == texts("whole")
    heard = len((tmp_path / "killed.log").read_bytes())
    assert heard <= 9 + killed * fast_listen.SHARD_SAMPLES, "a committed shard was heard again"
    assert leftovers(tmp_path / "killed") == []
