"""A student in shards is the student held whole: same losses, same weights, same checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_audio_families
import torch
from forks import Forks
from safetensors.torch import load_file, save_file
from sharded_runs import SHARDED, SUM_ORDER, alike, together
from tiny_tape import MakeTape
from train_runs import (
    Launch,
    apart,
    held_out,
    same_weights,
    steps,
    train_apart,
    train_here,
    weights,
)

from audio_models.decoder import decoder_of
from audio_models.load import AudioLM, load_audio_lm
from train.data import Example
from train.sharding import units_of
from train.steps.loads import spare_passes

# steps of two to five rows, passes of one: processes have unequal shares, of four some have none
FLAGS = (
    "--max-steps", "4", "--lr", "1e-3", "--batch-tokens", "600", "--set", "loop.micro_tokens=150",
    "--set", "checkpoints.every=2", "--set", "eval.every=2", "--set", "eval.fraction=0.3",
    "--set", "logging.gradient_norms_every=3", "--set", "optim.clip_norm=0.5",
)  # fmt: skip

StartRun = Callable[..., Launch]


@pytest.fixture
def start(make_tape: MakeTape, student_dir: Path, tmp_path: Path) -> StartRun:
    tape = make_tape()

    def launch(name: str, *more: str, **faults: object) -> Launch:
        student = faults.pop("student", student_dir)
        return Launch(
            tape=tape, student=student, out=tmp_path / name, more=(*FLAGS, *more), **faults
        )

    return launch


@pytest.mark.parametrize("ranks", [2, 4])
def test_shards_change_no_loss_and_no_weight(start: StartRun, forks: Forks, ranks: int) -> None:
    whole, shards = start("whole"), start("shards", *SHARDED)
    assert train_here(whole).exit_code == 0
    together(forks, shards, ranks)
    terms = [term for line in steps(shards.out) for term in line["terms"].values()]
    assert any("gradient_norm" in term for term in terms)
    alike(whole, shards)
    assert weights(shards.out).keys() == weights(whole.out).keys()
    load_audio_lm(str(shards.out / "student"), "float32", "cpu")


@pytest.mark.parametrize(
    ("within", "more"),
    [
        (SUM_ORDER, ("student.lora_rank=2", "student.activation_checkpointing=true")),
        # beside what autocast rounds, weights of norms travel in bfloat16
        (5e-3, ("student.autocast=bfloat16",)),
    ],
    ids=["adapters", "bfloat16"],
)
def test_shards_are_alike_however_the_student_is_held(
    start: StartRun, forks: Forks, within: float, more: tuple[str, ...]
) -> None:
    sets = [item for one in more for item in ("--set", one)]
    whole, shards = start("whole", *sets), start("shards", *sets, *SHARDED)
    assert train_here(whole).exit_code == 0
    together(forks, shards, 2)
    alike(whole, shards, within)


def test_an_unembedding_tied_to_the_embeddings_is_one_shard(
    start: StartRun, student_dir: Path, tmp_path: Path, forks: Forks
) -> None:
    tied = tmp_path / "tied"
    shutil.copytree(student_dir, tied)
    config = json.loads((tied / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (tied / "config.json").write_text(json.dumps(config))
    saved = load_file(tied / "model.safetensors")
    del saved["lm_head.weight"]
    save_file(saved, tied / "model.safetensors", metadata={"format": "pt"})
    more = ("--set", 'student.freeze=["audio_tower"]', "--set", "optim.weight_decay=0.1")
    whole = start("whole", *more, student=tied)
    shards = start("shards", *more, *SHARDED, student=tied)
    assert train_here(whole).exit_code == 0
    together(forks, shards, 2)
    assert "lm_head.weight" not in weights(whole.out)
    alike(whole, shards)


def test_what_no_loss_reaches_stays_as_it_is(start: StartRun, forks: Forks) -> None:
    """Weight decay would act on zeros, which shards exchange for what got no gradient."""
    more = ("--recipe", "acoustic_only", "--set", "terms.acoustic_hidden.layers=1:1",
            "--set", "optim.weight_decay=0.5", "--set", "logging.gradient_norms_every=0",
            "--max-steps", "3")  # fmt: skip
    whole, shards = start("whole", *more), start("shards", *more, *SHARDED)
    assert train_here(whole).exit_code == 0
    together(forks, shards, 2)
    alike(whole, shards)
    before = load_file(whole.student / "model.safetensors")["lm_head.weight"]
    assert torch.equal(weights(shards.out)["lm_head.weight"], before)


def test_killed_it_goes_on_bit_for_bit(start: StartRun, forgetful_dir: Path, forks: Forks) -> None:
    straight = start("straight", *SHARDED, student=forgetful_dir)
    together(forks, straight, 2)
    killed = start("killed", *SHARDED, student=forgetful_dir, kill_after=3)
    ended, _ = train_apart(forks, killed, 2)
    assert ended[0].status == -9
    assert all(process.value != 0 for process in ended)
    again = replace(killed, kill_after=0, more=(*killed.more, "--resume"))
    assert "continuing after step 2 of 4" in together(forks, again, 2)
    assert steps(again.out) == steps(straight.out)
    assert held_out(again.out) == held_out(straight.out)
    assert same_weights(again.out, straight.out)


def test_any_number_of_processes_goes_on_with_or_without_shards(
    start: StartRun, forks: Forks
) -> None:
    """A checkpoint is whole; how a run is held and cut up may change when it goes on."""
    straight = start("straight")
    assert train_here(straight).exit_code == 0
    killed = start("killed", *SHARDED, kill_after=3)
    assert train_apart(forks, killed, 2)[0][0].status == -9
    alone = killed.out.with_name("alone")
    shutil.copytree(killed.out, alone)
    result = train_here(replace(killed, kill_after=0, out=alone, more=(*FLAGS, "--resume")))
    assert result.exit_code == 0, result.output
    assert "continuing after step 2 of 4" in result.output
    alike(straight, replace(straight, out=alone))
    smaller = (*killed.more, "--set", "loop.micro_tokens=120", "--resume")
    said = together(forks, replace(killed, kill_after=0, more=smaller), 4)
    assert "continuing after step 2 of 4" in said
    assert steps(killed.out)[-1]["micro_tokens"] == 120
    assert apart(straight.out, killed.out, straight.student) < 10 * SUM_ORDER


def test_the_best_evaluation_is_what_is_saved(start: StartRun, forks: Forks) -> None:
    more = ("--set", "eval.save=best", "--lr", "0.3", "--set", "eval.every=1")
    whole, shards = start("whole", *more), start("shards", *more, *SHARDED)
    assert train_here(whole).exit_code == 0
    together(forks, shards, 2)
    best = min(held_out(whole.out), key=lambda line: line["loss"])["step"]
    assert best < 4
    found = min(held_out(shards.out), key=lambda line: line["loss"])["step"]
    assert found == best
    assert apart(whole.out, shards.out, whole.student) < 100 * SUM_ORDER


def test_memory_that_runs_out_in_one_process_ends_all_with_its_name(
    start: StartRun, forks: Forks
) -> None:
    # shares are unequal: the first process alone has two rows in one pass
    more = ("--set", "loop.micro_tokens=300")
    short = start("short", *more, *SHARDED, memory=150, short=[1])
    ended, said = train_apart(forks, short, 2)
    assert all(process.value != 0 for process in ended)
    assert "in one pass on process 1" in said
    assert "wait for each other within a pass" in said
    assert "Set loop.micro_tokens=1" in said


def test_a_size_is_not_searched_with_shards(start: StartRun, forks: Forks) -> None:
    auto = start("auto", "--batch-tokens", "auto", "--set", "loop.micro_tokens=0", *SHARDED)
    ended, said = train_apart(forks, auto, 2)
    assert [process.value for process in ended] == [2, 2]
    assert "cannot: set loop.micro_tokens" in said


def test_every_process_runs_as_many_passes() -> None:
    step = [Example(sample_id=f"s{n}", trace_index=0, num_tokens=100) for n in range(5)]
    assert [spare_passes(step, rank, 2, 100) for rank in range(2)] == [0, 1]
    assert [spare_passes(step[:2], rank, 4, 100) for rank in range(4)] == [0, 0, 1, 1]
    assert [spare_passes(step, rank, 2, 300) for rank in range(2)] == [0, 0]


def test_units_are_blocks_that_run_once_a_pass(student: AudioLM, tmp_path: Path) -> None:
    blocks = list(decoder_of(student.model).blocks)
    units = units_of(student)
    assert units[: len(blocks)] == blocks
    assert all(layer in units for layer in student.model.audio_tower.layers)
    # its tower hears row after row, and processes have unequal numbers of rows
    granite = load_audio_lm(
        str(tiny_audio_families.save_granite(tmp_path / "granite")), "float32", "cpu"
    )
    assert units_of(granite) == list(decoder_of(granite.model).blocks)
