"""Audio classifiers that fill a column: what they tell, and what the tape says of them."""

from __future__ import annotations

import json
import shutil
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny_audio_encoders as tiny
import torch
import transformers
from heard_classes import heard, planned, reference, save
from test_rows_of_several import tone
from typer.testing import CliRunner, Result

from cache_schema import open_tape
from cache_schema.errors import AudioError, ModelError, UsageError
from cache_schema.types import FloatArray, Heard, Segment
from pipeline.cli import app
from pipeline.listen import record
from pipeline.listen.classify import spans
from pipeline.listen.plan import load
from pipeline.textualize_recipe import ListenRecipe


@pytest.fixture(scope="module")
def emotion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("emotion")
    return save(folder, "wav2vec2", "ForSequenceClassification", [0.0, 1.0, 0.5])


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of frames whose classes come and go: each is on in about half the frames."""
    folder = save(tmp_path_factory.mktemp("turns"), "wavlm", "ForAudioFrameClassification")
    model = transformers.WavLMForAudioFrameClassification.from_pretrained(folder)
    logits = model(torch.from_numpy(tiny.recordings(4.0)[0])[None]).logits[0]
    with torch.no_grad():
        model.classifier.bias -= logits.median(dim=0).values
    model.save_pretrained(folder)
    return folder


def test_a_class_that_is_not_told(emotion: Path) -> None:
    audios = tiny.recordings(0.5)
    assert heard(emotion, audios) == [Heard(text="glad")]
    assert heard(emotion, audios, ignore=("glad",)) == [Heard(text="")]


def runs_by_hand(is_on: list[bool], min_frames: int) -> list[tuple[int, int]]:
    """The same as ``spans``, counted in frames, one frame after the other."""
    closed = list(is_on)
    at = 0
    for on, group in groupby(is_on):
        length = len(list(group))
        if not on and at > 0 and at + length < len(is_on) and length < min_frames:
            closed[at : at + length] = [True] * length
        at += length
    found = []
    at = 0
    for on, group in groupby(closed):
        length = len(list(group))
        if on and length >= min_frames:
            found.append((at, at + length))
        at += length
    return found


@pytest.mark.parametrize("min_s", [0.0, 0.02, 0.06, 0.2])
def test_what_is_on_from_when_to_when(turns: Path, min_s: float) -> None:
    """Against transformers' logits, a run of frames at a time."""
    (audio,) = tiny.recordings(4.0)
    logits_FC = reference(turns, "WavLMForAudioFrameClassification", audio)
    expected = []
    for number, label in enumerate(tiny.LABELS):
        is_on = (1 / (1 + np.exp(-logits_FC[:, number])) >= 0.5).tolist()
        expected += [
            Segment(start_s=round(0.02 * first, 3), end_s=round(0.02 * behind, 3), text=label)
            for first, behind in runs_by_hand(is_on, round(min_s / 0.02))
        ]
    expected.sort(key=lambda segment: (segment.start_s, segment.end_s))
    (found,) = heard(turns, [audio], min_s=min_s)
    assert list(found.segments) == expected
    assert len(expected) >= 3
    assert len(found.text.splitlines()) == len(expected)
    first = expected[0]
    told = found.text.splitlines()[0]
    assert told.endswith(f"] {first.text}")
    seconds = [int(at[:2]) * 60 + float(at[3:]) for at in told[1 : told.index("]")].split("-")]
    is_short = first.end_s - first.start_s < 1
    assert seconds == pytest.approx([first.start_s, first.end_s], abs=0.051 if is_short else 0.51)
    (quiet,) = heard(turns, [audio], min_s=min_s, ignore=tiny.LABELS[1:])
    assert list(quiet.segments) == [one for one in expected if one.text == tiny.LABELS[0]]


def test_frames_alone_and_in_a_batch(turns: Path) -> None:
    audios = tiny.recordings(0.4, 3.1, 1.7, 0.06)
    found = heard(turns, audios)
    assert heard(turns, audios[::-1]) == found[::-1]
    assert [heard(turns, [audio])[0] for audio in audios] == found
    assert heard(turns, audios, threshold=0.999) == [Heard(text="")] * 4


