"""Layers, recipes, questions and fingerprints: small words that everything is built from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cache_schema.answers.questions import is_correct, parse_answer, question_text
from cache_schema.commands.recipes import as_toml, load_recipe
from cache_schema.errors import UsageError
from cache_schema.fingerprint import fingerprint
from cache_schema.layers import parse_layers


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("top", (28,)),
        ("all", tuple(range(1, 29))),
        ("every:7", (7, 14, 21, 28)),
        ("every:9", (9, 18, 27, 28)),
        ("proportional:4", (7, 14, 21, 28)),
        ("proportional:1", (28,)),
        ("0,4,8", (0, 4, 8)),
        ("none", ()),
    ],
)
def test_layer_specs(spec: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(spec, 28) == layers


def test_more_layers_than_there_are_give_all() -> None:
    assert parse_layers("proportional:9", 3) == (1, 2, 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tpo", "did you mean 'top'"),
        ("every", "needs a number"),
        ("every:0", "needs a number"),
        ("0,29", "layers 0 to 28"),
        ("", "expected top"),
    ],
)
def test_bad_layer_specs(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_layers(spec, 28)


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    names: tuple[str, ...] = ()
    limit: int | None = None
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    seed: int = 0
    title: str = ""


def test_recipe_from_file_and_overrides(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('seed = 3\n[inner]\nrate = 1\nnames = ["a"]\n')
    overrides = ["inner.rate=0.5", "title=two words", "inner.weights.ce=2", "inner.limit=4"]
    recipe = load_recipe(Outer, file, overrides)
    assert recipe == Outer(
        inner=Inner(rate=0.5, names=("a",), limit=4, weights={"ce": 2.0}), seed=3, title="two words"
    )


def test_resolved_recipe_round_trips(tmp_path: Path) -> None:
    recipe = Outer(inner=Inner(names=('a"b', "c"), weights={"x": 0.5}), title='line\n"two"\\')
    file = tmp_path / "r.toml"
    file.write_text(as_toml(recipe))
    assert load_recipe(Outer, file) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.rat=1", "unknown key 'rat'; did you mean 'rate'"),
        ("seed=true", "expected int, got True"),
        ("seed=1.5", "expected int"),
        ("inner=3", "expected a section"),
        ("seed", "expected section.key=value"),
        ("inner.names=a", "expected a list"),
        ("title=4", """expected str, got 4; as text it is '"4"'"""),
    ],
)
def test_recipe_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(Outer, None, [override])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<THINK>a b</THINK><RESPONSE> yes </RESPONSE>", "yes"),
        ("<RESPONSE>no</RESPONSE> <RESPONSE>yes", "yes"),
        ("<think>hm</think>\n\nseven.", "seven."),
        ("<think>never ends", ""),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_parse_answer(text: str, answer: str) -> None:
    assert parse_answer(text) == answer


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("Blue", True),
        (" blue. ", True),
        ("(B) blue", True),
        ("B", True),
        ("b)", True),
        ("(A)", False),
        ("A. blue", True),
        ("(B) red", False),
        ("red", False),
        ("blue or red", False),
        ("", False),
    ],
)
def test_verdicts(answer: str, verdict: bool) -> None:
    assert is_correct(answer, "blue", ("red", "blue")) is verdict


def test_no_expected_answer_no_verdict() -> None:
    assert is_correct("x", "", ("x",)) is None
    assert is_correct("B", "blue") is False


def test_letters_that_are_answers_are_not_choice_letters() -> None:
    assert is_correct("b", "a", ("b", "a")) is False


def test_question_text() -> None:
    assert question_text("Which?", ("a", "b")) == "Which?\nChoices: a, b"
    assert question_text("Which?", ()) == "Which?"


def test_fingerprint_ignores_key_order_only() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})
