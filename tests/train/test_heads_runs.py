"""Runs on a tape without any trace: heads, and a text encoder's states, through the command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import heard_tape
import pytest
import torch
from accelerate.state import AcceleratorState
from forks import Forks
from safetensors.torch import load_file
from test_heads import SECTIONS
from tiny_tape import MakeTape
from train_runs import Launch, apart, held_out, same_weights, steps, train_apart, train_here
from transformers import AutoConfig, Qwen2_5OmniThinkerForConditionalGeneration

from audio_models.tower import load_audio_tower
from cache_schema import open_tape
from train.heads import load_heads
from train.losses import eager

SUM_ORDER = 1e-6
"""Sums of float32 in another order."""

HEADS = "".join(
    f"[terms.{name}]\n" + "".join(f"{k} = {v!r}\n".replace("'", '"') for k, v in each.items())
    for name, each in SECTIONS.items()
)
POOLED = '[terms.text_pooled]\nweight = 0.4\ndistance = "cosine_mse"\n'
FLAGS = ("--max-steps", "5", "--lr", "1e-3", "--batch-tokens", "150", "--set",
         "loop.micro_tokens=90", "--set", "checkpoints.every=2", "--set", "eval.every=3", "--set",
         "eval.fraction=0.3", "--set", "logging.gradient_norms_every=4")  # fmt: skip


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return heard_tape.record(tmp_path_factory.mktemp("heard"))


def launch(tape: Path, student: Path, out: Path, recipe: str, *more: str, **faults: Any) -> Launch:
    file = out.with_suffix(".toml")
    file.write_text(recipe)
    flags = ("--recipe", str(file), *FLAGS, *more)
    return Launch(tape=tape, student=student, out=out, more=flags, **faults)


def head_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "heads" / "heads.safetensors")


@pytest.mark.parametrize("recipe", [HEADS, HEADS + POOLED], ids=["tower alone", "whole"])
def test_killed_it_goes_on_bit_for_bit_and_processes_change_nothing(
    tape: Path, student_dir: Path, tmp_path: Path, forks: Forks, recipe: str
) -> None:
    assert not any(name.endswith("/trace") for name in open_tape(tape).signals)
    straight = launch(tape, student_dir, tmp_path / "straight", recipe)
    killed = launch(tape, student_dir, tmp_path / "killed", recipe, kill_after=3)
    ended, said = train_apart(forks, straight)
    assert ended[0].value == 0, said
    assert f"rows: {7 + (recipe == HEADS)}" in said
    assert train_apart(forks, killed)[0][0].status == -9
    again = launch(tape, student_dir, tmp_path / "killed", recipe)
    assert train_apart(forks, again)[0][0].value == 0
    assert steps(killed.out) == steps(straight.out)
    assert held_out(killed.out) == held_out(straight.out)
    assert same_weights(killed.out, straight.out)
    one, other = head_weights(straight.out), head_weights(killed.out)
    assert all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())
    for number, sharding in enumerate(("none", "full")):
        more = ("--set", f"student.sharding={sharding}")
        many = launch(tape, student_dir, tmp_path / str(number), recipe, *more)
        ended, said = train_apart(forks, many, 2)
        assert [process.value for process in ended] == [0, 0], said
        for alone, together in zip(
            steps(straight.out) + held_out(straight.out),
            steps(many.out) + held_out(many.out),
            strict=True,
        ):
            assert together["loss"] == pytest.approx(alone["loss"], rel=SUM_ORDER)
            for name, term in alone["terms"].items():
                assert together["terms"][name]["count"] == term["count"] > 0
                value = pytest.approx(term["value"], rel=10 * SUM_ORDER, abs=SUM_ORDER)
                assert together["terms"][name]["value"] == value
        assert apart(straight.out, many.out, student_dir) < 10 * SUM_ORDER
        for name, tensor in head_weights(many.out).items():
            torch.testing.assert_close(tensor, one[name], rtol=1e-4, atol=1e-5)


def test_a_student_of_heads_learns_and_is_saved_with_them(
    tape: Path, student_dir: Path, tmp_path: Path
) -> None:
    run = launch(tape, student_dir, tmp_path / "run", HEADS, "--max-steps", "30", "--set",
                 "optim.projector_lr=1e-2", "--batch-tokens", "100000",
                 "--set", "eval.every=0", "--set", "checkpoints.every=30")  # fmt: skip
    result = train_here(run)
    assert result.exit_code == 0, result.output
    lines = steps(run.out)
    for name in SECTIONS:
        assert lines[-1]["terms"][name]["value"] < 0.7 * lines[0]["terms"][name]["value"]
    report = (run.out / "report.md").read_text()
    assert all(name in report for name in SECTIONS)

    student = run.out / "student"
    # what takes every file of weights beside a model for the model's own finds one alone
    assert [path.name for path in student.glob("*.safetensors")] == ["model.safetensors"]
    assert AutoConfig.from_pretrained(student).architectures
    _, info = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        student, output_loading_info=True
    )
    assert not any(info.values())

    # as the documentation of train.heads has it
    tower, heads = load_audio_tower(str(student), "float32", "cpu"), load_heads(student)
    top = tower.shape.num_layers
    assert all(head.spec.layer == top for head in heads.values())
    kl, distance = [], []
    for row in open_tape(tape):
        batch = tower.build([row.audio]).to(tower.device)
        with torch.no_grad():
            frames = tower.forward(batch, [top]).states[top]
            found = {name: head(frames, batch.num_frames) for name, head in heads.items()}
        said = row["mood/utterance_logits"]
        assert heads["acoustic_utterance"].spec.labels == said.labels
        teacher = torch.tensor(said.logits)[None]
        kl.append(4 * eager.dense_forward_kl(teacher, found["acoustic_utterance"], 2.0).item())
        assert found["acoustic_frames"].shape == (len(frames), 3)
        pair = found["acoustic_embedding"], torch.tensor(row["voice/embedding"].values)[None]
        distance.append((eager.cosine_of_each(*pair) + eager.relative_mse_of_each(*pair)).item())
    # the last step's are those of the weights before it
    for name, values in (("acoustic_utterance", kl), ("acoustic_embedding", distance)):
        last = lines[-1]["terms"][name]["value"]
        assert sum(values) / len(values) == pytest.approx(last, rel=0.2)


def test_rows_with_and_without_traces_share_a_run_in_any_number_of_processes(
    tape: Path, make_tape: MakeTape, student_dir: Path, tmp_path: Path, forks: Forks
) -> None:
    """In shards all processes take the language model along, though half of the rows need none."""
    tasks = """
    [terms.ce]
    weight = 1.0
    [tasks.heard]
    terms = [{}]
    [tasks.told]
    terms = ["ce"]
    [stages.hearing]
    steps = 2
    tasks = ["heard"]
    freeze = ["language_model"]
    [stages.both]
    steps = 4
    """.format(", ".join(f'"{name}"' for name in SECTIONS))
    caches = ("--cache", f"told={make_tape(num_samples=6)}", "--max-steps", "0",
              "--batch-tokens", "900", "--set", "eval.every=0")  # fmt: skip
    one = launch(tape, student_dir, tmp_path / "one", HEADS + tasks, *caches)
    result = train_here(one)
    assert result.exit_code == 0, result.output
    counts = [{n for n, t in line["terms"].items() if t["count"]} for line in steps(one.out)]
    assert counts[0] == counts[1] == set(SECTIONS)
    assert any(each == {"ce", *SECTIONS} for each in counts)
    for sharding in ("none", "full"):
        more = (*caches, "--set", f"student.sharding={sharding}")
        many = launch(tape, student_dir, tmp_path / sharding, HEADS + tasks, *more)
        ended, said = train_apart(forks, many, 2)
        assert [process.value for process in ended] == [0, 0], said
        for alone, together in zip(steps(one.out), steps(many.out), strict=True):
            assert together["loss"] == pytest.approx(alone["loss"], rel=SUM_ORDER)
        assert apart(one.out, many.out, student_dir) < 10 * SUM_ORDER


def test_what_the_tape_lacks_is_said_with_how_to_record_it(
    tape: Path, student_dir: Path, tmp_path: Path
) -> None:
    recipe = """
    [terms.acoustic_utterance]
    weight = 1.0
    source = "moods"
    [terms.acoustic_frames]
    weight = 1.0
    source = "mood"
    [terms.acoustic_embedding]
    weight = 1.0
    source = "textual"
    """
    result = train_here(launch(tape, student_dir, tmp_path / "run", recipe))
    assert result.exit_code == 1
    said = " ".join(result.output.split())
    assert "needs moods/utterance_logits (record it: --acoustic-teacher M" in said
    assert "--set acoustic.name=moods, where M is a classifier (...ForSequenceClass" in said
    assert "did you mean" in said
    assert "needs mood/frame_logits (record it:" in said
    assert "...ForAudioFrameClassification)" in said
    assert "source 'textual' is of kind textual; the term needs one of kind acoustic" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("acoustic_utterance", "pooling", "max", r"pooling 'max': one of \('mean', 'statistics'\)"),
        ("acoustic_utterance", "temperature", 0, r"temperature 0\.0: expected more than 0"),
        ("acoustic_frames", "pooling", "mean", "unknown key 'pooling'"),
        ("acoustic_embedding", "distance", "cka", "distance 'cka': one of"),
    ],
)
def test_settings_are_checked(
    tape: Path, student_dir: Path, tmp_path: Path, name: str, key: str, value: object, message: str
) -> None:
    recipe = f"[terms.{name}]\nweight = 1.0\n{key} = {value!r}\n".replace("'", '"')
    result = train_here(launch(tape, student_dir, tmp_path / "run", recipe))
    assert result.exit_code == 2
    assert re.search(message, " ".join(result.output.split()))


def test_a_student_whose_tower_is_not_known_is_refused_before_it_is_loaded(
    tape: Path, student_dir: Path, tmp_path: Path
) -> None:
    other = tmp_path / "student"
    other.mkdir()
    config = json.loads((student_dir / "config.json").read_text())
    config["architectures"] = ["UnheardOfForConditionalGeneration"]
    (other / "config.json").write_text(json.dumps(config))
    result = train_here(launch(tape, other, tmp_path / "run", HEADS))
    assert result.exit_code == 1
    assert "the audio tower of UnheardOfForConditionalGeneration is not known" in result.output
    assert not (tmp_path / "run").exists()


def test_tapes_of_other_classes_are_terms_of_their_own(
    tape: Path, student_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    family, ending, _ = heard_tape.CLASSIFIERS["mood"]
    other = heard_tape.record(
        tmp_path / "other", (), {"mood": (family, ending, {"multi_label": True})}
    )
    recipe = """
    [terms.acoustic_utterance]
    weight = 1.0
    source = "mood"
    [tasks.one]
    [tasks.two]
    """
    flags = ("--cache", f"two={other}")
    result = train_here(launch(tape, student_dir, tmp_path / "run", recipe, *flags))
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "has 3 classes (angry, glad, sad), judged against each other, on the tape of" in said
    assert "has 3 classes (angry, glad, sad), judged each by itself, on that of 'two'" in said


@pytest.mark.parametrize(
    "held",
    [
        "student.autocast=bfloat16",
        "student.lora_rank=2",
        "student.activation_checkpointing=true",
        'student.freeze=["audio_tower", "language_model"]',
    ],
)
@pytest.mark.parametrize("recipe", [HEADS, HEADS + POOLED], ids=["tower alone", "whole"])
def test_heads_train_however_the_student_is_held(
    tape: Path, student_dir: Path, tmp_path: Path, held: str, recipe: str
) -> None:
    plain = launch(tape, student_dir, tmp_path / "plain", recipe, "--max-steps", "2", "--lr", "0")
    other = launch(tape, student_dir, tmp_path / "other", recipe, "--max-steps", "2", "--lr", "0",
                   "--set", held)  # fmt: skip
    for run in (plain, other):
        AcceleratorState._reset_state(reset_partial_state=True)
        result = train_here(run)
        assert result.exit_code == 0, result.output
    for one, two in zip(steps(plain.out), steps(other.out), strict=True):
        # in bfloat16 the tower's states have eight bits; adapters draw the heads' random numbers
        within = {"student.autocast=bfloat16": 0.02, "student.lora_rank=2": 0.5}.get(held, 1e-5)
        assert two["loss"] == pytest.approx(one["loss"], rel=within)
        assert all(term["count"] for term in two["terms"].values())
    assert load_heads(other.out / "student").keys() == SECTIONS.keys()
