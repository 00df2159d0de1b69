"""Batches of the acoustic step: cut, grown, split when memory runs out, and built ahead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hearing_recipes import ROWS, contents, recipe_for
from hypothesis import given
from hypothesis import strategies as st

from audio_models.load import AudioLM
from cache_schema import open_tape
from cache_schema.errors import ModelError, TokenizerMismatchError
from pipeline.extract import run_step
from pipeline.hearing import language_model
from pipeline.hearing.batches import GROWS_BELOW, MAX_ITEMS, Capacity, cut
from pipeline.teachers.acoustic import Item
from pipeline.teachers.hf_acoustic import AudioLMTeacher


def test_one_recording_spoils_no_other(
    tmp_path: Path,
    acoustic_teacher: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Built in one batch of all samples; the one too long for the front end is found by halving."""
    recipe = recipe_for(tmp_path, acoustic_teacher, batch_size=ROWS)
    tape = open_tape(recipe.tape.out)
    longest = max(tape, key=lambda row: row.num_audio_samples)
    load = language_model.load_audio_lm

    def of_short_hearing(*arguments: Any) -> AudioLM:
        lm = load(*arguments)
        return AudioLM(**{**vars(lm), "max_audio_s": (longest.num_audio_samples - 1) / 16_000})

    monkeypatch.setattr(language_model, "load_audio_lm", of_short_hearing)
    run_step("acoustic", recipe)
    tape = open_tape(recipe.tape.out)
    assert tape.recorded("acoustic") == {row.sample_id for row in tape} - {longest.sample_id}
    (failed,) = tape.quarantined
    assert (failed.sample_id, failed.reason) == (longest.sample_id, "audio")
    assert "cut the recording first" in failed.detail
    assert f"acoustic: {ROWS} samples in" in capsys.readouterr().err


