from __future__ import annotations

import json
import shutil
from pathlib import Path

import evaluations
import pytest
from forks import Forks

from cache_schema import open_tape
from cache_schema.errors import UsageError
from train.evaluate.directory import EvaluationDir, open_evaluation, read_about

NEW_TOKENS = ("--max-new-tokens", "8", "--device", "cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven good rows, one recording that is missing and one that is no recording."""
    folder = tmp_path_factory.mktemp("dataset")
    file = evaluations.save_dataset(folder)
    (folder / "words.wav").write_text("no recording")
    rows = evaluations.lines_of(file)
    for name, audio in (("missing", "nowhere.wav"), ("broken", "words.wav")):
        rows.insert(2, {**rows[0], "id": name, "audio": audio})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def tape(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluations.save_tape(dataset, tmp_path_factory.mktemp("tape") / "tape")


@pytest.fixture(scope="module")
def evaluated(student_dir: Path, tape: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    done = evaluations.evaluate_here(
        "--model", student_dir, "--data", tape, "--out", out, *NEW_TOKENS
    )
    assert done.exit_code == 0, done.output
    return out


def responses(out: Path) -> bytes:
    return (out / "responses.jsonl").read_bytes()


def test_questions_without_answers_say_where_these_may_be(
    student_dir: Path, dataset: Path, tmp_path: Path
) -> None:
    rows = [
        {("right" if key == "answer" else key): value for key, value in row.items()}
        for row in evaluations.lines_of(dataset)
    ]
    file = dataset.with_name("unanswered.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = evaluations.evaluate_here(
        "--model", student_dir, "--data", file, "--out", tmp_path / "out", "--limit", "1",
        *NEW_TOKENS,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "no item counts" in done.output
    assert "dataset.columns.answer=NAME" in done.output


def test_a_dataset_from_its_files_to_its_report(
    student_dir: Path, dataset: Path, evaluated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = evaluations.evaluate_here(
        "--model", student_dir, "--data", dataset, "--out", out, "--batch-tokens", "200",
        *NEW_TOKENS,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} >= {
        "evaluation.json", "data", "responses.jsonl", "verdicts.jsonl", "scores.json",
        "report.html",
    }  # fmt: skip
    assert len(open_tape(out / "data")) == 7
    made = evaluations.lines_of(out / "responses.jsonl")
    assert [one["sample_id"] for one in made] == [
        row["id"] for row in evaluations.lines_of(dataset)
    ]
    lost = {one["sample_id"]: one["error"] for one in made if one["finish"] == "error"}
    assert lost.keys() == {"missing", "broken"}
    assert "no such file" in lost["missing"]
    # the same rows on a tape of the user's own, in other batches
    assert responses(out) == responses(evaluated)
    verdicts = evaluations.lines_of(out / "verdicts.jsonl")
    strict = {one["sample_id"]: one for one in verdicts if one["rule"] == "strict"}
    assert len(strict) == 9
    for name in lost:
        assert strict[name]["counted"]
        assert strict[name]["value"] == 0.0
    scores = json.loads((out / "scores.json").read_text())["scores"]
    (overall,) = (one for one in scores if one["rule"] == "strict" and not one["group"])
    right = sum(one["value"] for one in strict.values())
    assert (overall["value"], overall["count"]) == (pytest.approx(right / 9), 9)
    assert f"{100 * right / 9:.1f} %" in done.stdout
    assert "9 items: 2 without a response" in done.stdout
    assert "2 of 9 have no response" in done.stderr


def test_rows_of_an_unknown_form_that_fail_are_wrong_too(
    student_dir: Path, tape: Path, evaluated: Path
) -> None:
    # a tape says which rows were lost and why, but not what their answers would have been
    verdicts = evaluations.lines_of(evaluated / "verdicts.jsonl")
    lost = {v["sample_id"]: v for v in verdicts if v["rule"] == "strict" and not v["predicted"]}
    assert lost["missing"]["counted"]
    assert lost["missing"]["expected"].startswith("(not known")


def test_what_is_finished_stays(
    student_dir: Path, tape: Path, evaluated: Path, tmp_path: Path
) -> None:
    before = responses(evaluated)
    flags = ("--model", student_dir, "--data", tape, "--out", evaluated, *NEW_TOKENS)
    again = evaluations.evaluate_here(*flags)
    assert again.exit_code == 0
    assert "is finished; nothing to do" in again.stderr
    assert "strict" in again.stdout
    assert responses(evaluated) == before
    against = evaluations.evaluate_here(*flags, "--baseline", evaluated)
    assert against.exit_code == 0, against.output
    assert "report: " in against.stderr
    nothing = evaluations.evaluate_here(*flags, "--baseline", tmp_path)
    assert nothing.exit_code == 2
    assert "no finished evaluation there" in nothing.stderr


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--max-new-tokens", "9"), "decoding.max_new_tokens: then 8, now 9"),
        (("--temperature", "0.5"), "decoding.temperature: then 0.0, now 0.5"),
        (("--limit", "3"), "limit: then 0, now 3"),
        (("--benchmark", "mmau"), "benchmark: then 'own', now 'mmau'"),
        (("--instruction", "Be short."), "instruction: then '', now 'Be short.'"),
        (("--dtype", "bfloat16"), "dtype: then 'auto', now 'bfloat16'"),
    ],
)
def test_another_evaluation_in_the_same_folder_is_refused(
    student_dir: Path, tape: Path, evaluated: Path, more: tuple[str, ...], told: str
) -> None:
    flags = ("--model", student_dir, "--data", tape, "--out", evaluated, *NEW_TOKENS)
    done = evaluations.evaluate_here(*flags, *more)
    assert done.exit_code == 2
    assert told in done.stderr


def test_another_model_or_other_data_is_refused(
    student_dir: Path, forgetful_dir: Path, tape: Path, dataset: Path, tmp_path: Path
) -> None:
    out, model, data = tmp_path / "out", tmp_path / "model", tmp_path / "tape"
    shutil.copytree(student_dir, model)
    shutil.copytree(tape, data)
    flags = ("--model", model, "--data", data, "--out", out, *NEW_TOKENS, "--limit", "1")
    assert evaluations.evaluate_here(*flags).exit_code == 0
    about = json.loads((out / "evaluation.json").read_text())
    (out / "evaluation.json").write_text(json.dumps({**about, "finished": None}))
    shutil.copy(forgetful_dir / "config.json", model)
    done = evaluations.evaluate_here(*flags)
    assert done.exit_code == 2
    assert "model_digest: then 'sha256:" in done.stderr
    shutil.copy(student_dir / "config.json", model)
    shutil.rmtree(data)
    other = dataset.with_name("other.jsonl")
    other.write_text(dataset.read_text().replace("Which", "What"))
    evaluations.save_tape(other, data)
    done = evaluations.evaluate_here(*flags)
    assert done.exit_code == 1
    assert "the data is not what it was" in done.stderr
    assert "data_digest: then" in done.stderr


@pytest.mark.parametrize("drawn", [False, True], ids=["greedy", "drawn"])
def test_an_evaluation_that_was_killed_goes_on(
    student_dir: Path, tape: Path, evaluated: Path, tmp_path: Path, forks: Forks, drawn: bool
) -> None:
    flags = ["--model", str(student_dir), "--data", str(tape), *NEW_TOKENS]
    flags += ["--batch-tokens", "1", *(["--temperature", "0.9", "--seed", "2"] if drawn else [])]
    whole, out = evaluated, tmp_path / "out"
    if drawn:
        whole = tmp_path / "whole"
        assert evaluations.evaluate_here(*flags, "--out", whole).exit_code == 0
        assert responses(whole) != responses(evaluated)
    for after in (2, 5):
        killed = [*flags, "--out", str(out)]
        ended = forks.run("evaluations:killed", killed, after, '{"sample_id": "row-')
        assert ended.status == -9, ended.trace
        assert len(responses(out).splitlines()) == after + 1
    assert not (out / "scores.json").exists()
    done = evaluations.evaluate_here(*flags, "--out", out)
    assert done.exit_code == 0, done.output
    assert "the last line was cut" in done.stderr
    assert "5 of 9 are answered already" in done.stderr
    for name in ("responses.jsonl", "verdicts.jsonl", "scores.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_start_that_asked_nothing_is_begun_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A data file with a mistake is mended, so its digest is another: no reason for a new --out."""
    place = EvaluationDir(root=tmp_path)
    open_evaluation(place, {"model": "m", "file_digest": "broken"})
    again = open_evaluation(place, {"model": "m", "file_digest": "mended"})
    assert again["file_digest"] == "mended" == read_about(place)["file_digest"]
    assert "nothing was asked yet; begun anew" in capsys.readouterr().err
    place.responses.touch()  # a model that did not load leaves it empty
    assert open_evaluation(place, {"model": "m2", "file_digest": "mended"})["model"] == "m2"
    place.responses.write_text("{}\n")
    with pytest.raises(UsageError, match="holds another evaluation"):
        open_evaluation(place, {"model": "other", "file_digest": "mended"})
    place.responses.unlink()
    place.data.mkdir()
    with pytest.raises(UsageError, match="holds another evaluation"):
        open_evaluation(place, {"model": "other", "file_digest": "mended"})


def test_a_baseline_that_cannot_be_compared_is_refused_before_anything_is_asked(
    student_dir: Path, tape: Path, evaluated: Path, dataset: Path, tmp_path: Path
) -> None:
    other = dataset.with_name("turned.jsonl")
    turned = dataset.read_text().replace('"answer": "yes"', '"answer": "no"')
    other.write_text(turned)
    data = evaluations.save_tape(other, tmp_path / "tape")
    out = tmp_path / "out"
    flags = ("--model", student_dir, "--out", out, "--baseline", evaluated, *NEW_TOKENS)
    different = evaluations.evaluate_here("--data", data, *flags)
    assert different.exit_code == 2
    assert f"--baseline {evaluated} are of different data" in different.stderr
    assert not (out / "responses.jsonl").exists()
    shutil.rmtree(out)
    benchmark = evaluations.evaluate_here("--data", tape, *flags, "--benchmark", "mmau")
    assert benchmark.exit_code == 2
    assert "is of benchmark own, and this is mmau" in benchmark.stderr
    assert not out.exists()


def test_mistakes_are_named(student_dir: Path, tape: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    good = {"--model": student_dir, "--data": tape, "--out": out}
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    for changed, told in (
        ({"--benchmark": "mmu"}, "expected one of own, mmau"),
        ({"--model": tmp_path / "absent"}, "does not exist"),
        ({"--max-new-tokens": "0"}, "--max-new-tokens 0: expected 1 or more"),
        ({"--temperature": "-1"}, "--temperature -1: expected 0 or more"),
        ({"--temperature": "1e-30"}, "--temperature 1e-30: expected 0 (greedy)"),
        ({"--temperature": "inf"}, "--temperature inf: expected 0 or more"),
        ({"--temperature": "nan"}, "--temperature nan: expected 0 or more"),
        ({"--top-p": "0"}, "--top-p 0: expected more than 0"),
        ({"--dtype": "int4"}, "dtype 'int4'"),
        ({"--device": "tpu9"}, "device 'tpu9'"),
        ({"--endpoint-model": "m"}, "--endpoint-model needs --endpoint"),
        ({"--out": tmp_path / "taken"}, "holds something that is not an evaluation"),
        ({"--data": tmp_path / "absent.jsonl"}, "could not be read (exit status 1)"),
    ):
        flags = [str(part) for pair in (good | changed).items() for part in pair]
        done = evaluations.evaluate_here(*flags)
        assert done.exit_code in (1, 2), done.output
        assert told in done.stderr
        shutil.rmtree(out, ignore_errors=True)
    assert (tmp_path / "taken" / "thesis.tex").exists()
