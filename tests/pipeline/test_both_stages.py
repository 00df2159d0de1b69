"""Stage two on a tape of the real engines, its teachers deleted: trains, saves, hears, answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_audio_lm import save_omni
from transformers import AutoProcessor, Qwen2_5OmniThinkerForConditionalGeneration

TRAIN = """
import sys
from train.cli import app
status = 0
try:
    app(sys.argv[1:])
except SystemExit as done:
    status = done.code
foreign = [name for name in ("vllm", "pipeline", "datasets") if name in sys.modules]
print("foreign:", *foreign)
sys.exit(status)
"""


def train(tape: Path, student: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run ``train student`` and report which modules it must not load it loaded."""
    arguments = [
        "student", "--cache", tape, "--student", student, "--out", out,
        "--set", "data.truncated_traces=true", "--set", "data.wrong_traces=true", *more,
    ]  # fmt: skip
    command = [sys.executable, "-c", TRAIN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run_dir(
    tape_dir: Path, acoustic_teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    kl = "terms.text_kl.weight=1.0"
    done = train(tape_dir, acoustic_teacher, out, "--max-steps", "12", "--lr", "3e-3", "--set", kl)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "foreign:"
    return out


def test_every_term_is_trained_and_the_loss_falls(run_dir: Path) -> None:
    steps = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 12
    terms = {"ce", "text_kl", "text_jsd", "text_hidden", "acoustic_hidden"}
    assert all(step["terms"].keys() == terms for step in steps)
    assert steps[-1]["loss"] < steps[0]["loss"]
    for term in ("ce", "text_kl", "text_hidden"):
        assert steps[-1]["terms"][term]["value"] < steps[0]["terms"][term]["value"], term


def test_the_student_starts_at_its_acoustic_teacher(run_dir: Path) -> None:
    first = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0])
    # The tape's bfloat16 rounding is all that is between them before the first update.
    assert first["terms"]["acoustic_hidden"]["value"] < 1e-3


def test_the_saved_student_loads_and_answers_from_audio(run_dir: Path) -> None:
    student = run_dir / "student"
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(student)
    processor = AutoProcessor.from_pretrained(student)
    content = [{"type": "audio"}, {"type": "text", "text": "Does it rise?"}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    audio = np.sin(np.arange(16_000) / 9).astype(np.float32)
    inputs = processor(text=[prompt], audio=[audio], sampling_rate=16_000, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert output.shape[1] > inputs["input_ids"].shape[1]


def test_another_tokenizer_is_refused_by_name(
    tape_dir: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = save_omni(tmp_path_factory.mktemp("rotated"), first_byte=7)
    done = train(tape_dir, other, tmp_path / "run")
    assert done.returncode == 1
    assert "the student's tokenizer reads" in done.stderr
    assert "shares the textual teacher's tokenizer" in done.stderr
    assert not (tmp_path / "run").exists()
