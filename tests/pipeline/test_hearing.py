"""The acoustic step with an audio language model: every signal, in batches cut and split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_audio_families
import torch
from family_requests import plain
from hypothesis import given
from hypothesis import strategies as st
from sound_tape import uncounted
from tiny_audio_lm import save_omni
from tiny_stage_one import save_dataset

from audio_models.decoder import find_decoder, logits_of
from audio_models.inputs import Request, build_inputs
from audio_models.load import AudioLM, load_audio_lm
from cache_schema import Tape, TapeRow, open_tape
from cache_schema.errors import (
    ModelError,
    ProvenanceError,
    QuarantineError,
    TokenizerMismatchError,
    UsageError,
)
from cache_schema.questions import question_text
from cache_schema.validate import validate
from pipeline.acoustic_recipe import AcousticRecipe
from pipeline.extract import run_step
from pipeline.hearing import language_model
from pipeline.hearing.batches import GROWS_BELOW, MAX_ITEMS, Capacity, cut
from pipeline.recipe import DatasetRecipe, ExtractRecipe, FailureRecipe, TapeRecipe
from pipeline.step import seed_of
from pipeline.teachers.acoustic import Item
from pipeline.teachers.hf_acoustic import AudioLMTeacher
from pipeline.teachers.readout import draw_tokens, uniforms

ROWS = 5
ATOL = 2e-4
"""Of float32 states of order 1 and log-probabilities, a row alone against a batch."""


def recipe_for(folder: Path, teacher: Path, **settings: Any) -> ExtractRecipe:
    """A recipe whose samples are on the tape; the dataset's answers are the responses."""
    recipe = ExtractRecipe(
        dataset=DatasetRecipe(path=str(save_dataset(folder, ROWS))),
        tape=TapeRecipe(out=str(folder / "tape"), states_dtype="float32"),
        acoustic=AcousticRecipe(teacher=str(teacher), dtype="float32", **settings),
        failures=FailureRecipe(max_fraction=0.5),
        seed=7,
    )
    run_step("ingest", recipe)
    return recipe


class Plainly:
    """A row through transformers' own forward pass, alone."""

    def __init__(self, lm: AudioLM, row: TapeRow) -> None:
        ids = lm.tokenizer(row.answer, add_special_tokens=False)["input_ids"]
        self.ids = np.asarray([*ids, lm.tokenizer.eos_token_id])
        text = question_text(row.question, row.choices)
        self.batch = build_inputs(lm, [Request(audio=row.audio, text=text, response_ids=self.ids)])
        self._model = lm.model
        decoder = find_decoder(lm.model.get_decoder(), lm.num_layers)
        last: list[torch.Tensor] = []
        handle = decoder.blocks[-1].register_forward_hook(
            lambda _m, _a, out: last.append(out[0] if isinstance(out, tuple) else out)
        )
        output = plain(lm, self.batch)
        handle.remove()
        self.states = [*output.hidden_states[:-1], last[0]]
        self.logits = output.logits[0][self.batch.predict_positions[0]]
        self._norm = decoder.norm

    def at(self, positions: torch.Tensor, layers: Sequence[int]) -> np.ndarray:
        return np.stack([self.states[n][0, positions].numpy() for n in layers], axis=1)

    def lens(self, layer: int) -> torch.Tensor:
        states = self.states[layer][0, self.batch.predict_positions[0]]
        with torch.no_grad():
            return logits_of(self._model, self._norm(states))


def assert_entries(logits: torch.Tensor, ids: np.ndarray, logprobs: np.ndarray, tail: np.ndarray):
    reference = logits.double().log_softmax(-1)
    k = ids.shape[-1]
    np.testing.assert_allclose(logprobs, reference.topk(k).values.numpy(), atol=ATOL)
    np.testing.assert_allclose(
        logprobs, reference.gather(-1, torch.from_numpy(ids)).numpy(), atol=ATOL
    )
    outside = reference.scatter(-1, torch.from_numpy(ids), -torch.inf).exp().sum(-1)
    np.testing.assert_allclose(tail, outside.numpy(), atol=ATOL)


SAVE = {"omni": save_omni} | {
    name: tiny_audio_families.SAVE[name] for name in ("flamingo", "granite", "qwen3_omni")
}


@pytest.fixture(scope="module", params=sorted(SAVE))
def recorded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ExtractRecipe, AudioLM]:
    teacher = SAVE[request.param](tmp_path_factory.mktemp("teacher"))
    recipe = recipe_for(
        tmp_path_factory.mktemp("run"),
        teacher,
        layers="0,1,2",
        states_at="both",
        top_k=8,
        lens="0,2",
        lens_top_k=5,
        draws=12,
        batch_size=3,
    )
    run_step("acoustic", recipe)
    return recipe, load_audio_lm(str(teacher), "float32", "cpu")


