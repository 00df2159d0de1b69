"""Attaching: recordings of a tape of references, found by content among their owner's files."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_push_and_pull import bring, send, sound, uncounted
from tiny_stage_one import save_dataset
from typer.testing import CliRunner, Result

from cache_schema import open_tape
from cache_schema.errors import MissingSignalError, TapeError
from cache_schema.merge.tapes import merge
from cache_schema.validate.tape import validate
from pipeline.audio.recordings import load_audio
from pipeline.cli import app

SIX = tuple(f"row-{index}" for index in range(6))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="session")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings of different forms and rates, and their table."""
    folder = tmp_path_factory.mktemp("owner")
    save_dataset(folder, 6)
    return folder


@pytest.fixture
def shared(owner: Path, tmp_path: Path) -> Path:
    """A tape of references as somebody else gets it: pushed, and pulled."""
    made, there, here = (tmp_path / name for name in ("made", "there", "here"))
    told = ["--dataset", owner / "rows.jsonl", "--out", made, "--audio", "reference"]
    done = run("ingest", *told, "--set", "tape.shard_samples=4")
    assert done.exit_code == 0, done.stderr
    send(made, str(there))
    assert not list(there.rglob("audio*"))
    bring(str(there), here)
    return here


def same_as(owner: Path, tape: Path, names: tuple[str, ...] = SIX) -> None:
    """Whether the tape's recordings are the owner's."""
    lines = (owner / "rows.jsonl").read_text().splitlines()
    rows = {row["id"]: row for row in map(json.loads, lines)}
    opened = open_tape(tape)
    for name in names:
        assert opened[name].has_audio
        assert np.array_equal(opened[name].audio, load_audio(rows[name]["audio"], owner))


def scattered(owner: Path, folder: Path) -> Path:
    """The owner's files under other names, in other folders, some in another lossless form."""
    (folder / "deep/er").mkdir(parents=True)
    for number, path in enumerate(sorted(owner.glob("clip-*"))):
        target = folder / ("deep/er" if number % 2 else ".") / f"{97 - number}{path.suffix}"
        if path.suffix == ".wav":
            wave, rate_hz = soundfile.read(path, dtype="int16")
            soundfile.write(target.with_suffix(".flac"), wave, rate_hz)
        else:
            shutil.copy(path, target)
    (folder / "notes.txt").write_text("of the recordings")
    return folder


def test_by_the_table(owner: Path, shared: Path) -> None:
    before = open_tape(shared)["row-3"]
    assert not before.has_audio
    with pytest.raises(MissingSignalError, match="pipeline attach"):
        _ = before.audio
    done = run("attach", shared, "--dataset", owner / "rows.jsonl", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["samples"], told["attached_now"], told["looked_at"]) == (6, 6, 6)
    assert told["missing"] == []
    same_as(owner, shared)
    sound(shared)
    again = run("attach", shared, "--dataset", "nowhere")
    assert again.exit_code == 0
    assert "6 of 6 recordings are attached (0 now" in again.stdout


def test_whatever_they_are_called(owner: Path, shared: Path, tmp_path: Path) -> None:
    folder = scattered(owner, tmp_path / "files")
    loud, rate_hz = soundfile.read(owner / "clip-0.wav")
    soundfile.write(folder / "again.ogg", loud, rate_hz)
    (folder / "broken.wav").write_bytes(b"RIFF")
    done = run("attach", shared, "--dataset", folder)
    assert done.exit_code == 0, done.stderr
    assert "6 of 6 recordings are attached (6 now; " in done.stdout
    assert "1 other files left aside" in done.stdout
    same_as(owner, shared)
    sound(shared)


