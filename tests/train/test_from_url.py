"""Training from a URL: the same student as from disk, whatever the server does, or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from share_servers import Faults, http_server
from tiny_tape import MakeTape
from typer.testing import CliRunner

from train.cli import app
from train.metrics import read_metrics

STEPS = 6
TIMES = ("step_s", "tokens_per_s", "loader_wait_s")


class Moody(Faults):
    """Every file fails once, one stalls, the next resets, the next is cut, ..."""

    KINDS = ("stall", "reset", "cut", "garbage", "500")

    def of(self, path: str) -> str:
        if path not in self.asked:
            self.kind = self.KINDS[len(self.asked) % len(self.KINDS)]
        return super().of(path)


@pytest.fixture
def faults() -> Faults:
    return Moody()


@pytest.fixture
def tape(make_tape: MakeTape) -> Path:
    return make_tape()


@pytest.fixture
def url(
    tape: Path, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    monkeypatch.setattr("cache_schema.remote.files.PAUSE_S", 0.01)
    monkeypatch.setenv("TEACHERTAPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEACHERTAPE_STALL_S", "0.3")
    with http_server(tape, faults) as found:
        yield found


def train(tape: str, student: Path, out: Path) -> tuple[int, str]:
    arguments = ["student", "--cache", tape, "--student", str(student), "--out", str(out)]
    arguments += ["--max-steps", str(STEPS), "--batch-tokens", "400", "--lr", "1e-3"]
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.output


def trained(run: Path) -> tuple[list[dict[str, object]], dict[str, torch.Tensor]]:
    lines = read_metrics(run / "metrics.jsonl")
    losses = [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
    return losses, load_file(run / "student" / "model.safetensors")


def test_a_bad_server_and_a_small_cache_change_no_bit(
    tape: Path, url: str, faults: Faults, student_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sizes = [path.stat().st_size for path in (tape / "shards").rglob("*") if path.is_file()]
    monkeypatch.setenv("TEACHERTAPE_CACHE_GB", str(max(max(sizes), sum(sizes) // 3) / 1e9))
    faults.times = 1
    runs = []
    for name, location in (("disk", str(tape)), ("url", url)):
        status, told = train(location, student_dir, tmp_path / name)
        assert status == 0, told
        runs.append(trained(tmp_path / name))
    (losses, weights), (far_losses, far_weights) = runs
    assert far_losses == losses
    assert len(losses) == STEPS
    assert all(torch.equal(far_weights[name], weights[name]) for name in weights)
    assert sum(count > 1 for count in faults.asked.values()) > len(Moody.KINDS)


@pytest.mark.parametrize("kind", ["stall", "garbage"])
def test_a_server_that_never_gives_a_file_ends_the_run_by_name(
    url: str, faults: Faults, student_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, kind: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(Moody, "KINDS", (kind,))
    monkeypatch.setenv("TEACHERTAPE_STALL_S", "0.1")
    faults.times, faults.only = -1, lambda path: "/audio.arrow" in path
    status, told = train(url, student_dir, tmp_path / "run")
    assert status == 1, told
    assert "audio.arrow" in told
    assert "5 times" in told
    assert "Traceback" not in told
    assert not (tmp_path / "run" / "student").exists()
