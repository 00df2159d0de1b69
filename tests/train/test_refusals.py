"""Runs that are refused or stopped by name: tapes, students and flags that do not fit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_audio_lm
from one_step import refuse, train
from tiny_tape import MakeTape
from typer.testing import CliRunner

from cache_schema.writer import TapeWriter
from train.cli import app

PARTS = ("audio_tower", "projector", "language_model")


def test_a_tape_without_a_signal_is_refused_before_the_student_is_read(
    make_tape: MakeTape, tmp_path: Path
) -> None:
    tape = make_tape(acoustic=False, signals=("trace", "topk"))
    result = train(tape, tmp_path / "no-student", tmp_path / "run")
    refuse(
        result,
        "[terms.text_hidden] needs textual/hidden",
        "[terms.acoustic_hidden] needs acoustic/hidden",
        "It has: textual/topk, textual/trace",
    )
    assert not (tmp_path / "run").exists()


def test_a_layer_the_tape_lacks_is_refused(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    more = ("--set", "terms.text_hidden.layers=1:3")
    refuse(train(make_tape(), student_dir, tmp_path / "run", *more), "holds 2, 4", "record layer 3")
    assert not (tmp_path / "run").exists()


def test_another_tokenizer_is_refused(make_tape: MakeTape, tmp_path: Path) -> None:
    other = tiny_audio_lm.save_omni(tmp_path / "other", first_byte=7)
    result = train(make_tape(), other, tmp_path / "run")
    refuse(result, "token 0 of the trace has id", "'<THINK>", "Train a student that shares")
    assert not (tmp_path / "run").exists()


def test_another_stop_token_is_refused(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    text = "<RESPONSE>no</RESPONSE>"
    ids = tiny_audio_lm.build_tokenizer()(text)["input_ids"]
    foreign = tiny_audio_lm.build_tokenizer().convert_tokens_to_ids("<|im_start|>")
    changes = {"s0": {"text": text, "token_ids": np.asarray([*ids, foreign], dtype=np.int64)}}
    tape = make_tape(changes=changes, digest="other")
    refuse(train(tape, student_dir, tmp_path / "run"), "'<|im_start|>'", "'<|im_end|>'")


def test_special_tokens_that_were_said_are_part_of_a_trace(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    """As where a teacher's tags are special tokens."""
    tokenizer = tiny_audio_lm.build_tokenizer()
    text = "<|im_start|>no"
    ids = tokenizer(text)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") in ids
    changes = {"s0": {"text": text, "token_ids": np.asarray([*ids, end], dtype=np.int64)}}
    result = train(make_tape(changes=changes, digest="other"), student_dir, tmp_path / "run")
    assert result.exit_code == 0, result.output


