"""Listeners at fault: memory that runs out, recordings that break them, nothing heard."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from listening_steps import Scripted, pipeline

from cache_schema import open_tape
from cache_schema.types import FloatArray, Heard
from pipeline.listen import record
from pipeline.listen.base import Hearing


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
    assert "said: the listener broke on 3 samples in a row" in done.stderr
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
