"""A source added to somebody else's tape: nothing of theirs is written, and both may grow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_attach import run
from test_push_and_pull import bring, send, sound
from tiny_stage_one import save_dataset
from whole_tape import content, fill, make

from cache_schema import open_tape
from cache_schema.errors import OutputError, ProvenanceError
from cache_schema.parts.pulled import own_name

ALL = ("samples", "descriptions", "textual")


def bytes_of(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".lock" and "index" not in path.parts
    }


def test_a_teacher_added_to_a_pulled_sealed_tape(acoustic_teacher: Path, tmp_path: Path) -> None:
    """By the commands themselves, without the data set."""
    dataset, key = save_dataset(tmp_path / "owner", 3), tmp_path / "key"
    made, there, here = tmp_path / "made", str(tmp_path / "there"), tmp_path / "here"
    assert run("ingest", "--dataset", dataset, "--out", made).exit_code == 0
    assert run("seal", "--generate-key", key).exit_code == 0
    assert run("seal", made, "--key", key).exit_code == 0
    assert run("push", made, there).exit_code == 0
    assert run("pull", there, here).exit_code == 0
    shutil.rmtree(tmp_path / "owner")
    before = bytes_of(here)
    teach = ["extract-teachers", "--only", "acoustic", "--acoustic-teacher", acoustic_teacher]
    teach += ["--out", here, "--top-k", "0", "--acoustic-layers", "0,2"]
    done = run(*teach, "--set", "acoustic.name=mine")
    assert done.exit_code == 0, done.stderr
    sound(here)
    after = bytes_of(here)
    assert {name: after[name] for name in before} == before
    (manifest,) = (name for name in after.keys() - before if name.startswith("manifest"))
    assert manifest == f"manifest/{own_name(here, 'w0of1')}.jsonl"
    checked = run("verify", here, "--public-key", f"{key}.pub", "--grown")
    assert checked.exit_code == 0, checked.stdout
    assert run("verify", here, "--public-key", f"{key}.pub").exit_code == 1
    assert run("push", here, there).exit_code == 0
    assert run("pull", there, made).exit_code == 0
    assert "mine/hidden" in open_tape(made).signals
    assert {line["group"] for line in map(json.loads, after[manifest].splitlines())} == {"mine"}


def test_both_grow_and_meet_again(tmp_path: Path) -> None:
    made, url, here = tmp_path / "made", str(tmp_path / "there"), tmp_path / "here"
    make(made, groups=ALL)
    send(made, url)
    bring(url, here)
    fill(here, groups=("acoustic",), writer=own_name(here, "w0"))
    fill(made, groups=ALL, indexes=range(3, 6))
    send(made, url)
    theirs = (tmp_path / "there/manifest/w0.jsonl").read_bytes()
    send(here, url)  # of the owner's manifest an older state is here
    assert (tmp_path / "there/manifest/w0.jsonl").read_bytes() == theirs
    sound(tmp_path / "there")
    bring(url, here)  # what was added here stays
    sound(here)
    assert len(open_tape(here)) == 6
    assert len(open_tape(here).recorded("acoustic")) == 3
    assert content(here) == content(url)
    bring(url, made)
    assert content(made) == content(url)
    assert send(here, url).files == 0


def test_from_a_part(tmp_path: Path) -> None:
    """Only recordings and traces were pulled; only what was added travels back."""
    made, url, part = tmp_path / "made", str(tmp_path / "there"), tmp_path / "part"
    make(made, groups=ALL)
    send(made, url)
    before = bytes_of(tmp_path / "there")
    bring(url, part, signals=("textual/trace",))
    with pytest.raises(ProvenanceError):
        fill(part, groups=("textual",), indexes=range(9), writer=own_name(part, "w0"))
    fill(part, groups=("acoustic",), writer=own_name(part, "w0"))
    plan = send(part, url)
    assert {one.record.group for one in plan.sent} == {"acoustic"}
    after = bytes_of(tmp_path / "there")
    assert {name: after[name] for name in before} == before
    sound(tmp_path / "there")
    whole = open_tape(url)
    assert whole.signals == (
        "acoustic/hidden", "acoustic/topk", "textual/hidden", "textual/sampled", "textual/topk",
        "textual/trace",
    )  # fmt: skip
    states = [open_tape(one)["s2"]["acoustic/hidden"].states for one in (part, url)]
    assert np.array_equal(*states)
    bring(url, part, signals=("textual/topk",))
    sound(part)
    assert "acoustic/topk" in open_tape(part).signals


def test_lines_added_under_their_names_are_refused(tmp_path: Path) -> None:
    made, url, here = tmp_path / "made", str(tmp_path / "there"), tmp_path / "here"
    make(made, groups=ALL)
    send(made, url)
    bring(url, here)
    fill(here, groups=("acoustic",))  # as the owner's writer
    fill(made, groups=ALL, indexes=range(3, 6))
    send(made, url)
    with pytest.raises(OutputError, match="was added here"):
        bring(url, here)
    with pytest.raises(OutputError, match="lines that this tape has not"):
        send(here, url)
