"""The example scripts, run by bash as they stand, with tiny models of the classes they name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_audio_encoders import save_encoder
from tiny_audio_lm import save_omni
from tiny_stage_one import save_dataset, save_text_teacher

from cache_schema import open_tape
from cache_schema.commands.recipes import load_recipe
from pipeline.recipe import ExtractRecipe
from train.metrics import read_metrics
from train.recipe import load_train_recipe

EXAMPLES = Path(__file__).parents[2] / "examples"
ANY_TRACE = "\n[data]\nwrong_traces = true\ntruncated_traces = true\n"
"""A random teacher is never right; added to the recipes' own sections."""


def run(script: str, *arguments: str | Path, **variables: str | Path) -> str:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "GPUS": "1"}
    environment |= {name: str(value) for name, value in variables.items()}
    environment["PYTHONPATH"] = str(EXAMPLES.parent)
    command = ["bash", str(EXAMPLES / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def for_tiny_models(source: Path, target: Path, *changes: tuple[str, str]) -> Path:
    """Write a recipe of the examples with some of its values replaced, all of them there."""
    text = source.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    target.write_text(text + ANY_TRACE)
    return target


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dataset(tmp_path_factory.mktemp("dataset"), 6)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_omni(tmp_path_factory.mktemp("student"))


def test_recipes_of_the_hub_models_are_read_whole() -> None:
    flags = ["dataset.path=clips.jsonl", "tape.out=cache"]
    extract = load_recipe(ExtractRecipe, EXAMPLES / "omni_qwen3" / "extract.toml", flags)
    assert extract.textual.teacher == "Qwen/Qwen3-8B"
    assert extract.acoustic.teacher == extract.textualize.listen["caption"].model
    joint = load_train_recipe("joint", ())
    ours = load_train_recipe(str(EXAMPLES / "omni_qwen3" / "train.toml"), ())
    assert ours.terms == joint.terms, "the example trains the paper's objective"
    assert ours.optim.lr == 1e-5


def test_the_setting_of_the_paper(
    dataset: Path, teacher: Path, student: Path, tmp_path: Path
) -> None:
    recipe = for_tiny_models(
        EXAMPLES / "omni_qwen3" / "train.toml",
        tmp_path / "train.toml",
        ('sharding = "full"', 'sharding = "none"'),
        ("fraction = 0.02", "fraction = 0.3"),
        ("epochs = 3", "epochs = 1"),
    )
    flags = (
        "--text-teacher", teacher, "--acoustic-teacher", student, "--engine", "transformers",
        "--traces", "2", "--max-new-tokens", "8", "--set", "textual.select=all",
        "--set", f"textualize.listen.caption.model={student}",
        "--set", "textualize.listen.caption.max_new_tokens=4",
    )  # fmt: skip
    run(
        "omni_qwen3/run.sh", dataset, tmp_path / "omni", *flags,
        STUDENT=student, TRAIN_RECIPE=recipe,
    )  # fmt: skip
    tape = open_tape(tmp_path / "omni" / "cache")
    assert len(tape) == 6
    assert all(row.description == row.heard["caption"].text for row in tape)
    (step,) = read_metrics(tmp_path / "omni" / "run" / "metrics.jsonl")
    assert step["terms"].keys() == {"text_jsd", "text_hidden", "acoustic_hidden", "ce"}
    assert (tmp_path / "omni" / "run" / "student" / "config.json").exists()


@pytest.fixture(scope="module")
def given(dataset: Path, teacher: Path, student: Path, tmp_path_factory: Any) -> Path:
    """A tape of traces from elsewhere; the second row is none, and said to be left out."""
    folder = tmp_path_factory.mktemp("given")
    lines = []
    for index in range(4):
        clip = json.loads(dataset.read_text().splitlines()[index])["audio"]
        trace = "<THINK><PLANNING>listen</PLANNING></THINK> <RESPONSE>yes</RESPONSE>"
        said = "it rises" if index == 1 else trace
        user = {"role": "user", "content": "<audio>Does it rise?"}
        messages = [user, {"role": "assistant", "content": said}]
        lines.append(json.dumps({"messages": messages, "audios": [str(dataset.parent / clip)]}))
    (folder / "chat.jsonl").write_text("\n".join(lines))
    said = run(
        "traces_from_elsewhere/run.sh", folder / "chat.jsonl", folder / "cache",
        "--engine", "transformers", "--set", "textualize.listen.caption.max_new_tokens=4",
        TEACHER=teacher, LISTENER=student,
    )  # fmt: skip
    assert "chat.jsonl:2: left out" in said
    assert "3 rows; 1 left out" in said
    return folder / "cache"


def test_traces_from_elsewhere_are_read_once(given: Path) -> None:
    tape = open_tape(given)
    assert len(tape) == 3
    for row in tape:
        (trace,) = row.traces
        assert (trace.origin, trace.correct, row.answer) == ("given", True, "yes")
        assert trace.text.startswith("<THINK>")
        assert len(row["textual/topk"].target_ids) == len(trace.token_ids)


def test_sql_over_a_tape(given: Path) -> None:
    script = EXAMPLES / "read_with_duckdb.py"
    done = subprocess.run(
        [sys.executable, script, given], capture_output=True, text=True, check=True
    )
    lengths = [len(row.traces[0].token_ids) for row in open_tape(given)]
    cells = [cell.strip() for line in done.stdout.splitlines() for cell in line.split("│")]
    assert {"true", "3", f"{sum(lengths) / 3}"} <= set(cells)


def test_an_encoder_joins_a_tape_and_teaches(given: Path, student: Path, tmp_path: Path) -> None:
    encoder = save_encoder(tmp_path / "wavlm", "wavlm")
    recipe = for_tiny_models(
        EXAMPLES / "encoder_teacher" / "train.toml",
        tmp_path / "train.toml",
        ('layers = "14:12,28:24"', 'layers = "1:1,2:2"'),
    )
    run(
        "encoder_teacher/run.sh", given, tmp_path / "run",
        ENCODER=encoder, LAYERS="1,2", STUDENT=student, TRAIN_RECIPE=recipe,
    )  # fmt: skip
    assert "wavlm/hidden" in open_tape(given).signals
    assert all(
        "acoustic_hidden" in step["terms"]
        for step in read_metrics(tmp_path / "run" / "metrics.jsonl")
    )


def test_two_processes_take_the_steps_of_one(given: Path, student: Path, tmp_path: Path) -> None:
    for gpus in ("1", "2"):
        run(
            "several_gpus/run.sh", "--cache", given, "--student", student, "--recipe", "sft",
            "--out", tmp_path / gpus, "--max-steps", "2", GPUS=gpus,
        )  # fmt: skip
    one, two = (read_metrics(tmp_path / gpus / "metrics.jsonl") for gpus in ("1", "2"))
    losses = [[step["loss"] for step in run] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # float32 sums in another order