def test_every_signal_equals_a_plain_pass(recorded: tuple[ExtractRecipe, AudioLM]) -> None:
    recipe, lm = recorded
    tape = open_tape(recipe.tape.out)
    assert validate(recipe.tape.out, uncounted, deep=True).problems == []
    assert len(tape.recorded("acoustic")) == ROWS
    for row in tape:
        alone = Plainly(lm, row)
        hidden = row["acoustic/hidden"]
        assert (hidden.kind, hidden.layers) == ("audio", (0, 1, 2))
        at_audio = alone.at(alone.batch.audio_positions[0], hidden.layers)
        np.testing.assert_allclose(hidden.states, at_audio, atol=ATOL)
        of_tokens = row.signal("acoustic/hidden", trace=0)
        assert of_tokens.kind == "token"
        np.testing.assert_array_equal(of_tokens.target_ids, alone.ids)
        at_tokens = alone.at(alone.batch.predict_positions[0], hidden.layers)
        np.testing.assert_allclose(of_tokens.states, at_tokens, atol=ATOL)
        topk = row["acoustic/topk"]
        assert_entries(alone.logits, topk.token_ids, topk.logprobs, topk.tail)
        lens = row["acoustic/lens"]
        assert lens.layers == (0, 2)
        for place, layer in enumerate(lens.layers):
            kept = (lens.token_ids[:, place], lens.logprobs[:, place], lens.tail[:, place])
            assert_entries(alone.lens(layer), *kept)
        # of the last layer the lens is the model's own distribution
        np.testing.assert_allclose(lens.logprobs[:, 1], topk.logprobs[:, :5], atol=ATOL)
        drawn = row["acoustic/sampled"]
        numbers = torch.from_numpy(uniforms(seed_of(7, f"{row.sample_id}/0"), 0, len(alone.ids)))
        expected = draw_tokens(alone.logits, numbers, 12)
        found = np.repeat(drawn.token_ids, drawn.counts).reshape(len(alone.ids), 12)
        assert (found == expected.numpy()).mean() > 0.99  # a draw may fall on a rounded edge


def test_another_seed_is_another_maker(recorded: tuple[ExtractRecipe, AudioLM]) -> None:
    recipe, _ = recorded
    other = ExtractRecipe(**{**vars(recipe), "seed": 8})
    with pytest.raises(ProvenanceError, match=r"seed: tape 7, now 8"):
        run_step("acoustic", other)


def contents(tape: Tape) -> dict[str, np.ndarray]:
    return {row.sample_id: row["acoustic/hidden"].states for row in tape}


def test_states_do_not_depend_on_the_batch(tmp_path: Path, acoustic_teacher: Path) -> None:
    found = []
    for size in (1, 4, 0):
        (tmp_path / str(size)).mkdir()
        recipe = recipe_for(tmp_path / str(size), acoustic_teacher, batch_size=size)
        run_step("acoustic", recipe)
        found.append(contents(open_tape(recipe.tape.out)))
    for other in found[1:]:
        for name, states in found[0].items():
            np.testing.assert_allclose(other[name], states, atol=ATOL)


def test_states_of_the_response_alone(tmp_path: Path, acoustic_teacher: Path) -> None:
    recipe = recipe_for(tmp_path, acoustic_teacher, states_at="response", top_k=0)
    run_step("acoustic", recipe)
    tape = open_tape(recipe.tape.out)
    assert tape.signals == ("acoustic/hidden",)
    assert {row["acoustic/hidden"].kind for row in tape} == {"token"}


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


def test_a_setting_of_frames_is_refused(tmp_path: Path, acoustic_teacher: Path) -> None:
    recipe = recipe_for(tmp_path, acoustic_teacher, chunk_s=10.0)
    with pytest.raises(UsageError, match=r"acoustic\.chunk_s=10\.0: .* an audio language model"):
        run_step("acoustic", recipe)


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


def test_draws_of_no_distribution_are_no_record(
    tmp_path: Path, acoustic_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"top_k": 0, "draws": 4, "layers": "none"}
    recipe = recipe_for(tmp_path, acoustic_teacher, **settings)
    load = language_model.load_audio_lm

    def with_a_hole(*arguments: Any) -> AudioLM:
        lm = load(*arguments)
        with torch.no_grad():
            lm.model.get_output_embeddings().weight[3] = torch.nan
        return lm

    monkeypatch.setattr(language_model, "load_audio_lm", with_a_hole)
    with pytest.raises(QuarantineError, match="signals"):
        run_step("acoustic", recipe)
    assert open_tape(recipe.tape.out).recorded("acoustic") == set()


@pytest.mark.parametrize("name", ["samples", "textual", "heard_x", "Whisper", ""])
def test_names_that_are_the_tapes_own(name: str) -> None:
    with pytest.raises(UsageError, match=r"acoustic\.name"):
        AcousticRecipe(name=name)


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
