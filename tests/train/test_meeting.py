"""Acoustic states of another front end: compared over the same seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_tape import NUM_SAMPLES, MakeTape, sample
from typer.testing import CliRunner

from audio_models.load import AudioLM, load_audio_lm
from cache_schema import Tape, open_tape
from cache_schema.errors import TapeError
from cache_schema.maker import GroupInfo
from cache_schema.rows.values import hidden_row
from cache_schema.shard import Storage
from cache_schema.signals import AUDIO_ROW
from cache_schema.writer import TapeWriter
from train.batch.build import Needs, Share, TrainBatch, load_batches
from train.cli import app
from train.losses.states import cosine_distance
from train.objective import Objective
from train.steps.ring import HostBuffer, Readers
from train.terms.recipe import TermsRecipe
from train.terms.resolve import StatesAt, Term, resolve_terms

ROWS = ("s0", "s5", "s9")
FRAME_S = 0.02


def add_frames(root: Path, width: int, names: tuple[str, ...], times: bool = True) -> Tape:
    """Record frames of 20 ms, as a WavLM's, of another teacher."""
    info = GroupInfo(
        group="wavlm",
        kind="acoustic",
        signals={"hidden": {"layers": [1, 2], "width": width}},
        identity={"num_layers": 2, "width": width},
    )
    with TapeWriter(root, info, storage=Storage(states_dtype="float32")) as writer:
        for name in names:
            item = sample(int(name[1:]))
            assert item.audio is not None
            count = int(len(item.audio) / 16_000 / FRAME_S)
            starts = (np.arange(count) * FRAME_S).astype(np.float32)
            times_s = np.stack([starts, starts + np.float32(FRAME_S)], axis=1) if times else None
            rng = np.random.default_rng(count)
            states = {n: rng.standard_normal((count, width)).astype(np.float32) for n in (1, 2)}
            place = hidden_row(name, AUDIO_ROW, "frame", (0, 0), None, times_s)
            writer.add({}, [(place, states)])
    return open_tape(root)


def terms_of(tape: Tape) -> tuple[Term, ...]:
    settings = {"weight": 1.0, "source": "wavlm", "layers": "1:1,2:2", "distance": "cosine"}
    recipe = TermsRecipe.from_values({"acoustic_hidden": settings}, "recipe.terms")
    return resolve_terms(recipe, tape, 2)


def batch_of(tape: Tape, lm: AudioLM, names: tuple[str, ...]) -> TrainBatch:
    needs = Needs(terms=("acoustic_hidden",), states={StatesAt("wavlm", at="audio"): (1, 2)})
    with Readers() as readers:
        buffer = HostBuffer()
        share = Share(tape=tape, needs=needs, rows=[(name, 0) for name in names])
        (batch,) = load_batches(lm, [share], buffer, readers)
        buffer.wait()
    return batch


def plainly(tape: Tape, batch: TrainBatch, student: dict[int, torch.Tensor]) -> torch.Tensor:
    """Return the term's sum, position by position."""
    total = torch.zeros(())
    for number, name in enumerate(ROWS):
        hidden = tape[name]["wavlm/hidden"]
        times_s = batch.audio.audio_times_s[number]
        for place, position in enumerate(batch.audio.audio_positions[number]):
            start, end = times_s[place]
            common = np.minimum(hidden.times_s[:, 1], end) - np.maximum(hidden.times_s[:, 0], start)
            weights = torch.from_numpy(np.maximum(common, 0)).float()
            if weights.sum() > 1e-6:
                heard = torch.einsum("f,fld->ld", weights / weights.sum(), hidden_tensor(hidden))
                for layer in (1, 2):
                    own = student[layer][number, position][None]
                    total = total + cosine_distance(own, heard[layer - 1][None])[0] / 2
    return total


def hidden_tensor(hidden: object) -> torch.Tensor:
    return torch.from_numpy(hidden.states)  # type: ignore[attr-defined]


def test_frames_are_compared_over_the_students_seconds(
    make_tape: MakeTape, student_dir: Path
) -> None:
    lm = load_audio_lm(str(student_dir), "float32", "cpu")
    tape = add_frames(make_tape(), lm.width, ROWS)
    terms = terms_of(tape)
    objective = Objective(lm.model, terms, lm.width, 16)
    assert len(objective.projectors) == 0
    batch = batch_of(tape, lm, ROWS)
    value = objective(batch)[0]
    seen: dict[int, torch.Tensor] = {}
    for layer, block in enumerate(lm.model.get_decoder().layers, 1):
        block.register_forward_hook(
            lambda _m, _a, out, n=layer: seen.update({n: out[0] if isinstance(out, tuple) else out})
        )
    with torch.no_grad():
        lm.model(**batch.audio.inputs, use_cache=False)
    expected = plainly(tape, batch, seen)
    torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-5)
    meeting = batch.meetings[StatesAt("wavlm", at="audio")]
    assert float(objective.counts(batch)[0]) == meeting.count
    assert 0 < meeting.count <= sum(map(len, batch.audio.audio_positions))
    value.backward()
    assert lm.model.audio_tower.conv1.weight.grad.abs().sum() > 0, "the tower learns from it"


def test_frames_without_times_are_refused(make_tape: MakeTape, student: AudioLM) -> None:
    tape = add_frames(make_tape(), student.width, ROWS, times=False)
    with pytest.raises(TapeError, match=r"sample 's0': .* positions \(frame\) without times"):
        batch_of(tape, student, ROWS)


def test_a_student_is_trained_on_frames(
    make_tape: MakeTape, student: AudioLM, student_dir: Path, tmp_path: Path
) -> None:
    tape = add_frames(make_tape(), student.width, tuple(f"s{n}" for n in range(NUM_SAMPLES)))
    settings = {"weight": 1.0, "source": "wavlm", "layers": "1:1,2:2"}
    flags = [
        "--cache",
        tape.location,
        "--student",
        str(student_dir),
        "--out",
        str(tmp_path / "run"),
    ]
    flags += ["--recipe", "sft", "--max-steps", "10", "--lr", "0.003"]
    for name, value in settings.items():
        flags += ["--set", f"terms.acoustic_hidden.{name}={value}"]
    done = CliRunner().invoke(app, ["student", *flags])
    assert done.exit_code == 0, done.output
    values = [line["terms"]["acoustic_hidden"]["value"] for line in metrics_of(tmp_path / "run")]
    assert np.mean(values[-3:]) < 0.9 * np.mean(values[:3])


def metrics_of(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "terms" in line]
