"""A run from its first step to its student: continued, repeated, recorded, on two processes."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from short_runs import flags, train
from tiny_tape import MakeTape

from audio_models.generate import generate
from audio_models.inputs import Request
from audio_models.load import load_audio_lm
from train.metrics import Reporter, StepMetrics, read_metrics

TIMES = ("step_s", "tokens_per_s", "loader_wait_s")


def without_times(run: Path) -> list[dict[str, object]]:
    lines = read_metrics(run / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Die after a step's metrics were written, its checkpoint not."""
    record = Reporter.step

    def step_and_die(self: Reporter, metrics: StepMetrics) -> None:
        record(self, metrics)
        if metrics.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Reporter, "step", step_and_die)


def test_a_run_trains_and_leaves_a_student_that_answers(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    result = train(make_tape(), student_dir, tmp_path / "run", *flags(20))
    assert result.exit_code == 0, result.output
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert set(lines[0]["terms"]) == {"ce", "text_jsd", "text_hidden", "acoustic_hidden"}
    # the untrained student is the acoustic teacher: nothing to correct before the first step
    assert lines[0]["terms"]["acoustic_hidden"]["value"] < 1e-5
    assert lines[-1]["terms"]["ce"]["value"] < lines[0]["terms"]["ce"]["value"]
    trained = load_audio_lm(str(tmp_path / "run" / "student"), "auto", "cpu")
    request = Request(audio=np.zeros(8000, np.float32), text="Is it high?")
    assert len(generate(trained, [request], max_new_tokens=4, batch_size=1)[0].token_ids) > 0
    report = (tmp_path / "run" / "report.md").read_text()
    assert "tiny-text" in report
    assert "1:2 2:4" in report
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2


def test_a_stopped_run_continues_bit_for_bit(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape = make_tape()
    assert train(tape, student_dir, tmp_path / "straight", *flags(10)).exit_code == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        assert train(tape, student_dir, tmp_path / "stopped", *flags(10)).exit_code == 130
    assert len(read_metrics(tmp_path / "stopped" / "metrics.jsonl")) == 7
    assert not (tmp_path / "stopped" / "student").exists()
    result = train(tape, student_dir, tmp_path / "stopped", *flags(10, "--resume"))
    assert result.exit_code == 0, result.output
    assert "continuing after step 5" in result.output
    assert without_times(tmp_path / "stopped") == without_times(tmp_path / "straight")
    one, other = (
        load_file(tmp_path / name / "student" / "model.safetensors")
        for name in ("straight", "stopped")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_from_before_a_setting_existed_goes_on(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape = make_tape()
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        assert train(tape, student_dir, tmp_path / "run", *flags(10)).exit_code == 130
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    del info["recipe"]["eval"], info["recipe"]["optim"]["schedule"], info["id"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(info))
    state = tmp_path / "run" / "checkpoints" / "step-00000005" / "state.json"
    state.write_text(json.dumps({"total_steps": 10, "step": 5}))
    other = train(tape, student_dir, tmp_path / "run", *flags(10, "--set", "eval.every=3"))
    assert other.exit_code == 2
    assert "eval.every: then 0, now 3" in other.output
    result = train(tape, student_dir, tmp_path / "run", *flags(10))
    assert result.exit_code == 0, result.output
    assert "continuing after step 5 of 10" in result.output


def test_micro_batches_equal_one_big_batch(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    tape = make_tape()
    for name, micro in (("big", 100_000), ("small", 1)):
        more = flags(4, "--set", f"loop.micro_tokens={micro}")
        assert train(tape, student_dir, tmp_path / name, *more).exit_code == 0
    for big, small in zip(
        *(read_metrics(tmp_path / name / "metrics.jsonl") for name in ("big", "small")), strict=True
    ):
        assert big["tokens"] == small["tokens"]
        # float32 sums in another order, and four steps of AdamW amplify them
        assert small["loss"] == pytest.approx(big["loss"], rel=1e-4)
        assert small["grad_norm"] == pytest.approx(big["grad_norm"], rel=1e-3)


def test_a_finished_run_says_so(make_tape: MakeTape, student_dir: Path, tmp_path: Path) -> None:
    tape = make_tape()
    assert train(tape, student_dir, tmp_path / "run", *flags(2)).exit_code == 0
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = train(tape, student_dir, tmp_path / "run", *flags(2))
    assert again.exit_code == 0
    assert "is finished" in again.output
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    other = train(tape, student_dir, tmp_path / "run", *flags(3))
    assert other.exit_code == 2
    assert "loop.max_steps: then 2, now 3" in other.output


def test_what_is_recorded_and_what_is_saved(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    more = ("--recipe", "sft", "--set", "logging.gradient_norms_every=2", "--set", "loop.epochs=1")
    result = train(make_tape(acoustic=False, signals=("trace",)), student_dir, tmp_path / "run",
                   "--batch-tokens", "400", *more)  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [set(line["terms"]) for line in lines] == [{"ce"}] * len(lines)
    measured = ["gradient_norm" in line["terms"]["ce"] for line in lines]
    assert measured == [number % 2 == 0 for number in range(len(lines))]
    # one term, one micro-batch a step: its gradient is the whole gradient
    assert lines[2]["terms"]["ce"]["gradient_norm"] == pytest.approx(lines[2]["grad_norm"], 1e-4)
    assert sum(line["terms"]["ce"]["count"] for line in lines) == sum(
        len(f"<THINK>pitch {i}</THINK><RESPONSE>{a}</RESPONSE>") + 1
        for i, a in zip(range(12), itertools.cycle(["no", "yes"]), strict=False)
    )


def test_the_gradient_norm_of_a_term_is_its_own(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    """That of the whole step if it were trained alone, by its weight: scales can be compared."""
    tape, names = make_tape(), ("ce", "text_jsd", "text_hidden")
    weights = dict(zip(names, ("1", "3", "0.01"), strict=True))

    def first_step(out: str, chosen: tuple[str, ...]) -> dict[str, Any]:
        given = {"acoustic_hidden": "0", **{n: weights[n] if n in chosen else "0" for n in names}}
        sets = [("--set", f"terms.{name}.weight={weight}") for name, weight in given.items()]
        more = ("--set", "loop.micro_tokens=100000", "--set", "logging.gradient_norms_every=1")
        result = train(tape, student_dir, tmp_path / out, *flags(1, *more, *itertools.chain(*sets)))
        assert result.exit_code == 0, result.output
        return read_metrics(tmp_path / out / "metrics.jsonl")[0]

    together = first_step("all", names)["terms"]
    norms = [together[name]["gradient_norm"] for name in names]
    assert max(norms) > 10 * min(norms)
    for name, norm in zip(names, norms, strict=True):
        assert norm == pytest.approx(first_step(name, (name,))["grad_norm"], rel=1e-3)


def test_no_serving_engine_and_no_datasets_in_the_process(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    tape = make_tape()
    script = f"""
        import sys
        from typer.testing import CliRunner
        from train.cli import app
        result = CliRunner().invoke(app, ["student", "--cache", {str(tape)!r}, "--student",
            {str(student_dir)!r}, "--out", {str(tmp_path / "run")!r}, "--max-steps", "1"])
        assert result.exit_code == 0, result.output
        loaded = {{"vllm", "pipeline", "ray"}} & {{name.partition(".")[0] for name in sys.modules}}
        assert not loaded, loaded
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=120)


def test_a_launcher_starts_two_processes(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path
) -> None:
    tape = make_tape()
    more = flags(4, "--set", "loop.micro_tokens=150", "--set", "logging.gradient_norms_every=2")
    assert train(tape, student_dir, tmp_path / "one", *more).exit_code == 0
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "train",
        "student", "--cache", str(tape), "--student", str(student_dir),
        "--out", str(tmp_path / "two"), *more,
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=300, stderr=subprocess.PIPE)
    for one, two in zip(
        *(read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")), strict=True
    ):
        assert two["tokens"] == one["tokens"]
        # float32 sums in another order
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
