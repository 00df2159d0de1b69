"""Variants of a run: other terms, adapters, chunks, frozen parts, types and families."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_audio_lm
import torch
from safetensors.torch import load_file
from short_runs import flags, train
from tiny_tape import NUM_SAMPLES, MakeTape, sample, trace

from audio_models.load import AudioLM, load_audio_lm
from train.metrics import read_metrics


@pytest.mark.parametrize(
    "more",
    [
        ("--set", "student.lora_rank=2"),
        ("--set", "student.activation_checkpointing=true"),
        ("--set", "student.autocast=bfloat16"),
        ("--set", "terms.text_kl.weight=1", "--set", "terms.text_kl.temperature=2"),
        ("--set", "terms.text_jsd.weight=0", "--set", "terms.ce.weight=0"),
        ("--set", "loop.vocab_chunk=3"),
    ],
)
def test_variants_train(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    result = train(make_tape(), student_dir, tmp_path / "run", *flags(3, *more))
    assert result.exit_code == 0, result.output
    before = load_file(student_dir / "model.safetensors")
    after = load_file(tmp_path / "run" / "student" / "model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_acoustic_teachers_distribution_is_a_term(
    make_tape: MakeTape, student: AudioLM, student_dir: Path, tmp_path: Path
) -> None:
    responses = {
        item.sample_id: trace(student, item).token_ids for item in map(sample, range(NUM_SAMPLES))
    }
    more = ("--set", "terms.acoustic_kl.weight=1", "--set", "terms.acoustic_kl.temperature=2")
    tape = make_tape(acoustic_responses=responses)
    assert train(tape, student_dir, tmp_path / "run", *flags(10, *more)).exit_code == 0
    values = [
        line["terms"]["acoustic_kl"]["value"]
        for line in read_metrics(tmp_path / "run" / "metrics.jsonl")
    ]
    assert 0 < values[-1] < values[0]


def test_chunks_and_recomputation_change_nothing(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    tape = make_tape()
    more = ("--set", "loop.vocab_chunk=3", "--set", "student.activation_checkpointing=true")
    assert train(tape, student_dir, tmp_path / "plain", *flags(3)).exit_code == 0
    assert train(tape, student_dir, tmp_path / "lean", *flags(3, *more)).exit_code == 0
    for one, other in zip(
        *(read_metrics(tmp_path / name / "metrics.jsonl") for name in ("plain", "lean")),
        strict=True,
    ):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_frozen_parts_stay(make_tape: MakeTape, student_dir: Path, tmp_path: Path) -> None:
    more = flags(3, "--set", 'student.freeze=["audio_tower"]')
    assert train(make_tape(), student_dir, tmp_path / "run", *more).exit_code == 0
    before = load_file(student_dir / "model.safetensors")
    after = load_file(tmp_path / "run" / "student" / "model.safetensors")
    for name, tensor in before.items():
        frozen = name.startswith(("visual.", "audio_tower."))
        projector = name.startswith("audio_tower.proj.")
        if frozen and not projector:
            assert torch.equal(tensor, after[name]), name
    assert not torch.equal(before["audio_tower.proj.weight"], after["audio_tower.proj.weight"])
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])


def test_everything_trains_when_nothing_is_frozen(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    assert train(make_tape(), student_dir, tmp_path / "run", *flags(3)).exit_code == 0
    before = load_file(student_dir / "model.safetensors")
    after = load_file(tmp_path / "run" / "student" / "model.safetensors")
    for prefix in ("audio_tower.layers.", "audio_tower.proj.", "model.layers.1.", "lm_head."):
        names = [name for name in before if name.startswith(prefix)]
        assert any(not torch.equal(before[name], after[name]) for name in names), prefix


def test_the_students_dtype_is_kept(make_tape: MakeTape, tmp_path: Path) -> None:
    directory = tiny_audio_lm.save_omni(tmp_path / "bf16")
    lm = load_audio_lm(str(directory), "bfloat16", "cpu")
    lm.model.save_pretrained(directory)
    assert train(make_tape(), directory, tmp_path / "run", *flags(2)).exit_code == 0
    saved = load_file(tmp_path / "run" / "student" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}


def test_another_family_trains(make_tape: MakeTape, tmp_path: Path) -> None:
    directory = tiny_audio_lm.save_qwen_audio(tmp_path / "qwen_audio")
    result = train(make_tape(acoustic=False), directory, tmp_path / "run", *flags(8),
                   "--set", "terms.acoustic_hidden.weight=0")  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert lines[-1]["loss"] < lines[0]["loss"]
