"""Several tapes in one run, terms that belong to some of them, and stages one after another."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_tape
from forks import Forks
from safetensors.torch import load_file
from task_runs import FLAGS, STAGES, TWO_TASKS, launch, values
from tiny_tape import MakeTape, build_tape
from train_runs import (
    Launch,
    apart,
    held_out,
    same_weights,
    steps,
    train_apart,
    train_here,
    weights,
)

from audio_models.load import AudioLM


@pytest.fixture(scope="module")
def tapes(tmp_path_factory: pytest.TempPathFactory, student: AudioLM) -> dict[str, Path]:
    """One with traces, of eight samples; one of sounds alone, of twelve."""
    folder = tmp_path_factory.mktemp("tapes")
    described = {f"s{number}": f"a tone, the {number}th" for number in range(7)}
    return {
        "speech": build_tape(folder / "speech", student, num_samples=8, described=described),
        "sound": build_tape(folder / "sound", student, textual=False),
    }


def test_a_term_is_computed_on_the_rows_of_its_tasks_alone(
    tapes: dict[str, Path], student_dir: Path, tmp_path: Path
) -> None:
    flags = ("--lr", "0", "--batch-tokens", "100000", "--max-steps", "1")
    together = launch(tapes, student_dir, tmp_path / "both", TWO_TASKS, *flags)
    result = train_here(together)
    assert result.exit_code == 0, result.output
    assert "task speech: rows: 8" in result.output
    assert "task sound: rows: 12" in result.output
    (line,) = steps(together.out)
    parts = {
        "speech": ("[terms.ce]\nweight = 0.5\n[terms.text_kl]\nweight = 1.0\n", ("ce", "text_kl")),
        "sound": ("[terms.acoustic_hidden]\nweight = 0.3\n", ("acoustic_hidden",)),
    }
    loss = 0.0
    for name, (terms, names) in parts.items():
        file = tmp_path / f"{name}.toml"
        file.write_text(terms)
        alone = Launch(tape=tapes[name], student=student_dir, out=tmp_path / name,
                       more=("--recipe", str(file), *FLAGS, *flags))  # fmt: skip
        result = train_here(alone)
        assert result.exit_code == 0, result.output
        (own,) = steps(alone.out)
        for term in names:
            value, count = values(own, term)
            assert values(line, term) == (pytest.approx(value, rel=1e-5, abs=1e-6), count)
        loss += own["loss"]
    assert line["loss"] == pytest.approx(loss, rel=1e-5)


def test_a_recording_without_a_response_has_the_states_of_one_with(
    tapes: dict[str, Path], student_dir: Path, tmp_path: Path
) -> None:
    """What comes behind the audio changes none of its states: one row a sample is enough."""
    (tmp_path / "audio.toml").write_text("[terms.acoustic_hidden]\nweight = 1.0\n")
    both = "[terms.acoustic_hidden]\nweight = 1.0\n[terms.ce]\nweight = 0.001\n"
    (tmp_path / "both.toml").write_text(both)
    found = []
    for name in ("audio", "both"):
        run = Launch(tape=tapes["speech"], student=student_dir, out=tmp_path / name, more=(
            "--recipe", str(tmp_path / f"{name}.toml"), "--max-steps", "1", "--lr", "0",
            "--batch-tokens", "100000"))  # fmt: skip
        assert train_here(run).exit_code == 0
        found.append(steps(run.out)[0])
    assert found[0]["tokens"] < found[1]["tokens"]
    value, count = values(found[1], "acoustic_hidden")
    assert values(found[0], "acoustic_hidden") == (pytest.approx(value, abs=1e-6), count)


@pytest.mark.parametrize("by", ["size", "temperature", "alternate"])
def test_mixtures_train_on_any_number_of_processes_and_after_a_kill(
    tapes: dict[str, Path], student_dir: Path, tmp_path: Path, forks: Forks, by: str
) -> None:
    recipe = f'{TWO_TASKS}\n[mix]\nby = "{by}"\n' + "temperature = 4.0\n" * (by == "temperature")
    more = ("--max-steps", "7", "--set", "eval.every=3", "--set", "eval.fraction=0.3")
    whole = launch(tapes, student_dir, tmp_path / "whole", recipe, *more)
    result = train_here(whole)
    assert result.exit_code == 0, result.output
    cut = launch(tapes, student_dir, tmp_path / "cut", recipe, *more, kill_after=5)
    (ended,), _ = train_apart(forks, cut)
    assert ended.value != 0
    assert train_here(launch(tapes, student_dir, tmp_path / "cut", recipe, *more)).exit_code == 0
    assert steps(cut.out) == steps(whole.out)
    assert held_out(cut.out) == held_out(whole.out)
    assert same_weights(cut.out, whole.out)
    two = launch(tapes, student_dir, tmp_path / "two", recipe, *more)
    ended, said = train_apart(forks, two, 2)
    assert [process.value for process in ended] == [0, 0], said
    assert apart(whole.out, two.out, student_dir) < 1e-5
    counted = {name: term["count"] for name, term in steps(whole.out)[0]["terms"].items()}
    if by == "alternate":
        assert counted["ce"] > 0
        assert counted["acoustic_hidden"] == 0
        assert steps(whole.out)[1]["terms"]["ce"]["count"] == 0
        # each task's terms have norms, though every 100 steps it is the first one's turn
        assert "gradient_norm" in steps(whole.out)[1]["terms"]["acoustic_hidden"]
        report = (whole.out / "report.md").read_text()
        ends = {name: steps(whole.out)[-1 - (name != "ce")]["terms"][name]["value"]
                for name in ("ce", "acoustic_hidden")}  # fmt: skip
        for name, end in ends.items():
            assert f"| {end:.4f} |" in next(r for r in report.splitlines() if f"| {name} |" in r)


def test_stages_train_their_terms_and_their_parts(
    tapes: dict[str, Path], student_dir: Path, tmp_path: Path, forks: Forks
) -> None:
    whole = launch(tapes, student_dir, tmp_path / "whole", STAGES)
    result = train_here(whole)
    assert result.exit_code == 0, result.output
    lines = steps(whole.out)
    assert "stage hearing: steps 1 to 4, acoustic_hidden; frozen: language_model" in result.output
    assert [line["terms"]["ce"]["count"] > 0 for line in lines[:4]] == [False] * 4
    assert any(line["terms"]["ce"]["count"] > 0 for line in lines[4:])
    rates = [line["lr"] for line in lines]
    assert rates[3] == pytest.approx(1e-4), "the first stage's rate has decayed at its end"
    assert rates[4] == pytest.approx(1e-3), "the second one begins at the peak"
    first = launch(tapes, student_dir, tmp_path / "first", STAGES, "--max-steps", "4")
    assert train_here(first).exit_code == 0
    before, between = load_file(student_dir / "model.safetensors"), weights(first.out)
    moved = {name for name in before if not between[name].equal(before[name])}
    assert moved
    assert not any(name.startswith(("model.", "lm_head")) for name in moved), moved
    after = weights(whole.out)
    assert any(not after[name].equal(between[name]) for name in after if name.startswith("model."))
    for kill_after in (3, 5):
        out = tmp_path / f"cut{kill_after}"
        train_apart(forks, launch(tapes, student_dir, out, STAGES, kill_after=kill_after))
        result = train_here(launch(tapes, student_dir, out, STAGES))
        assert result.exit_code == 0, result.output
        assert steps(out) == lines
        assert same_weights(out, whole.out)


def test_the_student_reads_descriptions_in_place_of_audio(
    tapes: dict[str, Path], student_dir: Path, tmp_path: Path
) -> None:
    recipe = TWO_TASKS + '[tasks.read]\nreads = "description"\nterms = ["ce", "text_kl"]\n'
    run = launch(tapes, student_dir, tmp_path / "run", recipe, "--max-steps", "3")
    result = train_here(run)
    assert result.exit_code == 0, result.output
    assert "task read: rows: 7; left out: 1 no description" in result.output
    report = (run.out / "report.md").read_text()
    assert "task sound: rows: 12" in report
    alone = '[terms.ce]\nweight = 1.0\n[tasks.read]\nreads = "description"\n'
    (tmp_path / "alone.toml").write_text(alone)
    flags = ("--recipe", str(tmp_path / "alone.toml"), "--max-steps", "2")
    silent = Launch(tape=tapes["speech"], student=student_dir, out=tmp_path / "silent", more=flags)
    result = train_here(silent)
    assert result.exit_code == 0, result.output
    before, after = load_file(student_dir / "model.safetensors"), weights(silent.out)
    moved = {name for name in before if not after[name].equal(before[name])}
    assert moved
    assert not any(name.startswith("audio_tower") for name in moved)


def refusal(tape: Path, student: Path, out: Path, recipe: str, *more: str) -> str:
    file = out.with_suffix(".toml")
    file.write_text(recipe)
    flags = ("--recipe", str(file), *more)
    result = train_here(Launch(tape=tape, student=student, out=out, more=flags))
    assert result.exit_code in (1, 2)
    assert not out.exists()
    return " ".join(result.output.split())


def test_tapes_and_tasks_must_fit(
    tapes: dict[str, Path],
    student_dir: Path,
    tmp_path: Path,
    student: AudioLM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speech, out = tapes["speech"], tmp_path / "run"
    plain = "[terms.ce]\nweight = 1.0\n"
    said = refusal(speech, student_dir, out, plain, "--cache", str(tapes["sound"]))
    assert "one tape is every task's" in said
    own = f'{plain}[tasks.a]\ncache = "{speech}"\n'
    assert "every task has a tape of its own; leave it out" in refusal(
        tapes["sound"], student_dir, out, own
    )
    assert "lacks signals the recipe needs" in refusal(
        speech, student_dir, out, TWO_TASKS, "--cache", f"speech={tapes['sound']}"
    )
    reads = '[terms.acoustic_hidden]\nweight = 1.0\n[tasks.a]\nreads = "description"\n'
    assert "reads descriptions, and acoustic_hidden compare what is heard" in refusal(
        speech, student_dir, out, reads
    )
    unused = f'{plain}[terms.text_kl]\nweight = 1.0\n[tasks.a]\nterms = ["ce"]\n'
    assert "terms.text_kl: no task computes it" in refusal(speech, student_dir, out, unused)
    frozen = f'{plain}[stages.one]\nsteps = 1\nfreeze = ["language"]\n'
    assert "stages.one.freeze: 'language' is not a part" in refusal(
        speech, student_dir, out, frozen
    )
    told = f'{plain}[tasks.a]\nreads = "description"\n'
    hears = '[stages.one]\nsteps = 1\nfreeze = ["language_model"]\n'
    said = refusal(speech, student_dir, out, told + hears)
    assert "stages.one, task 'a', which reads the description: nothing that it meets" in said
    # a projector is trained, whatever is frozen
    whole = '["audio_tower", "projector", "language_model"]'
    states = "[terms.text_hidden]\nweight = 1.0\n[stages.one]\nsteps = 1\n"
    (tmp_path / "fits.toml").write_text(f"{states}freeze = {whole}\n")
    fits = Launch(tape=speech, student=student_dir, out=tmp_path / "fits",
                  more=("--recipe", str(tmp_path / "fits.toml")))  # fmt: skip
    assert train_here(fits).exit_code == 0
    monkeypatch.setattr(tiny_tape, "TEACHER_LAYERS", 2)
    other = build_tape(tmp_path / "other", student, layers=(1, 2), num_samples=4)
    pairs = "[terms.text_hidden]\nweight = 1.0\n[tasks.a]\n[tasks.b]\n"
    said = refusal(speech, student_dir, out, pairs, "--cache", f"b={other}")
    assert "pairs layers 1:2 2:4 of width 24 on the tape of task 'a'" in said
    assert "[terms.text_hidden-b]" in said


def test_other_tapes_are_not_continued_with(
    tapes: dict[str, Path], student_dir: Path, tmp_path: Path, make_tape: MakeTape
) -> None:
    run = launch(tapes, student_dir, tmp_path / "run", TWO_TASKS, "--max-steps", "1")
    assert train_here(run).exit_code == 0
    other = {**tapes, "sound": make_tape(num_samples=5)}
    result = train_here(launch(other, student_dir, tmp_path / "run", TWO_TASKS, "--max-steps", "1"))
    assert result.exit_code == 1
    assert "was started from something else" in result.output


def test_both_channels_share_what_the_teacher_said(
    tapes: dict[str, Path], student_dir: Path, tmp_path: Path
) -> None:
    flags = ("--recipe", "cross_modal", "--max-steps", "1", "--batch-tokens", "100000")
    run = Launch(tape=tapes["speech"], student=student_dir, out=tmp_path / "run", more=flags)
    result = train_here(run)
    assert result.exit_code == 0, result.output
    assert "task speech: rows: 8" in result.output
    assert "task text: rows: 7; left out: 1 no description" in result.output
    speech = Launch(tape=tapes["speech"], student=student_dir, out=tmp_path / "speech",
                    more=("--recipe", "cross_modal_speech", *flags[2:]))  # fmt: skip
    assert train_here(speech).exit_code == 0
    both, one = (values(steps(each.out)[0], "text_kl")[1] for each in (run, speech))
    assert one < both < 2 * one
