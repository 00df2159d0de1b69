"""The commands about tapes: exit status, keys of their JSON, pages that say what matters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import classes_tape
import full_tape
import pytest
from sound_tape import MAKERS, edit_line, edit_table, make
from typer.testing import CliRunner, Result

from cache_schema import open_tape
from cache_schema.console import report_error
from cache_schema.errors import TapeError
from cache_schema.shard import Storage
from cache_schema.types import SAMPLE_RATE_HZ
from cache_schema.writer import TapeWriter
from pipeline.cli import app
from pipeline.inspect import _signal_line, tape_page, tape_values
from pipeline.pages import page_of, titled
from pipeline.tape_cli import TAPE_COMMANDS


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def values_of(*arguments: str | Path, status: int = 0) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make(tmp_path_factory.mktemp("tape") / "tape", storage=Storage(profile="lossy2x"))
    with TapeWriter(root, MAKERS["textual"]) as writer:
        writer.quarantine("s9", 9, "non-finite", "states")
    return root


def test_inspect_keys_are_frozen(root: Path) -> None:
    values = values_of("inspect", root)
    assert list(values) == [
        "tape", "version", "licence", "fingerprint", "samples", "audio_hours", "bytes",
        "heard", "duplicates", "quarantined", "groups",
    ]  # fmt: skip
    assert sorted(values["groups"]) == ["acoustic", "descriptions", "samples", "textual"]
    for group in values["groups"].values():
        assert list(group) == [
            "kind", "fingerprint", "samples", "shards", "bytes", "rows", "rows_repeated", "totals",
            "origins", "rejected", "made_by", "notes", "signals",
        ]  # fmt: skip
        for name, signal in group["signals"].items():
            more = ["positions", "stored", "errors"] if name == "hidden" else []
            assert list(signal) == ["facts", "rows", "tokens", "bytes", "bytes_per_token", *more]


def test_inspect_numbers(root: Path) -> None:
    values = tape_values(open_tape(root))
    assert values["samples"] == 5
    assert values["audio_hours"] == pytest.approx(sum(range(4000, 4005)) / SAMPLE_RATE_HZ / 3600)
    assert values["quarantined"] == {"textual: non-finite": 1}
    files = [file for file in (root / "shards").rglob("*") if file.is_file()]
    stored = sum(file.stat().st_size for file in files if file.name != "shard.json")
    assert values["bytes"] == stored
    textual = values["groups"]["textual"]
    tokens = sum(len(row.traces[0].token_ids) for row in open_tape(root))
    assert textual["rows"] == {"hidden": 5, "topk": 5, "trace": 5}
    assert {signal["tokens"] for signal in textual["signals"].values()} == {tokens}
    assert textual["totals"]["traces_right"] == 3
    assert sum(signal["bytes"] for signal in textual["signals"].values()) == textual["bytes"]
    hidden = textual["signals"]["hidden"]
    assert hidden["bytes_per_token"] == hidden["bytes"] / tokens
    assert hidden["stored"] == [
        {"layers": [1, 3], "width": 8, "dtype": "bfloat16", "profile": "lossy2x"}
    ]
    for errors in hidden["errors"].values():
        assert 0 < errors["standardised_relative_error"]["mean"] < 0.05
        worst = errors["standardised_relative_error"]["worst"]
        assert worst >= errors["standardised_relative_error"]["mean"]
        assert errors["cosine_min"]["worst"] <= errors["cosine_min"]["mean"] <= 1
    assert values["groups"]["acoustic"]["signals"]["hidden"]["tokens"] == 10


def test_inspect_reads_no_table(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tape_values(open_tape(root))

    def refuse(*_: object) -> None:
        raise TapeError("a table was read")

    monkeypatch.setattr("cache_schema.committed.read_table", refuse)
    assert tape_values(open_tape(root)) == expected


def test_inspect_page(root: Path) -> None:
    page = tape_page(tape_values(open_tape(root)))
    for part in (
        "5 samples", "licence unspecified", "teacher   tiny", "traces    5, ", "3 of 5 judged",
        "k 3", "layers [1, 3]", "standardised_relative_error worst", "1 x textual: non-finite",
    ):  # fmt: skip
        assert part in page
    assert run("inspect", root).stdout.strip() == page


def test_inspect_of_one_sample(root: Path) -> None:
    values = values_of("inspect", root, "s2")
    assert list(values) == [
        "sample_id", "row_index", "audio_s", "audio_sha256", "question", "choices", "answer",
        "metadata", "description", "traces", "rejected", "heard", "signals",
    ]  # fmt: skip
    assert values["signals"]["textual/hidden"] == {
        "positions": 3, "layers": [1, 3], "width": 8, "kind": "token",
    }  # fmt: skip
    assert values["signals"]["textual/topk"]["k"] == 3
    page = run("inspect", root, "s2").stdout
    assert "trace 0      3 tokens, stop, right: trace 2" in page
    assert "acoustic/hidden positions 2" in page


def test_inspect_of_two_acoustic_sources(tmp_path: Path) -> None:
    root = classes_tape.make(tmp_path / "tape")
    with TapeWriter(root, classes_tape.MAKERS["wavlm"]) as writer:
        writer.quarantine(*classes_tape.QUARANTINED)
    values = values_of("inspect", root)
    assert values["quarantined"] == {"wavlm: audio": 1}
    assert [values["groups"][name]["samples"] for name in ("acoustic", "wavlm")] == [5, 5]
    signals = values["groups"]["acoustic"]["signals"]
    keys = ["facts", "rows", "tokens", "bytes", "bytes_per_token"]
    assert list(signals["frame_logits"]) == keys
    assert (
        list(signals["embedding"]) == list(signals["utterance_logits"]) == [*keys, "bytes_per_row"]
    )
    assert signals["frame_logits"]["facts"] == {"labels": classes_tape.LABELS, "multi_label": True}
    frames = signals["frame_logits"]
    assert (frames["rows"], frames["tokens"]) == (5, 6)
    assert frames["bytes_per_token"] == frames["bytes"] / 6 > 0
    assert signals["embedding"]["bytes_per_row"] == signals["embedding"]["bytes"] / 5 > 0
    assert signals["hidden"]["positions"] == {"audio": 10, "token": 11}
    page = run("inspect", root).stdout
    for part in (
        "acoustic: 5 samples", "wavlm: 5 samples", " B a frame", " B a recording",
        "11 token, 10 audio positions",
        "labels 3 (Speech, Musik „laut“, dog, bark)  multi_label True", "width 2  pooling x-vector",
    ):  # fmt: skip
        assert part in page


def test_inspect_of_a_sample_with_classes(tmp_path: Path) -> None:
    root = classes_tape.make(tmp_path / "tape")
    signals = values_of("inspect", root, "s2")["signals"]
    logits = classes_tape.logits_of(2)
    assert signals["acoustic/utterance_logits"] == {
        "classes": 2, "multi_label": False,
        "highest": {classes_tape.MOODS[at]: float(logits[at]) for at in (-logits).argsort()},
    }  # fmt: skip
    assert signals["acoustic/frame_logits"] == {
        "frames": 2, "classes": 3, "multi_label": True, "end_s": 0.25,
    }  # fmt: skip
    assert signals["wavlm/embedding"]["width"] == 2
    assert signals["wavlm/embedding"]["pooling"] == "x-vector"
    assert signals["acoustic/hidden"]["kind"] == "audio"
    assert signals["acoustic/hidden"]["rows"] == [
        {"trace": -1, "positions": 2, "kind": "audio"},
        {"trace": 0, "positions": 3, "kind": "token"},
    ]
    assert "rows" not in signals["wavlm/hidden"]
    page = run("inspect", root, "s2").stdout
    assert "recording: 2 audio positions" in page
    assert "trace 0: 3 token positions" in page
    assert run("inspect", root, "s0").exit_code == 0  # a recording without frames


def test_diff_and_merge_and_verify_of_two_acoustic_sources(tmp_path: Path) -> None:
    one = classes_tape.make(tmp_path / "one", groups=classes_tape.ALL[:-1])
    two = classes_tape.make(tmp_path / "two", groups=("samples", "wavlm"))
    merged = values_of("merge", one, two, "--out", tmp_path / "out")
    assert merged["groups"]["wavlm"]["shards"] == merged["groups"]["acoustic"]["shards"] == 1
    assert values_of("verify", tmp_path / "out", "--deep")["sound"]
    assert "wavlm/embedding\n  5 only in b" in run("diff", one, tmp_path / "out").stdout


def test_inspect_of_a_tape_that_holds_everything(tmp_path: Path) -> None:
    root = full_tape.make(tmp_path / "tape")
    values = values_of("inspect", root)
    assert values["heard"] == ["transcript"]
    textual, encoder = values["groups"]["textual"], values["groups"]["encoder"]
    assert textual["origins"] == {"free": 2, "label": 1, "given": 1}
    assert textual["rejected"] == {"other": 1, "truncated": 1, "wrong answer": 3}
    assert textual["samples"] == 5
    lens = textual["signals"]["lens"]
    assert lens["tokens"] == textual["totals"]["trace_tokens"]
    assert lens["bytes_per_token_layer"] == lens["bytes"] / lens["tokens"] / 2
    assert encoder["signals"]["hidden"]["positions"] == {"text": encoder["rows"]["hidden"] * 2 + 11}
    assert encoder["origins"] == encoder["rejected"] == {}
    page = run("inspect", root).stdout
    for part in (
        "heard: transcript", "origins   2 free, 1 label, 1 given",
        "not kept  5: 1 other, 1 truncated, 3 wrong answer", " B a layer)", "21 text positions",
    ):  # fmt: skip
        assert part in page
    one = values_of("inspect", root, "s1")
    assert one["traces"][0]["origin"] == "label"
    assert one["rejected"][0]["reason"] == "wrong answer"
    assert one["heard"]["transcript"]["segments"] == [{"start_s": 0, "end_s": 0.05, "text": "um"}]
    assert one["signals"]["textual/lens"]["layers"] == [1, 3]
    assert one["signals"]["encoder/hidden"]["kind"] == "text"
    page = run("inspect", root, "s1").stdout
    for part in (
        "heard        transcript, 1 segments: um", "2 tokens, stop, right, label: trace 1",
        "not kept     draw 1, wrong answer, wrong: no 0 of 1",
    ):  # fmt: skip
        assert part in page


def test_verify_says_sound_or_every_problem(root: Path, tmp_path: Path) -> None:
    values = values_of("verify", root, "--deep")
    assert list(values) == [
        "tape", "deep", "sound", "files", "bytes", "num_problems", "kinds", "problems", "notes",
        "signed",
    ]  # fmt: skip
    assert values["sound"]
    assert "sound; " in run("verify", root).stdout
    damaged = make(tmp_path / "damaged")
    for name in ("trace", "topk"):
        (damaged / f"shards/textual/000/w0-000000/{name}.arrow").write_bytes(b"")
    values = values_of("verify", damaged, status=1)
    assert not values["sound"]
    assert {p["kind"] for p in values["problems"]} >= {"size"}
    done = run("verify", damaged)
    assert done.exit_code == 1
    for name in ("trace", "topk"):
        assert f"shards/textual/000/w0-000000/{name}.arrow: size: 0 bytes, " in done.stdout
    missing = run("verify", tmp_path / "nothing")
    assert missing.exit_code == 1
    assert "error: " in missing.stderr
    assert "no tape here" in missing.stderr
    assert run("verify", "s3://bucket/tape").exit_code == 2


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
