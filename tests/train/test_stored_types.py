from __future__ import annotations

from pathlib import Path

import pytest
import tiny_tape
from tiny_tape import MakeTape, build_tape
from typer.testing import CliRunner

from audio_models.load import AudioLM
from cache_schema import open_tape
from cache_schema.shard import Storage
from train.cli import app
from train.metrics import read_metrics


def losses(tape: Path, student: Path, out: Path) -> list[float]:
    arguments = ["student", "--cache", str(tape), "--student", str(student), "--out", str(out)]
    more = ["--max-steps", "4", "--batch-tokens", "400", "--lr", "1e-3"]
    result = CliRunner().invoke(app, [*arguments, *more])
    assert result.exit_code == 0, result.output
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl")]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_states_of_any_stored_type_train(
    make_tape: MakeTape,
    student: AudioLM,
    student_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
) -> None:
    full = losses(make_tape(), student_dir, tmp_path / "run-full")
    monkeypatch.setattr(tiny_tape, "Storage", lambda **_: Storage(states_dtype=dtype))
    half = build_tape(tmp_path / "half", student)
    for source in ("textual", "acoustic"):
        states = [shard.record.states for shard in open_tape(half).shards[source]]
        assert {each.dtype for each in states if each is not None} == {dtype}
    # states rounded to 8 bits of mantissa
    assert losses(half, student_dir, tmp_path / "run-half") == pytest.approx(full, rel=1e-3)
