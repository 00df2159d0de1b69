from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tiny_tape import MakeTape

from audio_models.load import AudioLM
from cache_schema import Tape, TapeRow, open_tape
from cache_schema.errors import TapeError
from train.batch.build import Needs, Share, TrainBatch, load_batches
from train.data import Example, scan
from train.settings import DataRecipe
from train.steps.mixing import mixed_steps
from train.steps.order import divide_step, plan_epoch
from train.steps.ring import HostBuffer, Readers
from train.tasks_recipe import MixRecipe
from train.terms.resolve import StatesAt

EXAMPLES = [
    Example(sample_id=f"s{i}", trace_index=0, num_tokens=20 + (i * 37) % 90) for i in range(101)
]


def known(token_ids: np.ndarray) -> np.ndarray:
    return token_ids < 1_000_000


TEXT, AUDIO = StatesAt("textual", at="token"), StatesAt("acoustic", at="audio")
NEEDS = Needs(topk=("textual",), states={TEXT: (2, 4), AUDIO: (1, 2)}, known={"textual": known})


def load(lm: AudioLM, tape: Tape, names: Sequence[str]) -> TrainBatch:
    with Readers() as readers:
        rows = [(name, 0) for name in names]
        buffer = HostBuffer()
        share = Share(tape=tape, needs=NEEDS, rows=rows)
        batch = load_batches(lm, [share], buffer, readers)[0]
        buffer.wait()
        return batch


def test_every_row_comes_once_an_epoch_within_the_budget() -> None:
    steps = plan_epoch(EXAMPLES, 300, seed=0, epoch=0)
    assert sorted(e.sample_id for step in steps for e in step) == sorted(
        e.sample_id for e in EXAMPLES
    )
    assert all(sum(e.num_tokens for e in step) <= 300 for step in steps)
    assert plan_epoch(EXAMPLES, 300, seed=0, epoch=0) == steps
    assert plan_epoch(EXAMPLES, 300, seed=0, epoch=1) != steps
    assert plan_epoch(EXAMPLES, 300, seed=1, epoch=0) != steps


def test_rows_of_similar_length_share_a_step() -> None:
    steps = plan_epoch(EXAMPLES, 300, seed=0, epoch=0)
    padded = sum(max(e.num_tokens for e in step) * len(step) for step in steps)
    # shuffled, it would be 1.45 times; sorted as a whole 1.05
    assert padded < 1.2 * sum(e.num_tokens for e in EXAMPLES)


def test_an_epoch_of_few_steps_is_not_sorted_as_a_whole() -> None:
    long = [Example(sample_id=f"t{i}", trace_index=0, num_tokens=20 + i % 400) for i in range(800)]
    steps = plan_epoch(long, 4000, seed=0, epoch=0)
    total = sum(e.num_tokens for e in long)
    assert len(steps) <= 1.05 * total / 4000 + 1
    spread = [statistics.pstdev(e.num_tokens for e in step) for step in steps]
    # sorted as a whole, a step of some 18 rows would span some 5 tokens
    assert statistics.median(spread) > 10
    padded = sum(max(e.num_tokens for e in step) * len(step) for step in steps)
    assert padded < 1.25 * total


def test_a_row_longer_than_the_budget_has_a_step_of_its_own() -> None:
    long = Example(sample_id="long", trace_index=0, num_tokens=999)
    steps = plan_epoch([*EXAMPLES[:5], long], 300, seed=0, epoch=0)
    assert [long] in steps


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_processes_divide_a_step_and_nothing_else(num_ranks: int) -> None:
    for step in plan_epoch(EXAMPLES, 300, seed=0, epoch=0):
        shares = [divide_step(step, rank, num_ranks, 100) for rank in range(num_ranks)]
        dealt = [e for share in shares for micro in share for e in micro]
        assert sorted(e.sample_id for e in dealt) == sorted(e.sample_id for e in step)
        for share in shares:
            for micro in share:
                widest = max(e.num_tokens for e in micro)
                assert len(micro) == 1 or widest * len(micro) <= 100


def test_number_of_steps() -> None:
    an_epoch = [len(plan_epoch(EXAMPLES, 300, 0, epoch)) for epoch in range(3)]
    assert mixed_steps([EXAMPLES], [1.0], MixRecipe(), 300, 0, 3) == sum(an_epoch)


def test_lengths_of_the_plan_are_those_of_the_inputs(make_tape: MakeTape, student: AudioLM) -> None:
    tape = open_tape(make_tape())
    examples, left_out = scan(tape, student, DataRecipe(), ())
    assert not left_out
    for example in examples:
        batch = load(student, tape, [example.sample_id])
        assert batch.num_tokens == example.num_tokens


def test_teacher_rows_join_by_id_in_any_order(make_tape: MakeTape, student: AudioLM) -> None:
    tape = open_tape(make_tape())
    names = ["s7", "s0", "s11"]
    batch = load(student, tape, names)
    for name, alone in zip(names, (tape[name] for name in names), strict=True):
        single = load(student, tape, [name])
        ids = alone.traces[0].token_ids
        start = sum(len(tape[other].traces[0].token_ids) for other in names[: names.index(name)])
        where = slice(start, start + len(ids))
        np.testing.assert_array_equal(batch.target_ids[where], ids)
        assert torch.equal(batch.topk["textual"].token_ids[where], single.topk["textual"].token_ids)
        hidden = alone["textual/hidden"].states
        np.testing.assert_array_equal(batch.states[TEXT][:, where], hidden.swapaxes(0, 1))
        # the token that comes next, at the position that predicts it
        row = names.index(name)
        columns = batch.audio.predict_positions[row]
        np.testing.assert_array_equal(batch.audio.inputs["input_ids"][row, columns + 1], ids)
    counts = [len(positions) for positions in batch.audio.audio_positions]
    parts = torch.split(batch.states[AUDIO], counts, dim=1)
    for name, states in zip(names, parts, strict=True):
        expected = tape[name]["acoustic/hidden"].states.swapaxes(0, 1)
        np.testing.assert_array_equal(states, expected)


def test_a_trace_is_read_by_its_ids_not_by_its_text(make_tape: MakeTape, student: AudioLM) -> None:
    """Half a character is a token, and no text that would give it again."""
    half = student.tokenizer("\u00e9", add_special_tokens=False)["input_ids"][:1]
    ids = [*half, *half, student.tokenizer.eos_token_id]
    text = student.tokenizer.decode(ids[:-1])
    assert student.tokenizer(text, add_special_tokens=False)["input_ids"] != ids[:-1]
    tape = open_tape(make_tape(changes={"s0": {"token_ids": np.array(ids), "text": text}}))
    batch = load(student, tape, ["s0"])
    assert batch.target_ids.tolist() == ids
    assert batch.audio.inputs["input_ids"][0, -len(ids) :].tolist() == ids


def test_acoustic_positions_that_differ_are_refused(
    make_tape: MakeTape, student: AudioLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape = open_tape(make_tape())
    longer = np.concatenate([tape["s3"].audio, tape["s3"].audio])
    monkeypatch.setattr(TapeRow, "audio", longer)
    with pytest.raises(TapeError, match=r"states were recorded for 0\.\d+ s of audio"):
        load(student, tape, ["s3"])
