"""A recipe written and read again is the same recipe, whatever its free-form settings hold."""

from __future__ import annotations

import datetime as dt
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema.commands.recipes import as_toml, build, load_recipe, toml_value
from cache_schema.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Inner:
    args: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    by_name: dict[str, Inner] = field(default_factory=dict)
    title: str = ""


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
leaves = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | texts
    | st.dates()
    | st.datetimes()
    | st.times()
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)
free = st.dictionaries(texts, values, max_size=4)


@settings(deadline=None, max_examples=150)
@given(free, free, texts, texts)
def test_any_recipe_round_trips(
    args: dict[str, Any], other: dict[str, Any], name: str, title: str
) -> None:
    recipe = Outer(inner=Inner(args=args), by_name={name: Inner(args=other)}, title=title)
    assert again(recipe) == recipe


@settings(deadline=None, max_examples=100)
@given(texts, values)
def test_any_setting_can_be_set(key: str, value: Any) -> None:
    quoted = toml_value(key, "key")
    override = f"inner.args . {quoted}={toml_value(value, 'value')}"
    assert load_recipe(Outer, None, [override]).inner.args == {key: value}


@pytest.mark.parametrize(
    ("override", "args"),
    [
        ('inner.args."a b"=1', {"a b": 1}),
        ('inner.args."a.b"=1', {"a.b": 1}),
        ("inner.args.'a=b'=1", {"a=b": 1}),
        ('inner.args={"a.b"=1}', {"a.b": 1}),
        ('inner.args.documents=[{title="t", pages=[1, 2]}, {}]',
         {"documents": [{"title": "t", "pages": [1, 2]}, {}]}),
        ("inner.args.day=2024-01-02", {"day": dt.date(2024, 1, 2)}),
        ("inner.args.naïve=a=b", {"naïve": "a=b"}),
        ('inner.args.text="\\u007f"', {"text": "\x7f"}),
        ("inner.args.x=1\ny=2", {"x": "1\ny=2"}),
    ],
)  # fmt: skip
def test_what_is_set_stays_what_it_was(override: str, args: dict[str, Any]) -> None:
    recipe = load_recipe(Outer, None, [override])
    assert recipe.inner.args == args
    assert again(recipe) == recipe


def test_numbers_that_are_none() -> None:
    args = again(Outer(inner=Inner(args={"a": math.inf, "b": [-math.inf], "c": math.nan}))).inner
    assert (args.args["a"], args.args["b"]) == (math.inf, [-math.inf])
    assert math.isnan(args.args["c"])


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": None}, r"recipe\.inner\.args\.a: None"),
        ({"a": [1, {"b": None}]}, r"recipe\.inner\.args\.a\[1\]\.b: None"),
        ({"a": {"b": None}}, r"recipe\.inner\.args\.a\.b: None"),
        ({"a": b"x"}, "has no form in TOML"),
        ({"a": "\ud800"}, "not UTF-8"),
        ({1: 2}, "key 1: expected text"),
    ],
)
def test_what_toml_cannot_hold_is_named(value: dict[str, Any], where: str) -> None:
    with pytest.raises(UsageError, match=where):
        as_toml(Outer(inner=Inner(args=value)))


@pytest.mark.parametrize("override", ["inner.a b=1", "=1", 'inner."a=1', "inner..rate=1"])
def test_keys_that_are_none(override: str) -> None:
    with pytest.raises(UsageError, match=r"expected section\.key=value"):
        load_recipe(Outer, None, [override])


def test_a_bad_escape_in_a_key() -> None:
    with pytest.raises(UsageError, match=r"Unescaped|escape"):
        load_recipe(Outer, None, [r'inner.args."\q"=1'])


def again(recipe: Outer) -> Outer:
    return build(Outer, tomllib.loads(as_toml(recipe)), "recipe")


def test_through_a_file(tmp_path: Path) -> None:
    recipe = Outer(inner=Inner(args={"\r\n": "\r\n\u2028\x85\x00"}), title="\r")
    file = tmp_path / "r.toml"
    file.write_text(as_toml(recipe), encoding="utf-8")
    assert load_recipe(Outer, file) == recipe
