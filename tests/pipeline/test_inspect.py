"""``inspect`` and ``verify``: exit status, keys of their JSON, pages that say what matters."""

from __future__ import annotations

from pathlib import Path

import classes_tape
import full_tape
import pytest
from sound_tape import MAKERS, make
from tape_command import run, values_of

from cache_schema import open_tape
from cache_schema.errors import TapeError
from cache_schema.shard import Storage
from cache_schema.types import SAMPLE_RATE_HZ
from cache_schema.writer import TapeWriter
from pipeline.tapes.inspect import tape_page, tape_values


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
        "heard", "duplicates", "quarantined", "groups", "first_ids",
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