def test_recordings_longer_than_the_front_end_hears(
    turns: Path, emotion: Path, tmp_path: Path
) -> None:
    """Frames are heard in equal windows and read as one; a whole recording is not cut."""
    listener: Any = load(planned(turns, min_s=0.0))
    long, short = tiny.recordings(3.9, 1.0)
    whole = [listener.hear([part])[0].heard for part in np.split(long, 3)]
    beside = listener.hear([short])[0]
    listener._model.max_audio_s = 1.5
    found, other = listener.hear([long, short])
    assert other == beside
    assert heard(turns, [long, short], min_s=0.0, chunk_s=1.5) == [found.heard, other.heard]
    told = [(s.start_s, s.end_s, s.text) for s in found.heard.segments]
    inner = [
        (round(s.start_s + 1.3 * number, 3), round(s.end_s + 1.3 * number, 3), s.text)
        for number, one in enumerate(whole)
        for s in one.segments
        if s.start_s > 0.1 and s.end_s < 1.2
    ]
    assert len(inner) > 5
    assert set(inner) <= set(told)
    assert max(end_s for _, end_s, _ in told) <= 3.9
    for label in tiny.LABELS:
        own = [one for one in told if one[2] == label]
        assert all(a[1] < b[0] for a, b in pairwise(own)), "joined at the edges"

    window = save(tmp_path, "whisper", "ForAudioClassification")
    assert heard(window, tiny.recordings(4.0))
    with pytest.raises(AudioError, match=r"4\.2 s of audio, and .* of at most 4 s"):
        heard(window, tiny.recordings(4.2))


def test_spans_close_gaps_and_leave_out_what_is_short() -> None:
    times_s = np.stack([np.arange(12) * 0.1, np.arange(1, 13) * 0.1], axis=1).astype(np.float32)
    is_on = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 1, 0, 0], dtype=bool)
    assert spans(is_on, times_s, 0.0) == [(0.0, 0.3), (0.4, 0.6), (0.9, 1.0)]
    assert spans(is_on, times_s, 0.2) == [(0.0, 0.6)]
    assert spans(is_on, times_s, 0.3) == [(0.0, 0.6)]
    assert spans(is_on, times_s, 0.31) == [(0.0, 1.0)]
    assert spans(np.zeros(12, bool), times_s, 0.0) == []
    assert spans(np.ones(12, bool), times_s, 0.0) == [(0.0, 1.2)]


def test_what_does_not_go_with_a_classifier(
    emotion: Path, turns: Path, acoustic_teacher: Path, tmp_path: Path
) -> None:
    bare = tiny.save_encoder(tmp_path / "bare", "wav2vec2", "Model")
    unnamed = tiny.save_encoder(tmp_path / "unnamed", "wav2vec2", "ForSequenceClassification")
    config = json.loads((unnamed / "config.json").read_text())
    config["id2label"] = {str(number): f"LABEL_{number}" for number in range(3)}
    (unnamed / "config.json").write_text(json.dumps(config))
    cases: list[tuple[Path, dict[str, Any], type[Exception], str]] = [
        (emotion, {"prompt": "Hi"}, UsageError, "prompt means nothing to"),
        (emotion, {"language": "en"}, UsageError, "language means nothing to"),
        (emotion, {"max_new_tokens": 5}, UsageError, "max_new_tokens means nothing to"),
        (emotion, {"min_s": 0.5}, UsageError, "a classifier of whole recordings"),
        (emotion, {"chunk_s": 5.0}, UsageError, "chunk_s means nothing to"),
        (emotion, {"threshold": 0.4}, UsageError, "tells one class of all"),
        (emotion, {"ignore": ("gald",)}, UsageError, "did you mean 'glad'"),
        (emotion, {"kind": "asr"}, ModelError, "it is a model for 'classify'"),
        (acoustic_teacher, {"ignore": ("sad",)}, UsageError, "ignore means nothing to"),
        (acoustic_teacher, {"kind": "classify"}, ModelError, "it is a model for 'caption'"),
        (bare, {}, ModelError, "an encoder with a classifier's head"),
        (unnamed, {}, ModelError, "have no names"),
    ]
    for model, settings, kind, message in cases:
        with pytest.raises(kind) as caught:
            planned(model, **settings)
        assert message in str(caught.value)
    for wrong in (
        {"threshold": 1.0}, {"threshold": 0.0}, {"min_s": -1.0}, {"chunk_s": 0.5},
        {"chunk_s": float("inf")}, {"kind": "clasify"},
    ):  # fmt: skip
        with pytest.raises(UsageError, match=r"textualize\.listen: "):
            ListenRecipe(model=str(turns), **wrong)