def test_an_acoustic_teacher_read_on_other_ids_is_refused(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    responses = {f"s{index}": np.arange(4) for index in range(12)}
    tape = make_tape(acoustic_responses=responses)
    result = train(tape, student_dir, tmp_path / "run", "--set", "terms.acoustic_kl.weight=1")
    refuse(result, "acoustic/topk was recorded on other token ids")


def test_the_same_strings_under_another_digest_train(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    result = train(make_tape(digest="other"), student_dir, tmp_path / "run")
    assert result.exit_code == 0, result.output


def test_a_folder_with_something_else_is_left_alone(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    refuse(train(make_tape(), student_dir, out), "holds something that is not a training run")
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_a_loss_that_is_not_finite_stops_the_run_by_name(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    result = train(
        make_tape(), student_dir, tmp_path / "run", "--lr", "1e30", "--max-steps", "9",
        "--set", "optim.warmup_fraction=0.0",
    )  # fmt: skip
    refuse(result, "step 2: loss nan", "on rows s", "The last checkpoint is good")


def test_a_recorded_state_that_is_not_finite_stops_the_run_by_name(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = TapeWriter.add

    def add_damaged(self: TapeWriter, rows, hidden=None) -> None:
        for row, states in hidden or []:
            if row["sample_id"] == "s3" and 4 in states:
                states[4][1, 0] = np.nan
        add(self, rows, hidden)

    monkeypatch.setattr(TapeWriter, "add", add_damaged)
    monkeypatch.setattr("cache_schema.codecs.bfloat16.is_finite", lambda values: True)
    refuse(
        train(make_tape(), student_dir, tmp_path / "run"),
        "step 1: loss nan",
        "the tape is not: textual/hidden of sample 's3': shards/textual/",
        "Record it again, or leave the term out.",
    )


def test_wrong_flags_are_wrong_usage(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    tape = make_tape()
    for more, part in [
        (("--set", "optm.lr=1"), "did you mean 'optim'"),
        (("--set", "terms.text_kld.weight=1"), "did you mean 'text_kl'"),
        (("--set", "terms.ce.temperature=2"), "unknown key 'temperature'"),
        (("--set", "terms.ce.weight=-1"), "expected 0 or more"),
        (("--recipe", "jont"), "did you mean 'joint'"),
        (("--resume",), "holds no run"),
        (("--set", 'student.freeze=["audio_towr"]'), "did you mean 'audio_tower'"),
        (
            ("--set", "student.lora_rank=2", "--set", 'student.lora_targets=["q_proj","v_prj"]'),
            "no linear layers 'v_prj'; did you mean 'v_proj'",
        ),
        (
            ("--set", "student.lora_rank=2", "--set", 'student.freeze=["language_model"]'),
            "leave one of the two out",
        ),
        (("--recipe", "sft", "--set", f"student.freeze={list(PARTS)}"), "nothing that it meets"),
    ]:
        refuse(train(tape, student_dir, tmp_path / "run", *more), part, status=2)
        assert not (tmp_path / "run").exists()
    refuse(train(tmp_path / "none", student_dir, tmp_path / "run"), "no tape here")
    refuse(train(tape, tmp_path / "none", tmp_path / "run"), "does not exist")


def test_terms_that_meet_nothing_trained_are_refused(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    """Adapters change nothing of what goes into the first block."""
    (tmp_path / "recipe.toml").write_text(
        '[terms.acoustic_hidden]\nweight = 1.0\nlayers = "0:1"\n[student]\nlora_rank = 2\n'
    )
    more = ("--recipe", str(tmp_path / "recipe.toml"))
    result = train(make_tape(), student_dir, tmp_path / "run", *more)
    refuse(result, "acoustic_hidden: nothing that is trained is in what they compare", status=2)


def test_another_student_under_the_same_name_is_not_continued_with(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    student = tmp_path / "student"
    shutil.copytree(student_dir, student)
    tape = make_tape()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("train.run.finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert train(tape, student, tmp_path / "run").exit_code == 130
    other = tiny_audio_lm.save_omni(tmp_path / "other", seed=1)
    shutil.copy(other / "model.safetensors", student)
    refuse(train(tape, student, tmp_path / "run"), "student_digest: then 'sha256:", "another --out")
    shutil.copy(student_dir / "model.safetensors", student)
    (tmp_path / "run" / "recipe.toml").unlink()  # a kill before it was written
    result = train(tape, student, tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "recipe.toml").is_file()


def test_help_shows_an_example() -> None:
    for arguments in (["--help"], ["student", "--help"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert "train student --cache ./cache" in CliRunner().invoke(app, ["student", "--help"]).output


@pytest.mark.parametrize(
    ("variable", "name"),
    [("FSDP", "FSDP"), ("DEEPSPEED", "DEEPSPEED"), ("MEGATRON_LM", "MEGATRON_LM")],
)
def test_a_launcher_that_would_shard_is_refused(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    variable: str, name: str,
) -> None:  # fmt: skip
    monkeypatch.setenv(f"ACCELERATE_USE_{variable}", "true")
    result = train(make_tape(), student_dir, tmp_path / "run")
    refuse(result, f"asks for {name}; launch with torchrun", "student.sharding=full", status=2)
    assert not (tmp_path / "run").exists()


def test_accelerate_launch_with_fsdp_is_refused(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    """As its own command sets it up, on a machine without a GPU, where it would be ignored."""
    config = {
        "compute_environment": "LOCAL_MACHINE", "distributed_type": "FSDP", "num_processes": 1,
        "fsdp_config": {"fsdp_version": 2, "fsdp_auto_wrap_policy": "NO_WRAP"},
        "num_machines": 1, "use_cpu": True, "mixed_precision": "no",
    }  # fmt: skip
    (tmp_path / "fsdp.json").write_text(json.dumps(config))
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file",
        str(tmp_path / "fsdp.json"), "-m", "train", "student", "--cache", str(make_tape()),
        "--student", str(student_dir), "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    ended = subprocess.run(command, timeout=200, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "error: the launcher's configuration asks for FSDP; launch with torchrun" in ended.stderr
    assert not (tmp_path / "run").exists()
