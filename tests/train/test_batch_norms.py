"""Statistics of batch norms, which Granite Speech's tower has, are the student's and stay so."""

from __future__ import annotations

from pathlib import Path

import tiny_audio_families
from safetensors.torch import load_file
from tiny_tape import build_tape
from train_runs import Launch, held_out, same_weights, steps, train_here, weights

from audio_models.load import load_audio_lm


def test_no_pass_moves_them_and_no_row_depends_on_others(tmp_path: Path) -> None:
    path = tiny_audio_families.save_granite(tmp_path / "granite")
    lm = load_audio_lm(str(path), "float32", "cpu")
    tape = build_tape(tmp_path / "tape", lm, textual=False, num_samples=6)
    runs = []
    for name, layers, every in (("plain", "1:2", 0), ("measured", "1:2", 1), ("same", "1:1", 1)):
        terms = f'[terms.acoustic_hidden]\nweight = 1.0\nlayers = "{layers}"\n'
        (tmp_path / f"{name}.toml").write_text(terms)
        more = ("--recipe", str(tmp_path / f"{name}.toml"), "--max-steps", "2", "--lr", "1e-3",
                "--set", "eval.every=1", "--set", "eval.fraction=0.4",
                "--set", f"logging.gradient_norms_every={every}")  # fmt: skip
        runs.append(Launch(tape=tape, student=path, out=tmp_path / name, more=more))
        result = train_here(runs[-1])
        assert result.exit_code == 0, result.output
    plain, measured, same = (run.out for run in runs)
    assert same_weights(plain, measured)
    assert held_out(plain) == held_out(measured)
    # the acoustic teacher is the student before training, which heard in evaluation
    assert abs(steps(same)[0]["terms"]["acoustic_hidden"]["value"]) < 1e-5
    statistics = [name for name in weights(plain) if "running_" in name]
    assert len(statistics) == 4
    before = load_file(path / "model.safetensors")
    assert all(weights(plain)[name].equal(before[name]) for name in statistics)