def test_what_a_text_depends_on_is_told(turns: Path, tmp_path: Path) -> None:
    plain = planned(turns)
    for settings in ({"threshold": 0.6}, {"min_s": 0.1}, {"ignore": ("sad",)}, {"chunk_s": 9.0}):
        assert planned(turns, **settings).info.fingerprint != plain.info.fingerprint
    assert planned(turns, threshold=0.5, batch_size=1).info.fingerprint == plain.info.fingerprint
    copy = Path(shutil.copytree(turns, tmp_path / "copy"))
    assert planned(copy).info.fingerprint == plain.info.fingerprint
    front = copy / "preprocessor_config.json"
    front.write_text(json.dumps({**json.loads(front.read_text()), "do_normalize": True}))
    assert planned(copy).info.fingerprint != plain.info.fingerprint
    identity = plain.info.identity
    assert identity["labels"] == list(tiny.LABELS)
    assert (identity["listener"], identity["threshold"], identity["min_s"]) == (
        "classify",
        0.5,
        0.2,
    )


def run(step: str, folder: Path, *settings: str) -> Result:
    told = ["--dataset", str(folder / "rows.jsonl"), "--out", str(folder / "t")]
    return CliRunner().invoke(app, [step, *told, *settings])


def test_columns_of_the_description(
    tmp_path: Path, emotion: Path, turns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two classifiers, a batch stopped halfway and continued, and a template that shows both."""
    rows = []
    for number in range(6):
        name = f"{number}.wav"
        soundfile.write(tmp_path / name, tone(200 + 50 * number, 8_000 + 4_000 * number), 16_000)
        rows.append({"id": f"r{number}", "audio": name, "question": "?", "speaker": "ann"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("ingest", tmp_path).exit_code == 0
    settings = [
        f"emotion.model={emotion}", "emotion.device=cpu", "emotion.batch_size=2",
        f"turns.model={turns}", "turns.device=cpu", "turns.min_s=0.06", 'turns.ignore=["sad"]',
    ]  # fmt: skip
    told = [part for one in settings for part in ("--set", f"textualize.listen.{one}")]
    template = ("--set", "textualize.template={speaker} sounds {emotion}.\n{turns}")

    class Stopping:
        def __init__(self, listener: Any) -> None:
            self.listener, self.batches = listener, 0

        def hear(self, audios: list[FloatArray]) -> Any:
            self.batches += 1
            if self.batches > 2:
                raise KeyboardInterrupt
            return self.listener.hear(audios)

    with monkeypatch.context() as patched:
        patched.setattr(record, "load", lambda listening: Stopping(load(listening)))
        stopped = run("textualize", tmp_path, *told, *template, "--set", "tape.shard_samples=2")
        assert stopped.exit_code != 0
    before = len(open_tape(tmp_path / "t").recorded("heard_emotion"))
    assert 0 < before < 6
    done = run("textualize", tmp_path, *told, *template)
    assert done.exit_code == 0, done.stderr
    assert f"{emotion} listens (classify, float32)" in done.stderr
    assert f"emotion: {6 - before} of {6 - before} recordings are heard" in done.stderr
    assert "max_new_tokens" not in done.stderr
    tape = open_tape(tmp_path / "t")
    listener = load(planned(turns, min_s=0.06, ignore=("sad",)))
    for row in tape:
        assert row.heard["emotion"] == Heard(text="glad")
        assert row.heard["turns"] == listener.hear([row.audio])[0].heard
        assert {segment.text for segment in row.heard["turns"].segments} <= {"angry", "glad"}
        assert row.description == f"ann sounds glad.\n{row.heard['turns'].text}"
    assert any(row.heard["turns"].segments for row in tape)
    maker = tape.groups["heard_turns"].identity
    assert (maker["of"], maker["ignore"]) == ("frames", ["sad"])
    assert maker["model_digest"].startswith("sha256:")
    assert maker["front_end_digest"].startswith("sha256:")
    verified = CliRunner().invoke(app, ["verify", str(tmp_path / "t"), "--deep"])
    assert verified.exit_code == 0, verified.output

    again = run("textualize", tmp_path, *told, *template)
    assert (again.exit_code, again.stderr.count("every recording is heard")) == (0, 2)
    other = run(
        "textualize", tmp_path, *told, *template, "--set", "textualize.listen.turns.threshold=0.6"
    )
    assert other.exit_code == 1
    assert "'heard_turns' was recorded differently" in other.stderr
    assert "threshold: tape 0.5, now 0.6" in other.stderr
