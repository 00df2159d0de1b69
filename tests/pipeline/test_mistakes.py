"""Mistakes on the command line: what to do in a few lines, the right status, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_stage_one import save_dataset
from typer.testing import CliRunner, Result

from cache_schema import open_tape
from pipeline.cli import app

runner = CliRunner()


def run_pipeline(*arguments: str | Path) -> Result:
    """Run one step in this process."""
    return runner.invoke(app, [*map(str, arguments)])


def test_help_shows_an_example() -> None:
    for command in (
        "extract-teachers",
        "ingest",
        "textualize",
        "inspect",
        "doctor",
        "push",
        "pull",
        "slice",
        "attach",
        "merge",
    ):
        text = runner.invoke(app, [command, "--help"]).output
        assert "Example" in text, command
        assert "pipeline " in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--out", "x"], 2, "--dataset is needed"),
        (["--out", "x", "--only", "ingest"], 2, "--dataset is needed"),
        (["--dataset", "rows.jsonl"], 2, "--out is needed"),
        (["--dataset", "rows.jsonl", "--out", "x", "--worker", "2/2"], 2, "0 <= I < N"),
        (["--dataset", "rows.jsonl", "--out", "x", "--set", "tape.ot=1"], 2, "did you mean 'out'"),
        (["--dataset", "rows.jsonl", "--out", "x", "--engine", "vlm"], 2, "vllm or transformers"),
        (["--dataset", "rows.jsonl", "--out", "x", "--traces", "4"], 2, "needs --temperature"),
        (["--dataset", "rows.jsonl", "--out", "x", "--only", "acustic"], 2, "did you mean 'acou"),
        (["--dataset", "rows.jsonl", "--out", "x", "--only", "textual"], 2, "--text-teacher"),
        (
            ["--dataset", "rows.jsonl", "--out", "x", "--text-teacher", "./nowhere"],
            1,
            "'./nowhere' does not exist",
        ),
        (
            ["--dataset", "rows.jsonl", "--out", "x", "--acoustic-teacher", "."],
            1,
            "has no config.json",
        ),
        (["--dataset", "nothing.jsonl", "--out", "x", "--only", "ingest"], 1, "no such file"),
    ],
)
def test_named_and_nothing_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_dataset(tmp_path, 2)
    done = runner.invoke(app, ["extract-teachers", *arguments])
    assert done.exit_code == status, done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("x").exists()


@pytest.mark.parametrize("teacher", ["--text-teacher", "--acoustic-teacher"])
def test_a_wrong_value_in_a_configuration_is_named(tmp_path: Path, teacher: str) -> None:
    """What transformers raises then derives from none of the usual errors."""
    model = tmp_path / "model"
    model.mkdir()
    config = {"model_type": "qwen3", "num_hidden_layers": "four"}
    (model / "config.json").write_text(json.dumps(config))
    dataset = save_dataset(tmp_path, 2)
    tape = tmp_path / "tape"
    done = run_pipeline("extract-teachers", "--dataset", dataset, "--out", tape, teacher, model)
    assert done.exit_code == 1, done.output
    assert f"{str(model)!r}: its config.json is not valid" in done.stderr
    assert "'num_hidden_layers'" in done.stderr
    assert not tape.exists()


def test_one_unreadable_file_of_many(tmp_path: Path) -> None:
    dataset = save_dataset(tmp_path, 9)
    (tmp_path / "clip-4.flac").write_bytes(b"not audio")
    tape = tmp_path / "tape"
    refused = run_pipeline("ingest", "--dataset", dataset, "--out", tape)
    assert refused.exit_code == 1
    assert "row-4 (row 4): audio: cannot decode" in refused.stderr
    assert len(open_tape(tape)) == 8, "the others are on the tape"
    assert open_tape(tape).quarantined == []

    tolerant = ("--set", "failures.max_fraction=1.0")
    accepted = run_pipeline("ingest", "--dataset", dataset, "--out", tape, *tolerant)
    assert accepted.exit_code == 0, accepted.stderr
    assert "quarantined 1 of 9 samples" in accepted.stderr
    (record,) = open_tape(tape).quarantined
    assert (record.sample_id, record.row_index, record.reason) == ("row-4", 4, "audio")
    page = run_pipeline("inspect", tape, "--json")
    assert json.loads(page.stdout)["quarantined"] == {"samples: audio": 1}

    again = run_pipeline("ingest", "--dataset", dataset, "--out", tape)
    assert (again.exit_code, "nothing to do" in again.stderr) == (0, True)


def test_a_stopped_run_may_fail_as_many_as_a_whole_one(tmp_path: Path) -> None:
    dataset = save_dataset(tmp_path, 9)
    (tmp_path / "clip-8.ogg").write_bytes(b"not audio")
    tape = tmp_path / "tape"
    few = ("--set", "failures.max_fraction=0.12")
    assert (
        run_pipeline("ingest", "--dataset", dataset, "--out", tape, "--limit", "8").exit_code == 0
    )
    assert run_pipeline("ingest", "--dataset", dataset, "--out", tape).exit_code == 1
    rest = run_pipeline("ingest", "--dataset", dataset, "--out", tape, *few)
    assert rest.exit_code == 0, rest.stderr
    assert len(open_tape(tape)) == 8


def test_a_mended_file_is_taken_up(tmp_path: Path) -> None:
    dataset = save_dataset(tmp_path, 3)
    clip = tmp_path / "clip-1.flac"
    content = clip.read_bytes()
    clip.write_bytes(b"")
    assert run_pipeline("ingest", "--dataset", dataset, "--out", tmp_path / "t").exit_code == 1
    clip.write_bytes(content)
    assert run_pipeline("ingest", "--dataset", dataset, "--out", tmp_path / "t").exit_code == 0
    assert len(open_tape(tmp_path / "t")) == 3


def test_all_unreadable_leaves_no_tape(tmp_path: Path) -> None:
    dataset = save_dataset(tmp_path, 2)
    for clip in tmp_path.glob("clip-*"):
        clip.unlink()
    done = run_pipeline("ingest", "--dataset", dataset, "--out", tmp_path / "tape")
    assert (done.exit_code, (tmp_path / "tape").exists()) == (1, False)


def test_another_dataset_is_refused(tmp_path: Path) -> None:
    tape = tmp_path / "tape"
    first, second = save_dataset(tmp_path / "a", 2), save_dataset(tmp_path / "b", 3)
    assert run_pipeline("ingest", "--dataset", first, "--out", tape).exit_code == 0
    done = run_pipeline("ingest", "--dataset", second, "--out", tape)
    assert done.exit_code == 1
    assert "dataset_digest" in done.stderr


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    dataset = save_dataset(tmp_path / "data", 2)
    before = sorted(p.name for p in dataset.parent.iterdir())
    done = run_pipeline("ingest", "--dataset", dataset, "--out", dataset.parent)
    assert done.exit_code == 1
    assert "not a tape" in done.stderr
    assert sorted(p.name for p in dataset.parent.iterdir()) == before


def test_nothing_to_describe_by(tmp_path: Path) -> None:
    dataset = save_dataset(tmp_path, 2)
    tape = tmp_path / "tape"
    rows = [json.loads(line) for line in dataset.read_text().splitlines()]
    for row in rows:
        del row["transcript"], row["speaker"]
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_pipeline("ingest", "--dataset", dataset, "--out", tape).exit_code == 0
    done = run_pipeline("textualize", "--dataset", dataset, "--out", tape)
    assert done.exit_code == 1
    assert "empty description" in done.stderr
    assert "textualize.template" in done.stderr
    template = "textualize.template=Said by {spekaer}"
    wrong = run_pipeline("textualize", "--dataset", dataset, "--out", tape, "--set", template)
    assert (wrong.exit_code, "'spekaer'" in wrong.stderr) == (1, True)


def test_two_workers_make_one_tape(tmp_path: Path) -> None:
    dataset = save_dataset(tmp_path, 5)
    for worker in ("1/2", "0/2"):
        done = run_pipeline(
            "ingest", "--dataset", dataset, "--out", tmp_path / "t", "--worker", worker
        )
        assert done.exit_code == 0, done.stderr
    assert open_tape(tmp_path / "t").sample_ids == tuple(f"row-{i}" for i in range(5))
