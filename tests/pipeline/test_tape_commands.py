"""The other commands about tapes: merge, diff, help, strict JSON, no commands to a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import classes_tape
import pytest
from sound_tape import edit_line, edit_table, make
from tape_command import run, values_of

from cache_schema.commands.console import report_error
from cache_schema.errors import TapeError
from pipeline.pages import page_of, titled
from pipeline.tapes.cli import TAPE_COMMANDS
from pipeline.tapes.inspect import _signal_line


def test_diff_and_merge_and_verify_of_two_acoustic_sources(tmp_path: Path) -> None:
    one = classes_tape.make(tmp_path / "one", groups=classes_tape.ALL[:-1])
    two = classes_tape.make(tmp_path / "two", groups=("samples", "wavlm"))
    merged = values_of("merge", one, two, "--out", tmp_path / "out")
    assert merged["groups"]["wavlm"]["shards"] == merged["groups"]["acoustic"]["shards"] == 1
    assert values_of("verify", tmp_path / "out", "--deep")["sound"]
    assert "wavlm/embedding\n  5 only in b" in run("diff", one, tmp_path / "out").stdout


def test_merge_then_diff(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", range(3))
    parts = make(tmp_path / "a", range(2)), make(tmp_path / "b", [1, 2])
    values = values_of("merge", *parts, "--out", tmp_path / "out")
    assert list(values) == [
        "tape", "licence", "samples", "shards", "shards_of_earlier_run", "files_linked",
        "files_copied", "quarantined", "groups",
    ]  # fmt: skip
    assert values["samples"] == 3
    assert values["groups"]["textual"] == {
        "shards": 2, "shards_left_out": 0, "rows_repeated": 3,
    }  # fmt: skip
    again = run("merge", *parts, "--out", tmp_path / "out")
    assert "3 rows repeated" in again.stdout
    assert "8 shards were there" in again.stdout
    values = values_of("diff", whole, tmp_path / "out")
    assert list(values) == [
        "a", "b", "equal", "makers", "licence", "contents", "quarantined", "notes",
    ]  # fmt: skip
    assert values["equal"]
    values = values_of("diff", whole, parts[0], status=1)
    assert list(values["contents"]["textual/topk"]) == [
        "only_a", "only_b", "compared", "differing", "fields", "max_abs",
    ]  # fmt: skip
    page = run("diff", whole, parts[0])
    assert page.exit_code == 1
    assert "textual/topk\n  1 only in a: s2" in page.stdout
    assert page.stdout.endswith("\ndifferent\n")
    other = make(tmp_path / "other", [5], licence="CC0")
    refused = run("merge", whole, other, "--out", tmp_path / "x")
    assert refused.exit_code == 1
    assert "--licence TEXT" in refused.stderr
    assert not (tmp_path / "x").exists()


def test_totals_left_out_are_zero_and_repeated_rows_are_told(tmp_path: Path) -> None:
    root = make(tmp_path / "tape", range(2))
    edit_line(root, "shards/textual/000/w0-000000", lambda line: line.update(totals={}))
    assert "0 tokens, 0 of 0 judged right, 0 truncated" in run("inspect", root).stdout
    parts = make(tmp_path / "a", range(2)), make(tmp_path / "b", [1, 2])
    run("merge", *parts, "--out", tmp_path / "out")
    values = values_of("inspect", tmp_path / "out")
    repeated = {name: group["rows_repeated"] for name, group in values["groups"].items()}
    assert repeated == {"samples": 1, "descriptions": 1, "textual": 3, "acoustic": 2}
    assert values["duplicates"] == 7
    assert "repeated  3 rows, which the sums count again" in run("inspect", tmp_path / "out").stdout


def test_json_is_strict(tmp_path: Path) -> None:
    """NaN and infinities are no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    one, two = make(tmp_path / "a", [0]), make(tmp_path / "b", [0])
    path = "shards/textual/000/w0-000000"
    edit_table(one, path, "trace", lambda rows: rows[0].update(logprob=float("nan")))
    done = run("inspect", one, "s0", "--json")
    assert json.loads(done.stdout, parse_constant=refuse)["traces"][0]["logprob"] is None
    done = run("diff", one, two, "--json")
    values = json.loads(done.stdout, parse_constant=refuse)
    assert values["contents"]["textual/trace"]["max_abs"]["logprob"] == "Infinity"
    assert "logprob in 1, at most inf apart" in run("diff", one, two).stdout


@pytest.mark.parametrize("name", TAPE_COMMANDS)
def test_help_has_an_example(name: str) -> None:
    assert f"Example: pipeline {name} ./cache" in run(name, "--help").stdout


def test_what_a_tape_says_is_no_command_to_a_terminal() -> None:
    """Whoever made it: line ends and escapes are written out, lines of a text are set in."""
    escape = "\x1b[2J"
    page = page_of(["a", *titled("description", f"one\ntwo{escape}"), "label x\ny"])
    assert page.splitlines() == [
        "a", "description  one", "             two\\x1b[2J", "label x\\ny",
    ]  # fmt: skip
    values: dict[str, Any] = {
        "facts": {"labels": [f"dog{escape}\nequal"], "multi_label": False},
        "tokens": 0, "bytes": 9,
    }  # fmt: skip
    assert page_of([_signal_line("utterance_logits", values)]).isprintable()
    states = {"facts": {}, "tokens": 3, "bytes": 9, "bytes_per_token": 3, "positions": {"audio": 3}}
    assert "3 B a frame" in _signal_line("hidden", states)


def test_an_error_is_no_command_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(TapeError("a\x1b[2J\nb"), debug=False)
    assert capsys.readouterr().err == "error: a\\x1b[2J\nb\n"