def test_coded_anew_or_gone_is_named_and_the_rest_attached(
    owner: Path, shared: Path, tmp_path: Path
) -> None:
    folder = scattered(owner, tmp_path / "files")
    (lost,) = folder.rglob("92.ogg")
    lost.unlink()
    wave, rate_hz = soundfile.read(folder / "97.flac")
    (folder / "97.flac").unlink()
    soundfile.write(folder / "97.ogg", wave, rate_hz)
    (folder / "cut.flac").write_bytes((owner / "clip-1.flac").read_bytes()[:200])
    done = run("attach", shared, "--dataset", folder)
    assert done.exit_code == 1
    assert "4 of 6 recordings are attached" in done.stdout
    assert "2 samples have none: row-0, row-5" in done.stdout
    assert "1 are no recordings that it refers to: 97.ogg" in done.stdout
    assert "1 cannot be read: cut.flac: cannot decode" in done.stdout
    same_as(owner, shared, SIX[1:5])
    sound(shared)
    with pytest.raises(MissingSignalError, match=r"sample 'row-5', sha256 \w{64}"):
        _ = open_tape(shared)["row-5"].audio
    nothing = run("attach", shared, "--dataset", folder)
    assert nothing.exit_code == 1
    assert "of 6 recordings none is one that" in nothing.stderr
    rest = run("attach", shared, "--dataset", owner)
    assert (rest.exit_code, rest.stdout.count("(2 now")) == (0, 1), rest.stdout
    same_as(owner, shared)


def test_a_table_whose_rows_moved(owner: Path, shared: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(owner, tmp_path / "moved"))
    lines = (folder / "rows.jsonl").read_text().splitlines()
    (folder / "rows.jsonl").write_text("\n".join([*lines[3:], lines[0], lines[1]]) + "\n")
    done = run("attach", shared, "--dataset", folder / "rows.jsonl", "--json")
    told = json.loads(done.stdout)
    assert (told["attached_now"], told["missing"], told["looked_at"]) == (5, ["row-2"], 5)
    assert done.exit_code == 1
    same_as(owner, shared, (*SIX[:2], *SIX[3:]))


