from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import terms_tape
import tiny_audio_lm
from typer.testing import CliRunner

from audio_models.load import AudioLM, load_audio_lm
from cache_schema.commands.recipes import as_toml
from cache_schema.errors import UsageError
from train.cli import app
from train.metrics import read_metrics
from train.recipe import load_train_recipe, shipped_recipes
from train.terms.recipe import TERMS, TermsRecipe, spec_of
from train.terms.settings import StatesTerm, TokenTerm

HALF, TWENTIETH = 0.5, 0.05
SHIPPED = {
    "joint": {"ce": HALF, "text_jsd": 1, "text_hidden": TWENTIETH, "acoustic_hidden": TWENTIETH},
    "sft": {"ce": 1},
    "top": {"ce": HALF, "text_jsd": 1},
    "skip": {"ce": HALF, "text_jsd": 1, "text_hidden": TWENTIETH},
    "all": {"ce": HALF, "text_jsd": 1, "text_hidden": TWENTIETH},
    "lens": {"ce": HALF, "text_jsd": 1, "text_lens": TWENTIETH},
    "cross_modal": {"ce": 1, "text_kl": HALF},
    "cross_modal_speech": {"ce": 1, "text_kl": HALF},
    "acoustic_only": {"acoustic_hidden": 1},
}


def terms(**sections: object) -> TermsRecipe:
    return TermsRecipe.from_values(sections, "recipe.terms")


def test_names_are_a_side_and_a_measure() -> None:
    measures = ("kl", "reverse_kl", "jsd", "tv", "sampled", "lens", "hidden")
    names = {f"{side}_{measure}" for side in ("text", "acoustic") for measure in measures}
    heads = {"acoustic_utterance", "acoustic_frames", "acoustic_embedding"}
    assert set(TERMS) == {"ce", "acoustic_response", "text_pooled", *heads, *names}
    assert spec_of("acoustic_kl-other") is TERMS["acoustic_kl"]


def test_the_readme_has_every_term() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for name in TERMS:
        # an acoustic teacher's measures are "the same" as a textual one's, in one row
        same = name.replace("acoustic_", "text_")
        assert f"`{name}`" in readme or (same in TERMS and f"`{same}`" in readme), name


def test_terms_come_in_one_order_with_their_sides_source() -> None:
    found = terms(
        **{
            "acoustic_hidden-b": {"weight": 1, "source": "wavlm"},
            "acoustic_hidden": {"weight": 1},
            "text_kl": {"weight": 0},
            "ce": {"weight": 2},
        }
    )
    assert list(found) == ["ce", "text_kl", "acoustic_hidden", "acoustic_hidden-b"]
    assert found["ce"] == TokenTerm(weight=2.0)
    assert found["acoustic_hidden"] == StatesTerm(weight=1.0, source="acoustic")
    assert found["acoustic_hidden-b"] == StatesTerm(weight=1.0, source="wavlm")
    assert list(found.active()) == ["ce", "acoustic_hidden", "acoustic_hidden-b"]


@pytest.mark.parametrize(
    ("sections", "part"),
    [
        ({"text_kld": {"weight": 1}}, "unknown key 'text_kld'; did you mean 'text_kl'"),
        ({"text_response": {"weight": 1}}, "unknown key 'text_response'"),
        ({"text_kl.b": {"weight": 1}}, "unknown key 'text_kl.b'"),
        ({"ce": {"weight": 1, "temperature": 2.0}}, "unknown key 'temperature'"),
        ({"ce": {"weight": 1, "source": "textual"}}, "unknown key 'source'"),
        ({"text_kl": {"weight": 1, "beta": 0.5}}, "unknown key 'beta'"),
        ({"text_sampled": {"weight": 1, "temperature": 2.0}}, "unknown key 'temperature'"),
        ({"text_jsd": {"weight": 1, "beta": 1.0}}, "between 0 and 1"),
        ({"text_tv": {"weight": 1, "temperature": 0.0}}, "expected more than 0"),
        ({"text_lens": {"weight": 1, "divergence": "js"}}, "divergence 'js': one of"),
        ({"text_lens": {"weight": 1, "readout": "frozen"}}, "readout 'frozen': one of"),
        ({"text_hidden": {"weight": 1, "distance": "l2"}}, "distance 'l2': one of"),
        ({"text_hidden": {"layers": "top"}}, "weight"),
        ({"ce": {"weight": 0}}, "no term has a weight above 0"),
        ({"ce": 1}, "expected a section, got 1"),
        ({}, "no term has a weight above 0"),
    ],
)
def test_mistakes_are_named(sections: dict[str, object], part: str) -> None:
    with pytest.raises(UsageError, match=r"recipe\.terms") as caught:
        terms(**sections)
    assert part in str(caught.value)


def test_the_resolved_recipe_is_read_back(tmp_path: Path) -> None:
    labelled = "terms.acoustic_lens-second={weight=1, source='second', layers='2:2'}"
    recipe = load_train_recipe("lens", [labelled, "terms.ce.weight=0"])
    path = tmp_path / "recipe.toml"
    path.write_text(as_toml(recipe))
    assert load_train_recipe(str(path), []) == recipe
    assert 'source = "textual"' in path.read_text()
    assert dataclasses.asdict(recipe)["terms"]["ce"] == {"weight": 0.0}


def test_shipped_recipes_are_what_they_say() -> None:
    assert set(shipped_recipes()) == set(SHIPPED)
    for name, weights in SHIPPED.items():
        recipe = load_train_recipe(name, [])
        assert {key: term.weight for key, term in recipe.terms.active().items()} == weights
        assert shipped_recipes()[name].read_text().startswith("# ")
    assert load_train_recipe("cross_modal", []).terms["text_kl"].temperature == 2.0
    assert load_train_recipe("skip", []).terms["text_hidden"].layers == "every:7"
    assert load_train_recipe(None, []) == load_train_recipe("joint", [])


def test_a_wrong_name_lists_the_shipped_recipes() -> None:
    with pytest.raises(UsageError, match="did you mean 'skip'") as caught:
        load_train_recipe("skp", [])
    assert all(name in str(caught.value) for name in SHIPPED)


def test_the_recipe_is_checked_before_torch_is_loaded() -> None:
    script = "import sys, train.cli; assert not {'torch', 'numpy.linalg'} <= set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.fixture(scope="module")
def tape_dir(tmp_path_factory: pytest.TempPathFactory, student: AudioLM) -> Path:
    path = tiny_audio_lm.save_omni(tmp_path_factory.mktemp("teacher"), seed=1)
    teacher = load_audio_lm(str(path), "float32", "cpu")
    return terms_tape.write(tmp_path_factory.mktemp("tape") / "tape", student, teacher)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_train(
    tape_dir: Path, student_dir: Path, tmp_path: Path, name: str
) -> None:
    arguments = [
        "student",
        "--cache",
        str(tape_dir),
        "--student",
        str(student_dir),
        "--recipe",
        name,
    ]
    more = ["--max-steps", "4", "--lr", "1e-3", "--set", "optim.warmup_fraction=0.0"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run"), *more])
    assert result.exit_code == 0, result.output
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert set(lines[0]["terms"]) == set(SHIPPED[name])
    assert lines[-1]["loss"] < lines[0]["loss"]