def test_memory_that_a_pass_on_its_way_holds_is_waited_for(
    tmp_path: Path,
    acoustic_teacher: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second pass finds no memory at first: it is tried again once the first has landed."""
    recipe = recipe_for(tmp_path, acoustic_teacher, batch_size=2)
    load = language_model.load_audio_lm
    passes: list[int] = []

    def full_once(*arguments: Any) -> AudioLM:
        lm = load(*arguments)

        def note(_module: Any, _args: Any, kwargs: dict[str, torch.Tensor]) -> None:
            if "attention_mask" in kwargs and "output_hidden_states" not in kwargs:
                passes.append(len(kwargs["input_ids"]))
                if len(passes) == 2:
                    raise RuntimeError("CUDA error: out of memory")

        lm.model.register_forward_pre_hook(note, with_kwargs=True)
        return lm

    monkeypatch.setattr(language_model, "load_audio_lm", full_once)
    run_step("acoustic", recipe)
    assert passes == [2, 2, 2, 1]
    assert "out of memory" not in capsys.readouterr().err
    assert len(open_tape(recipe.tape.out).recorded("acoustic")) == ROWS


def item(seconds: float) -> Item:
    return Item(audio=np.zeros(round(seconds * 16_000), np.float32), length_s=seconds)


@given(
    st.lists(st.floats(0.01, 90.0), max_size=60),
    st.integers(0, 7),
    st.booleans(),
)
def test_batches_hold_every_item_once_in_order(
    lengths: list[float], batch_size: int, same_length: bool
) -> None:
    capacity = Capacity.of(batch_size)
    batches = list(cut(((n, item(s)) for n, s in enumerate(lengths)), capacity, same_length))
    assert [n for batch in batches for n, _ in batch] == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= (batch_size or MAX_ITEMS)
        if not batch_size and len(batch) > 1:
            assert len(batch) * max(one.length_s for _, one in batch) <= 64.0
        if same_length:
            assert len({len(one.audio) for _, one in batch}) == 1


def test_a_size_that_is_found_doubles_while_there_is_room(
    capsys: pytest.CaptureFixture[str],
) -> None:
    capacity = Capacity.of(0)
    capacity.saw(4, 10.0, used=0.1)
    assert capacity.told() == "128 s of audio a pass"
    capacity.saw(1, 10.0, used=0.1)  # not full: it tells nothing of a larger one
    assert capacity.told() == "128 s of audio a pass"
    capacity.saw(12, 10.0, used=GROWS_BELOW)
    capacity.saw(12, 10.0, used=0.1)  # the allocator's peak was seen: it would not fit
    assert capacity.told() == "128 s of audio a pass"
    capacity.halve(12, 10.0, "acoustic")
    assert capacity.told() == "60 s of audio a pass"
    said = "out of memory with 12 items a pass, from now on 60 s of audio a pass"
    assert said in capsys.readouterr().err
    assert capacity.holds(1, 1e9)
    assert capacity.holds(60, 1.0), "short ones share a pass as before"
    capacity.saw(1, 60.0, used=0.1)
    assert capacity.told() == "60 s of audio a pass", "it does not grow again"
    fixed = Capacity.of(3)
    fixed.saw(3, 10.0, used=0.01)
    assert fixed.told() == "3 items a pass"
    fixed.halve(2, 10.0, "acoustic")
    fixed.halve(3, 10.0, "acoustic")  # a batch that was cut before
    assert fixed.told() == "1 items a pass"


@pytest.mark.parametrize("place", ["build", "launch", "land"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (ValueError("too many values to unpack"), "teacher broke"),
        (TokenizerMismatchError("token id 300"), "other token ids"),
    ],
)
def test_what_one_recording_breaks_is_lost_alone(
    tmp_path: Path,
    acoustic_teacher: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception,
    reason: str,
) -> None:
    recipe = recipe_for(tmp_path, acoustic_teacher, batch_size=2)
    longest = max(open_tape(recipe.tape.out), key=lambda row: row.num_audio_samples)
    does = getattr(AudioLMTeacher, place)

    def items_of(argument: Any) -> Sequence[Item]:
        return argument if place == "build" else getattr(argument, "built", argument).items

    def breaks(self: AudioLMTeacher, argument: Any) -> Any:
        if any(len(item.audio) == longest.num_audio_samples for item in items_of(argument)):
            raise error
        return does(self, argument)

    monkeypatch.setattr(AudioLMTeacher, place, breaks)
    run_step("acoustic", recipe)
    tape = open_tape(recipe.tape.out)
    assert len(tape.recorded("acoustic")) == ROWS - 1
    (failed,) = tape.quarantined
    assert (failed.sample_id, failed.reason) == (longest.sample_id, reason)


def test_a_teacher_that_cannot_go_on_keeps_what_was_heard(
    tmp_path: Path, acoustic_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(tmp_path, acoustic_teacher, batch_size=1)
    launch = AudioLMTeacher.launch
    passes: list[int] = []

    def breaks(self: AudioLMTeacher, built: Any) -> Any:
        passes.append(1)
        if len(passes) > 1:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return launch(self, built)

    monkeypatch.setattr(AudioLMTeacher, "launch", breaks)
    with pytest.raises(ModelError, match="broke on 3 samples in a row, each alone, last on"):
        run_step("acoustic", recipe)
    tape = open_tape(recipe.tape.out)
    assert len(tape.recorded("acoustic")) == 1
    assert tape.quarantined == []
    monkeypatch.setattr(AudioLMTeacher, "launch", launch)
    run_step("acoustic", recipe)
    assert len(open_tape(recipe.tape.out).recorded("acoustic")) == ROWS


class Elsewhere:
    """A teacher that says it is on another device than the CPU, where inputs are built ahead."""

    device = torch.device("mps")

    def __init__(self, teacher: AudioLMTeacher) -> None:
        self._teacher = teacher

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)


def test_inputs_that_are_built_ahead_are_the_same(
    tmp_path: Path, acoustic_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name in ("now", "ahead"):
        (tmp_path / name).mkdir()
        recipe = recipe_for(tmp_path / name, acoustic_teacher, batch_size=2)
        with monkeypatch.context() as patched:
            if name == "ahead":
                patched.setattr(
                    language_model, "AudioLMTeacher", lambda *a: Elsewhere(AudioLMTeacher(*a))
                )
            run_step("acoustic", recipe)
        found.append(contents(open_tape(recipe.tape.out)))
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == ROWS
    for name, states in found[0].items():
        np.testing.assert_array_equal(found[1][name], states)
