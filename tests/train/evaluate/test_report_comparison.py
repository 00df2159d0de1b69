"""The page over variants and runs, and the command that makes it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_evaluation import write_evaluation, write_run
from page_checks import check
from typer.testing import CliRunner

from cache_schema.errors import OutputError, UsageError
from train.cli import app
from train.evaluate.comparison import compare
from train.evaluate.report import write_comparison
from train.evaluate.report.paired import compared
from train.evaluate.report.reading import Evaluation, read_evaluation
from train.evaluate.report.variants import ability_figure, benchmarks_of, read_variants
from train.evaluate.report.words import percent, points

COUNT = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("evaluations")
    plan = {
        "base-mmau": ("mmau", 0.4, 0),
        "base-meld": ("meld", 0.8, 0),
        "joint-mmau": ("mmau", 0.85, 0),
        "joint-mmau-1": ("mmau", 0.85, 1),
        "joint-meld": ("meld", 0.2, 0),
        "joint-asr": ("asr", 0.9, 0),
    }
    return {
        name: write_evaluation(root / name, benchmark, COUNT, skill=skill, seed=seed)
        for name, (benchmark, skill, seed) in plan.items()
    }


def test_variants_stand_side_by_side_against_the_first(
    made: dict[str, Path], tmp_path: Path
) -> None:
    variants = {
        "base": [made["base-mmau"], made["base-meld"]],
        "joint": [made[name] for name in ("joint-mmau", "joint-mmau-1", "joint-meld", "joint-asr")],
    }
    out = tmp_path / "out"
    path = write_comparison(variants, out, {"joint": write_run(tmp_path / "run")})
    assert path == out / "report.html"
    page = check(path)
    first = page.all("h1")[0]
    assert first.startswith("Forgetting: hearing fell beyond its interval against base in joint.")
    assert "Reasoning improved in joint beyond its interval." in first
    one, two = (read_evaluation(made[name]) for name in ("joint-mmau", "joint-mmau-1"))
    values = [run.score("strict", "accuracy") for run in (one, two)]
    mean = np.mean([score.value for score in values if score is not None])
    assert percent(float(mean)) in page.all("td")
    base = read_evaluation(made["base-mmau"])
    difference = compared([one, two], [base])["strict", "accuracy", ""].difference
    assert points(difference) in page.all("td")
    titles = {"Reasoning against hearing", "Training", "Which classes were taken for which"}
    assert titles <= set(page.all("h2"))
    names = {plot.name for plot in (out / "plots").iterdir()}
    assert {"reasoning-hearing.png", "differences.png", "loss-1.png"} <= names
    assert page.all("caption") == []
    assert "mmau (reasoning): accuracy" in page.text


def test_variants_without_a_benchmark_in_common_are_said_to_be_alone(
    made: dict[str, Path], tmp_path: Path
) -> None:
    variants = {"base": [made["base-mmau"]], "asr": [made["joint-asr"]]}
    page = check(write_comparison(variants, tmp_path / "out", {}))
    assert page.all("h1") == ["Hearing was not compared. Reasoning was not compared."]
    assert "No benchmark in common with base: asr." in page.text
    assert "Without benchmarks of both abilities: base, asr." in page.text


def test_one_variant_alone_makes_a_page(made: dict[str, Path], tmp_path: Path) -> None:
    check(write_comparison({"<b>": [made["joint-asr"]]}, tmp_path / "out", {}))


def test_nothing_and_doubles_and_other_folders_are_refused(
    made: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="nothing to compare"):
        write_comparison({}, tmp_path / "out", {})
    with pytest.raises(UsageError, match="given twice"):
        write_comparison({"a": [made["base-mmau"], made["base-mmau"]]}, tmp_path / "out", {})
    with pytest.raises(UsageError, match="holds no finished evaluation"):
        write_comparison({"a": [tmp_path]}, tmp_path / "out", {})
    with pytest.raises(OutputError, match="holds an evaluation"):
        write_comparison({"a": [made["base-mmau"]]}, made["base-mmau"], {})


@pytest.mark.parametrize(("benchmark", "other"), [("base-mmau", "joint-mmau"),
                                                  ("base-meld", "joint-meld")])  # fmt: skip
def test_means_over_equal_runs_are_the_run(
    made: dict[str, Path], benchmark: str, other: str
) -> None:
    base, this = read_evaluation(made[benchmark]), read_evaluation(made[other])
    one, three = compared([this], [base]), compared([this] * 3, [base] * 2)
    for (rule, measure, group), of_means in three.items():
        of_one = one[rule, measure, group]
        assert of_means.difference == pytest.approx(of_one.difference)
        assert of_means.count == of_one.count
        assert (of_means.fell, of_means.forgotten) == (of_one.fell, of_one.forgotten)
        # Two bootstraps of 10 000: an end moves by about 2 % of the interval's width
        width = of_one.high - of_one.low
        assert of_means.low == pytest.approx(of_one.low, abs=0.1 * width)
        assert of_means.high == pytest.approx(of_one.high, abs=0.1 * width)


def test_one_run_a_side_is_compared_as_everywhere_else(made: dict[str, Path]) -> None:
    base, this = read_evaluation(made["base-mmau"]), read_evaluation(made["joint-mmau"])

    def lists(one: Evaluation) -> dict[str, list[object]]:
        return {rule: list(of.values()) for rule, of in one.verdicts.items()}

    expected = compare(this.benchmark, lists(this), lists(base))  # type: ignore[arg-type]
    assert list(compared([this], [base]).values()) == expected


def test_evaluations_without_an_item_in_common_are_refused(made: dict[str, Path]) -> None:
    base, this = read_evaluation(made["base-mmau"]), read_evaluation(made["joint-mmau"])
    with pytest.raises(UsageError, match="share no item"):
        compared([replace(this, responses={})], [base])


def test_an_ability_is_the_mean_of_its_benchmarks(made: dict[str, Path]) -> None:
    (variant,) = read_variants({"joint": [made["joint-meld"], made["joint-asr"]]})
    f1 = variant.score("meld", "strict", "weighted_f1")
    errors = variant.score("asr", "strict", "word_error_rate")
    figure = ability_figure(variant, "hearing", "strict")
    assert f1 is not None
    assert errors is not None
    assert figure is not None
    assert figure.value == pytest.approx(100 * (f1.value + 1 - errors.value) / 2)
    below = np.hypot(f1.value - f1.low, errors.high - errors.value) / 2
    assert figure.value - figure.low == pytest.approx(100 * below)
    assert ability_figure(variant, "reasoning", "strict") is None


def test_benchmarks_of_reasoning_come_first(made: dict[str, Path]) -> None:
    variants = read_variants({"a": [made["base-meld"], made["base-mmau"]]})
    assert list(benchmarks_of(variants)) == ["mmau", "meld"]


def test_the_command_writes_the_page(made: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [f"base={made['base-meld']}", f"joint={made['joint-meld']}", "--out", str(out)]
    done = CliRunner().invoke(app, ["compare", *arguments])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(out / "report.html")
    check(out / "report.html")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base"], "expected NAME=DIR"),
        (["=x"], "expected NAME=DIR"),
        (["base="], "expected NAME=DIR"),
        (["a=x", "a=y"], "is given twice; join its directories by commas"),
        (["a=x", "--run", "a=x,y"], "one directory is expected"),
        (["a=x"], "holds no finished evaluation"),
    ],
)
def test_wrong_usage_is_named(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["compare", *arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert re.search(message, done.stderr)
    assert not (tmp_path / "out").exists()


def test_help_shows_an_example() -> None:
    done = CliRunner().invoke(app, ["compare", "--help"])
    assert "train compare --out" in done.stdout
