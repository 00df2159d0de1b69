"""A described tape without teachers, and replays in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from replays import recipe_of, record

import pipeline.replay.run
from cache_schema.maker import GroupInfo
from pipeline.extract import run_step
from pipeline.recipe import ExtractRecipe


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the step in this process."""

    def run(info: GroupInfo, recipe: ExtractRecipe) -> None:
        run_step(info.kind, recipe)

    monkeypatch.setattr(pipeline.replay.run, "_run", run)


@pytest.fixture(scope="session")
def described(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("described") / "tape"
    return record(recipe_of(dataset, out), "ingest", "textualize")
