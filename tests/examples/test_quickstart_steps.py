import json
import tomllib

import pytest

from examples.quickstart import evaluation
from examples.quickstart.__main__ import parse_arguments
from examples.quickstart.demo import DISTILLED_TERMS, RECIPE
from examples.quickstart.questions import QUESTIONS
from examples.quickstart.steps import FolderError, Steps
from train.recipe import SHIPPED, load_train_recipe


def start(folder, seed=0, fresh=False):
    return Steps(folder, {"seed": seed}, ["model", "answers.jsonl"], total=1, fresh=fresh)


def test_a_step_runs_once_and_its_result_stays(tmp_path, capsys):
    assert start(tmp_path).run("one", "first step", lambda: {"found": 3}) == {"found": 3}
    assert start(tmp_path).run("one", "first step", lambda: {"found": 4}) == {"found": 3}
    assert "done before" in capsys.readouterr().out


def test_a_failed_step_runs_again(tmp_path):
    def fail():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        start(tmp_path).run("one", "first step", fail)
    assert start(tmp_path).run("one", "first step", lambda: {"found": 1}) == {"found": 1}


@pytest.mark.parametrize("again", [{"fresh": True}, {"seed": 1}])
def test_starting_over_removes_its_own_results_alone(tmp_path, again):
    start(tmp_path).run("one", "first step", dict)
    (tmp_path / "model").mkdir()
    (tmp_path / "answers.jsonl").touch()
    (tmp_path / "mine.txt").touch()
    ran = []
    start(tmp_path, **again).run("one", "first step", lambda: ran.append(1) or {})
    assert ran
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "answers.jsonl").exists()
    assert (tmp_path / "mine.txt").exists()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FolderError, match="no quickstart made it"):
        start(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_scores_judge_traces_and_plain_answers(rows):
    traces = [row.solution.trace for row in rows]
    for texts in (traces, [f" {row.solution.answer}" for row in rows]):
        scores = evaluation.score(texts, rows)
        assert all(right == asked for right, asked in scores.values())
    wrong = evaluation.score(["<THINK><PLANNING>cut short"] * len(rows), rows)
    assert all(right == 0 for right, _ in wrong.values())
    assert scores["reasoning"][1] == 60


def test_the_table_and_the_baselines(rows, tmp_path):
    guesses = evaluation.commonest_answers(rows, rows)
    scores = {"guessing": evaluation.score(guesses, rows)}
    text = evaluation.table(scores, evaluation.chance(rows))
    assert all(kind in text for kind in QUESTIONS)
    assert evaluation.chance(rows)["sum parity"] == 0.5
    evaluation.save_answers(tmp_path / "answers.jsonl", rows, {"guessing": guesses})
    first = json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])
    assert first["answers"]["guessing"] == guesses[0]


def test_better_means_more_than_three_standard_errors():
    assert evaluation.clearly_better((30, 100), (60, 100))
    assert not evaluation.clearly_better((30, 100), (45, 100))
    assert not evaluation.clearly_better((60, 100), (30, 100))


def test_the_recipe_is_the_joint_one():
    ours = tomllib.loads(RECIPE.read_text())
    assert ours["terms"] == tomllib.loads((SHIPPED / "joint.toml").read_text())["terms"]
    zero = [f"terms.{term}.weight=0" for term in DISTILLED_TERMS]
    assert list(load_train_recipe(str(RECIPE), zero).terms.active()) == ["ce"]


def test_arguments(tmp_path):
    assert parse_arguments([]).seed == 0
    given = parse_arguments(["--out", str(tmp_path), "--seed", "3", "--fresh"])
    assert (given.out, given.seed, given.fresh) == (tmp_path, 3, True)
