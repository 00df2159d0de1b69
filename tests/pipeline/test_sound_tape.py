"""A tape of the real engines is sound, and equal to itself and to its merge with itself."""

from __future__ import annotations

from pathlib import Path

from tiny_stage_one import run_pipeline


def test_the_extracted_tape_is_sound(tape_dir: Path, tmp_path: Path) -> None:
    done = run_pipeline("verify", tape_dir, "--deep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "note:" not in done.stdout
    merged = run_pipeline("merge", tape_dir, tape_dir, "--out", tmp_path / "out")
    assert merged.returncode == 0, merged.stderr
    assert run_pipeline("verify", tmp_path / "out", "--deep").returncode == 0
    same = run_pipeline("diff", tape_dir, tmp_path / "out")
    assert same.returncode == 0, same.stdout
