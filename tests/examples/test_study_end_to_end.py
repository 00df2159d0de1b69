"""The whole study on tones, with models that learn nothing: that every step takes what it gets."""

import json

import pytest

from examples.study import one_seed, seed
from examples.study.__main__ import main
from examples.study.choose import main as choose
from examples.study.sides import SIDES
from examples.study.variants import variants
from pipeline.cli import app as pipeline_app
from train.cli import app as train_app

APPS = {"pipeline": pipeline_app, "train": train_app}
BESIDE = ("drawn", "lossy2x", "doubts_sft", "doubts")
STEPS = ("ingest", "textualize", "textual", "acoustic")


@pytest.fixture
def commands(monkeypatch):
    """Runs commands in this process: starting one takes longer than what it does here."""
    given = []

    def command(*words):
        module, *arguments = map(str, words)
        given.append(module + " " + arguments[0])
        # `extract-teachers` runs its steps in processes of their own, unless one is asked for
        every = STEPS if arguments[0] == "extract-teachers" else (None,)
        for step in every:
            only = ["--only", step] if step else []
            APPS[module]([*arguments, *only], standalone_mode=False)

    monkeypatch.setattr(seed, "command", command)
    return given


def test_the_study(digit_folder, tmp_path, commands, monkeypatch, capsys):
    chosen = ("sft", "top", "joint")
    monkeypatch.setattr(
        one_seed,
        "variants",
        lambda size: tuple(one for one in variants(size) if one.name in chosen),
    )
    monkeypatch.setattr("examples.study.summary.variants", one_seed.variants)
    monkeypatch.setattr("examples.study.sides.variants", variants)
    beside = tuple(side for side in SIDES if side.name in BESIDE)
    for module in ("one_seed", "summary"):
        monkeypatch.setattr(f"examples.study.{module}.SIDES", beside)
    words = ["--fsdd", str(digit_folder), "--out", str(tmp_path / "study"), "--size", "tiny"]
    assert main([*words, "--threads", "1", "--sides"]) == 0
    assert commands.count("train student") == len(chosen) + len(beside)
    summary = json.loads((tmp_path / "study" / "study.json").read_text())
    assert set(summary["variants"]) == {"base", *chosen}
    compared = [side["over_what"] for side in summary["sides"]]
    assert compared == ["top", "joint", "sft", "side-doubts_sft"]
    assert [side["same_traces"] for side in summary["sides"][:2]] == [12, 12]
    assert "| a teacher with doubts: SFT | " in (tmp_path / "study" / "table.md").read_text()
    joint = summary["variants"]["joint"]
    for group, rows in {
        "reasoning, seen": 6,
        "reasoning, unseen": 6,
        "hearing, seen": 6,
        "hearing, unseen": 3,
    }.items():
        assert joint["shares"][group]["value"] is not None
        results = json.loads((tmp_path / "study" / "seed-0" / "results.json").read_text())
        assert results["found"]["joint"]["groups"][group][1] == rows
        assert len(results["groups"][group]) == rows
    assert joint["tape_bytes"] > summary["variants"]["sft"]["tape_bytes"]
    # the frozen base is its own teacher: before the first update its states differ by rounding
    assert results["found"]["joint"]["first_terms"]["acoustic_hidden"] < 1e-3
    assert results["found"]["joint"]["steps"] == results["found"]["sft"]["steps"] > 1
    assert summary["measured_with"][0]["tape"]["fingerprint"]
    assert (tmp_path / "study" / "curves.png").is_file()

    folder = tmp_path / "study" / "seed-0"
    tried = ["--variants", "sft", "--rates", "1e-3", "--threads", "1"]
    assert choose([str(folder), *tried]) == 0
    assert [trial["variant"] for trial in json.loads((folder / "choice.json").read_text())] == [
        "base",
        "sft",
    ]

    commands.clear()
    assert main([*words, "--threads", "1"]) == 0
    assert choose([str(folder), *tried]) == 0
    assert not commands, "what is done is not done again"
    assert "done before" in capsys.readouterr().out
    assert choose([str(folder), "--variants", "sft,jiont"]) == 2
    assert "no variant jiont; there are sft, top" in capsys.readouterr().err


def test_mistakes_are_named(tmp_path, digit_folder, capsys):
    assert main(["--seeds", "one"]) == 2
    assert choose([str(tmp_path)]) == 1
    assert "no tape of a study" in capsys.readouterr().err
    assert main(["--out", str(tmp_path)]) == 1
    assert "--fsdd is needed" in capsys.readouterr().err
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / "thesis.tex").touch()
    words = ["--fsdd", str(digit_folder), "--out", str(tmp_path)]
    assert main([*words, "--size", "tiny"]) == 1
    assert "no study made it" in capsys.readouterr().err
