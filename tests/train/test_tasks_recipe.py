"""Recipes of tasks and stages: what says nothing, or contradicts itself, is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from task_runs import TWO_TASKS

from cache_schema.errors import UsageError
from train.recipe import load_train_recipe

REFUSED = [
    ('[tasks.a]\nterms = ["txt_kl"]\n', "tasks.a.terms: 'txt_kl' is not there"),
    ('[tasks.a]\nreads = "text"\n', "reads 'text': one of"),
    ("[tasks.a]\nweight = 2.0\n[tasks.b]\n", "has no effect with mix.by = 'size'"),
    ('[mix]\nby = "alternate"\n', "needs two tasks or more"),
    ('[mix]\nby = "size"\ntemperature = 2.0\n', "has no effect with by = 'size'"),
    ("[stages.one]\nsteps = 3\nepochs = 2\n", "steps 3, epochs 2: one above 0, the other 0"),
    ("[stages.one]\n", "one above 0, the other 0"),
    ('[stages.one]\nsteps = 3\ntasks = ["a"]\n', "stages.one.tasks: 'a' is not there"),
    (
        '[tasks.a]\nterms = ["ce"]\n[tasks.b]\n[stages.one]\nsteps = 3\nterms = ["text_kl"]\n',
        "none of its terms is computed on task 'a'",
    ),
    ('[stages.one]\nsteps = 3\nterms = ["ce"]\n', "terms.text_kl: no stage computes it"),
    (
        '[tasks.a]\n[tasks.b]\n[stages.one]\nsteps = 3\ntasks = ["a"]\n',
        "tasks.b: no stage trains on it",
    ),
    (
        '[terms.text_tv]\nweight = 0.0\n[tasks.a]\nterms = ["text_tv"]\n',
        "tasks.a: none of its terms has a weight above 0",
    ),
    (
        '[terms.text_tv]\nweight = 0.0\n[stages.one]\nsteps = 3\nterms = ["text_tv"]\n',
        "stages.one: none of its terms is computed",
    ),
]


@pytest.mark.parametrize(("section", "said"), REFUSED)
def test_recipes_of_nothing_are_refused(section: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text("[terms.ce]\nweight = 1.0\n[terms.text_kl]\nweight = 1.0\n" + section)
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        load_train_recipe(str(file), [])


def test_a_recipe_without_terms_says_so(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text("[loop]\nseed = 1\n")
    with pytest.raises(UsageError, match=r"no \[terms\]: say what is computed"):
        load_train_recipe(str(file), [])
    with pytest.raises(UsageError, match="seed 4294967296: expected 0 to 4294967295"):
        load_train_recipe("sft", [f"loop.seed={2**32}"])


def test_a_term_of_weight_0_may_still_be_named(tmp_path: Path) -> None:
    """It is left out by ``--set terms.NAME.weight=0``, whatever tasks and stages name it."""
    file = tmp_path / "recipe.toml"
    file.write_text(TWO_TASKS + '[stages.one]\nsteps = 3\nterms = ["text_kl", "acoustic_hidden"]\n')
    recipe = load_train_recipe(str(file), ["terms.ce.weight=0"])
    assert list(recipe.terms.active(recipe.tasks["speech"].terms)) == ["text_kl"]
