"""Descriptions of samples: templates, what was heard, recipes of both, what is wrong with them."""

from __future__ import annotations

import json

import pytest

from cache_schema.commands.recipes import as_toml, load_recipe
from cache_schema.errors import DatasetError, UsageError
from cache_schema.types import Heard, Segment
from pipeline.extract import wanted_steps
from pipeline.recipe import ExtractRecipe
from pipeline.textualize import describe

NEEDED = ["dataset.path='d'", "tape.out='o'"]


def test_fields_lead_into_values_and_nowhere_else() -> None:
    metadata = {
        "speaker": {"name": "theo", "age": 31.25},
        "tags": ["calm", "indoor"],
        "turns": [{"text": "no times", "speaker": "B"}],
        "a.b": "dotted",
    }
    filled = describe(metadata, "{{{speaker.name}}} {speaker[age]:.1f} {tags:>14} {turns} {a.b}")
    assert filled == "{theo} 31.2   calm, indoor no times (Speaker: B) dotted"
    assert json.loads(describe(metadata, "{speaker}")) == metadata["speaker"]
    for template, message in {
        "{speaker.nam}": "no 'nam' in what it leads to (there is: name, age)",
        "{tags.append}": "no 'append'",
        "{speaker.name.upper}": "no 'upper'",
        "{speker}": "did you mean 'speaker'",
        "{tags:.1f}": "template field 'tags'",
    }.items():
        with pytest.raises(DatasetError) as caught:
            describe(metadata, template)
        assert message in str(caught.value), template


@pytest.mark.parametrize(
    "template",
    [
        "{speaker.__class__}", "{__class__}", "{speaker[__init__]}", "{}", "{0}", "{a.}", "{a[]}",
        "{a!r}", "{a:{b}}", "{a", "a}", "{a..b}", "{a]b}",
    ],
)  # fmt: skip
def test_a_template_is_refused_before_anything_runs(template: str) -> None:
    with pytest.raises(UsageError, match=r"textualize\.template"):
        load_recipe(ExtractRecipe, None, [*NEEDED, f"textualize.template={json.dumps(template)}"])


def test_heard_columns_beside_the_datasets() -> None:
    said = Heard(
        text="Hello. Bye.",
        segments=(
            Segment(start_s=0.0, end_s=1.2, text="Hello."),
            Segment(start_s=1.2, end_s=63.0, text="Bye."),
        ),
    )
    heard = {"transcript": said, "the_scene": Heard(text="A greeting.")}
    metadata = {"speaker": "theo", "gender": "male"}
    assert describe(metadata, "", heard).splitlines() == [
        "Transcript: Hello. Bye.",
        "Speaker: theo",
        "Gender: male",
        "The scene: A greeting.",
    ]
    template = "{the_scene} {speaker}: {transcript} {transcript.text}\n{transcript.segments}"
    assert describe(metadata, template, heard).splitlines() == [
        "A greeting. theo: Hello. Bye. Hello. Bye.",
        "[00:00-00:01] Hello.",
        "[00:01-01:03] Bye.",
    ]
    assert describe({}, "", {"transcript": Heard(text="")}) == ""
    with pytest.raises(DatasetError, match="'speaker' is the dataset's, and heard too"):
        describe(metadata, "", {"speaker": said})


def test_a_template_alone_asks_for_descriptions() -> None:
    assert wanted_steps(load_recipe(ExtractRecipe, None, NEEDED)) == ["ingest"]
    told = [*NEEDED, "textualize.template='{speaker}'"]
    assert wanted_steps(load_recipe(ExtractRecipe, None, told)) == ["ingest", "textualize"]


def test_listeners_in_a_recipe() -> None:
    told = [*NEEDED, "textualize.listen.transcript.model=openai/whisper-small"]
    recipe = load_recipe(ExtractRecipe, None, told)
    assert recipe.textualize.listen["transcript"].model == "openai/whisper-small"
    assert "[textualize.listen.transcript]" in as_toml(recipe)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("listen.a.modle=x", "unknown key 'modle'; did you mean 'model'"),
        ("listen.a.language=en", "textualize.listen.a: which model?"),
        ("listen.a=x", "expected a section"),
        ("listen.a-b.model=x", "A-Z, a-z, 0-9 and _"),
        ("listen._a.model=x", "does not begin with _"),
        (f"listen.{'a' * 65}.model=x", "at most 64"),
        ("listen.a.kind=captoin", "did you mean 'caption'"),
        ("listen.a.task=translat", "did you mean 'translate'"),
        ("listen.a.device=gpu", "auto or cpu or cuda"),
        ("listen.a.dtype=float", "did you mean 'float32'"),
        ("listen.a.batch_size=0", "at least 1"),
    ],
)
def test_mistakes_in_a_recipe(setting: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(ExtractRecipe, None, [*NEEDED, f"textualize.{setting}"])
    assert message in str(caught.value)
