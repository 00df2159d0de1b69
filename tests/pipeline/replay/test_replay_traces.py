"""Replays of greedy and lossy traces, of those not kept, and of what is read on other texts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replays import PAGE, other_word, recipe_of, record, signals_of, textual, verified
from sound_tape import edit_table
from tiny_encoders import save_encoder as save_text_encoder

from cache_schema import open_tape
from cache_schema.errors import TapeError
from cache_schema.types import TopK
from pipeline.recipe import AcousticRecipe, TapeRecipe, TextualRecipe
from pipeline.replay import bounds
from pipeline.replay.bounds import COMPUTED
from pipeline.replay.found import WITHIN
from pipeline.replay.measure import Distributions, kl_of
from pipeline.tapes.pages import verify_page


@pytest.mark.usefixtures("_here")
def test_greedy_traces_of_a_lossy_tape(
    dataset: Path, described: Path, text_teacher: Path, tmp_path: Path
) -> None:
    """What storing lost was measured and is allowed for; another greedy token is not."""
    out = tmp_path / "tape"
    shutil.copytree(described, out)
    lossy = TapeRecipe(out=str(out), profile="lossy2x")
    record(recipe_of(dataset, out, textual=textual(text_teacher), tape=lossy), "textual")
    values = verified(out)
    assert values["sound"], values["problems"]
    hidden = signals_of(values)["hidden"]["measures"]
    recorded = hidden["lossy2x recorded of layer 1"]["worst"]
    assert 0 < recorded < 0.02
    assert 0 < hidden["relative error of layer 1"]["worst"] <= 4 * recorded
    assert signals_of(values)["topk"]["equal"] == 4, "compact, the same values give the same bytes"
    edit_table(out, "shards/textual/000/w0of1-000000", "trace", other_word)
    problem = verified(out)["problems"][0]["message"]
    assert "turns off at token 2" in problem


@pytest.mark.usefixtures("_here")
def test_a_greedy_trace_may_turn_off_at_a_tie(
    dataset: Path, described: Path, text_teacher: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The second most probable token in the place of the first: no tie under float32's bounds.

    With bounds so wide that it is one, it is told, and signals are compared up to there.
    """
    out = tmp_path / "tape"
    shutil.copytree(described, out)
    record(recipe_of(dataset, out, textual=textual(text_teacher)), "textual")
    topk = open_tape(out)["row-0"]["textual/topk"]
    assert isinstance(topk, TopK)
    second = int(topk.token_ids[3, 1])

    def turned(rows: list[dict[str, Any]]) -> None:
        rows[0]["token_ids"] = [*rows[0]["token_ids"][:3], second, *rows[0]["token_ids"][4:]]

    edit_table(out, "shards/textual/000/w0of1-000000", "trace", turned)
    problem = verified(out)["problems"][0]["message"]
    assert "turns off at token 3" in problem
    assert "a tie is at most 0.001" in problem
    wide = replace(COMPUTED["float32"], tie_nats=50.0)
    monkeypatch.setattr(bounds, "COMPUTED", {"float32": wide})
    values = verified(out)
    assert values["sound"], values["problems"]
    found = signals_of(values)
    assert found["trace"]["near_ties"]["count"] == 1
    assert (found["trace"]["equal"], found["trace"]["verdict"]) == (3, WITHIN)
    assert found["topk"]["rows"] == found["hidden"]["rows"] == 4
    assert "near tie: row-0: trace 0 (free) turns off at token 3" in verify_page({**values, **PAGE})


@pytest.mark.usefixtures("_here")
def test_traces_that_were_not_kept(
    dataset: Path, described: Path, text_teacher: Path, acoustic_teacher: Path, tmp_path: Path
) -> None:
    """A random teacher is never right: its traces stand in ``rejected``, and nothing is read."""
    out = tmp_path / "tape"
    shutil.copytree(described, out)
    writes = textual(
        text_teacher, traces=2, temperature=1.0, sample_top_k=8, select="first-correct"
    )
    hears = AcousticRecipe(teacher=str(acoustic_teacher), layers="1", top_k=5)
    record(recipe_of(dataset, out, textual=writes), "textual")
    record(recipe_of(dataset, out, acoustic=hears), "acoustic")
    values = verified(out)
    assert values["sound"], values["problems"]
    assert signals_of(values)["trace"]["rows"] == 8
    assert signals_of(values, "acoustic")["hidden"]["rows"] == 4

    def reworded(rows: list[dict[str, Any]]) -> None:
        rows[0]["text"] += "!"

    edit_table(out, "shards/textual/000/w0of1-000000", "rejected", reworded)
    assert "not kept: text differ" in verified(out, "textual")["problems"][0]["message"]


def test_divergence_over_the_kept_tokens() -> None:
    """All of a small vocabulary: the true KL. Ids that the replay did not keep count as far off."""
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5), size=(2, 700))

    def kept(shares: np.ndarray, k: int) -> Distributions:
        order = np.argsort(-shares, axis=1)[:, :k]
        most = np.take_along_axis(shares, order, axis=1)
        tail = (1 - most.sum(axis=1)).clip(min=0)
        return Distributions(order, np.log(most).astype(np.float32), tail.astype(np.float32))

    true = (p * np.log(p / q)).sum(axis=1)
    np.testing.assert_allclose(kl_of(kept(p, 5), kept(q, 5)), true, rtol=1e-4, atol=1e-5)
    assert (kl_of(kept(p, 3), kept(q, 3)) <= true + 1e-5).all(), "fewer buckets, less divergence"
    assert kl_of(kept(p, 3), kept(p, 3)).max() == pytest.approx(0, abs=1e-9)
    ids = np.arange(10).reshape(2, 1, 5)
    one, two = (
        Distributions(
            part, np.full((1, 5), np.log(0.198), np.float32), np.full(1, 0.01, np.float32)
        )
        for part in ids
    )
    assert kl_of(one, two)[0] > 2, "other tokens altogether"


def test_a_tape_without_sources(described: Path) -> None:
    with pytest.raises(TapeError, match="nothing to replay"):
        verified(described)


@pytest.mark.usefixtures("_here")
def test_a_text_encoder_and_answers(
    dataset: Path, described: Path, acoustic_teacher: Path, tmp_path: Path
) -> None:
    """A teacher that was read on answers is replayed on an answer, though few samples have one."""
    out = tmp_path / "tape"
    shutil.copytree(described, out)
    bert = save_text_encoder(tmp_path / "bert", "bert")
    reads = TextualRecipe(teacher=str(bert), engine="encoder", layers="1,2")
    hears = AcousticRecipe(teacher=str(acoustic_teacher), layers="none", top_k=5)
    record(recipe_of(dataset, out, textual=reads), "textual")
    edit_table(out, "shards/samples/000/w0of1-000000", "samples", unanswered)
    record(recipe_of(dataset, out, acoustic=replace(hears, name="a", layers="1")), "acoustic")
    for seed in range(3):
        values = verified(out, count=1, seed=seed)
        assert values["sound"], values["problems"]
        assert signals_of(values, "a")["topk"]["rows"] == 1
    assert set(signals_of(values)) == {"hidden"}


def unanswered(rows: list[dict[str, Any]]) -> None:
    for row in rows[1:]:
        row["answer"] = ""
