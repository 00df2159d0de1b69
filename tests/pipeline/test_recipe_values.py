"""Values that could only fail later are refused where the recipe is read."""

from __future__ import annotations

import pytest

from cache_schema.commands.recipes import load_recipe
from cache_schema.errors import UsageError
from pipeline.cli import _overrides
from pipeline.recipe import ExtractRecipe

NEEDED = ("dataset.path=rows.jsonl", "tape.out=x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["tape.shard_samples=0"], "tape.shard_samples: expected at least 1, got 0"),
        (["tape.shard_samples=-3"], "tape.shard_samples: expected at least 1"),
        (["tape.shard_mb=0"], "tape.shard_mb: expected at least 1"),
        (["tape.shard_mb=-1"], "tape.shard_mb: expected at least 1"),
        (["textual.temperature=nan"], "--temperature: expected"),
        (["textual.temperature=inf"], "--temperature: expected"),
        (["textual.temperature=-1"], "--temperature: expected"),
        (["textual.top_p=nan"], "textual.top_p: expected"),
        (["textual.min_p=nan"], "textual.min_p: expected"),
        (["textual.repetition_penalty=nan"], "textual.repetition_penalty: expected"),
        (["textual.repetition_penalty=inf"], "textual.repetition_penalty: expected"),
        (["textual.max_model_len=-3"], "textual.max_model_len: expected at least 1"),
        (["textual.max_model_len=0"], "textual.max_model_len: expected at least 1"),
        (["textual.draws=65536"], "textual.draws: a tape keeps at most 65535"),
        (
            ["textual.traces=1048576", "textual.temperature=1"],
            "--traces: a tape keeps at most 1048574",
        ),
        (
            ["textual.traces=600000", "textual.temperature=1", "textual.rationales=wrong"],
            "--traces: a tape keeps at most 524287",
        ),
        (["tape.topk=compact", "textual.top_k=65536"], "textual.top_k: compact top-k keeps"),
        (["tape.profile=lossy2x", "textual.lens_top_k=65536"], "lens_top_k: compact top-k keeps"),
        (["tape.topk=compact", "acoustic.top_k=65536"], "acoustic.top_k: compact top-k keeps"),
        (["acoustic.top_k=-1"], "acoustic.top_k: expected 0 or more"),
        (["failures.max_fraction=nan"], "failures.max_fraction"),
    ],
)
def test_refused_by_name(settings: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(ExtractRecipe, None, [*NEEDED, *settings])
    assert message in str(caught.value)


def test_the_limits_themselves_are_fine() -> None:
    recipe = load_recipe(
        ExtractRecipe,
        None,
        [*NEEDED, "tape.topk=compact", "textual.top_k=65535", "textual.draws=65535",
         "tape.shard_mb=1", "tape.shard_samples=1", "textual.max_model_len=1"],
    )  # fmt: skip
    assert recipe.textual.draws == 65535
    hot = load_recipe(ExtractRecipe, None, [*NEEDED, "textual.top_k=65536"])
    assert hot.textual.top_k == 65536


def test_top_k_0_is_none_of_both_teachers() -> None:
    overrides = _overrides({"top_k": 0, "dataset": 'a"\x7f', "out": "x"})
    recipe = load_recipe(ExtractRecipe, None, overrides)
    assert recipe.textual.top_k == recipe.acoustic.top_k == 0
    assert recipe.dataset.path == 'a"\x7f'