def test_what_is_attached_stays_here(owner: Path, shared: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    assert run("seal", "--generate-key", key).exit_code == 0
    assert run("seal", shared, "--key", key).exit_code == 0
    assert run("attach", shared, "--dataset", owner).exit_code == 0
    assert run("verify", shared, "--public-key", f"{key}.pub").exit_code == 0
    send(shared, str(tmp_path / "again"))
    bring(str(shared), tmp_path / "copy")
    assert run("slice", shared, "--out", tmp_path / "few", "--limit", "2").exit_code == 0
    merge([str(shared)], tmp_path / "merged", uncounted)
    for name in ("again", "copy", "few", "merged"):
        assert not (tmp_path / name / "attached").exists()
        assert not open_tape(tmp_path / name)["row-1"].has_audio
        sound(tmp_path / name)


def test_tampered_with(owner: Path, shared: Path, tmp_path: Path) -> None:
    assert run("attach", shared, "--dataset", owner).exit_code == 0
    first, second = sorted(shared.glob("attached/*/*"))
    (piece,) = first.iterdir()
    data = piece.read_bytes()
    piece.write_bytes(data[:-3] + b"\0\1\2")
    with pytest.raises(TapeError, match="is damaged"):
        _ = open_tape(shared)["row-1"].audio
    assert [p.kind for p in validate(shared, uncounted).problems] == ["checksum"]
    piece.write_bytes(data)
    (other,) = second.iterdir()
    shutil.copy(other, first)
    kinds = {p.kind for p in validate(shared, uncounted).problems}
    assert kinds == {"attached"}
    shutil.rmtree(first)
    first.symlink_to(tmp_path)
    done = run("attach", shared, "--dataset", owner)
    assert done.exit_code == 1
    assert "is a link" in done.stderr
    assert run("attach", "memory://tape", "--dataset", owner).exit_code == 2


def test_another_recording_under_a_right_name_is_not_read(
    owner: Path, shared: Path, tmp_path: Path
) -> None:
    """Pieces lie outside what is sealed: a recording is compared with its hash when it is read."""
    from cache_schema.codecs.arrow_file import to_table, write_table
    from cache_schema.codecs.pcm import encode_audio
    from cache_schema.signals import SCHEMAS

    audio = np.zeros(open_tape(shared)["row-1"].num_audio_samples, np.float32)
    data, dtype = encode_audio(audio)
    rows = [{"sample_id": "row-1", "audio": data, "audio_dtype": dtype}]
    folder = shared / "attached/000/w0of1-000000"
    folder.mkdir(parents=True)
    file = write_table(folder / "x", to_table(SCHEMAS["audio"], rows))
    (folder / "x").rename(folder / f"{file['xxh3_128']}.arrow")
    with pytest.raises(TapeError, match="what is attached is another recording"):
        _ = open_tape(shared)["row-1"].audio
    assert validate(shared, uncounted).problems == []
    (problem,) = validate(shared, uncounted, deep=True).problems
    assert "not the recording of 'row-1'" in problem.message


def killed(shared: Path, folder: Path, fatal: int) -> int:
    """Attach in a child process that dies at the fatal-th line it runs of what writes."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    lines = 0

    def tracer(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.endswith(("share/attach.py", "codecs/files.py")):
            return None
        lines += 1
        if lines == fatal:
            os._exit(9)
        return tracer

    try:
        sys.settrace(tracer)
        status = run("attach", shared, "--dataset", folder).exit_code
    finally:
        os._exit(status)


def test_killed_at_any_point_it_is_continued(
    owner: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.share.attach.PIECE_BYTES", 20_000)
    folder = scattered(owner, tmp_path / "files")
    seen = set()
    for fatal in (40, 240, 420, 480, 560, 640):
        copy = Path(shutil.copytree(shared, tmp_path / f"killed-{fatal}"))
        died = killed(copy, folder, fatal)
        assert died in (0, 9)
        pieces = len(list(copy.glob("attached/*/*/*.arrow")))
        seen.add((died, pieces))
        assert validate(copy, uncounted, deep=True).problems == []
        assert run("attach", copy, "--dataset", folder).exit_code == 0
        same_as(owner, copy)
        sound(copy)
    assert len(seen) > 2, seen


def test_an_acoustic_teacher_and_a_student_go_on_from_it(
    owner: Path, shared: Path, acoustic_teacher: Path, tmp_path: Path
) -> None:
    """Neither needs the owner's files any more; half attached, what is missing is named."""
    from train.cli import app as train_app

    folder = Path(shutil.copytree(owner, tmp_path / "files"))
    (folder / "clip-2.ogg").unlink()
    (folder / "rows.jsonl").unlink()
    assert run("attach", shared, "--dataset", folder).exit_code == 1
    teach = ["extract-teachers", "--only", "acoustic", "--acoustic-teacher", acoustic_teacher]
    teach += ["--out", shared, "--top-k", "0", "--acoustic-layers", "0,2"]
    half = run(*teach)
    assert half.exit_code == 2
    assert "--dataset is needed" in half.stderr
    assert run("attach", shared, "--dataset", owner).exit_code == 0
    done = run(*teach)
    assert done.exit_code == 0, done.stderr
    sound(shared)
    assert len(open_tape(shared).recorded("acoustic")) == 6
    told = ["student", "--cache", shared, "--student", acoustic_teacher, "--out", tmp_path / "run"]
    told += ["--recipe", "acoustic_only", "--max-steps", "1"]
    trained = CliRunner().invoke(train_app, [*map(str, told)])
    assert trained.exit_code == 0, trained.stderr


def test_recordings_joined_from_several_need_their_table(owner: Path, tmp_path: Path) -> None:
    """How they were joined is on the tape."""
    dataset, made = tmp_path / "rows.jsonl", tmp_path / "made"
    cell = [str(owner / "clip-0.wav"), str(owner / "clip-1.flac")]
    dataset.write_text(json.dumps({"id": "a", "audio": cell, "question": "Who?"}) + "\n")
    join = ["--set", "dataset.several=join", "--set", "dataset.gap_s=0.25"]
    told = ["--dataset", dataset, "--out", made, "--audio", "reference", *join]
    assert run("ingest", *told).exit_code == 0
    folder = run("attach", made, "--dataset", owner)
    assert folder.exit_code == 2
    assert "are joined from several" in folder.stderr
    assert run("attach", made, "--dataset", dataset).exit_code == 0
    parts = [load_audio(one, None) for one in cell]
    joined = np.concatenate([parts[0], np.zeros(4000, np.float32), parts[1]])
    assert np.array_equal(open_tape(made)["a"].audio, joined)
