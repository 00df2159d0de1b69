"""Listening as a step: what the tape says of it, several listeners, killed and continued."""

from __future__ import annotations

import gc
import re
import shutil
import signal
import weakref
from pathlib import Path
from typing import Any

import fast_listen
import pytest
from forks import Forks
from listening_steps import Scripted, listening, pipeline, planned
from tiny_stage_one import save_dataset
from typer.testing import CliRunner
from whole_tape import leftovers

from cache_schema import open_tape
from pipeline.cli import app
from pipeline.costs.measure import as_one
from pipeline.listen import record
from pipeline.listen.plan import Listening, load


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
