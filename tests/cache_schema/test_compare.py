"""Comparing: equal by value whatever the files are like, and every difference named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sound_tape import MAKERS, edit_table, make, replace, uncounted

from cache_schema import open_tape
from cache_schema.compare.apart import apart
from cache_schema.compare.makers import Change
from cache_schema.compare.tapes import Difference, compare
from cache_schema.shard import Storage
from cache_schema.writer import TapeWriter

TEXTUAL = "shards/textual/000/w0-000000"


def diff(one: Path, two: Path) -> Difference:
    return compare(open_tape(one), open_tape(two), uncounted)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("whole") / "tape")


def test_shards_writers_order_and_notes_do_not_count(whole: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "b", [4, 0], shard_samples=9, changes={"notes": {"created": "today"}})
    make(other, [2, 1, 3], shard_samples=1, writer="w5", changes={"notes": {}})
    difference = diff(whole, other)
    assert difference.equal
    assert {change.field for change in difference.notes} == {"notes.created", "notes.model"}
    assert {name: c.compared for name, c in difference.contents.items()} == dict.fromkeys(
        [
            "samples", "descriptions", "acoustic/hidden", "acoustic/topk",
            "textual/hidden", "textual/topk", "textual/trace",
        ],
        5,
    )  # fmt: skip


def test_lossless_storage_is_equal_and_lossy_is_not(whole: Path, tmp_path: Path) -> None:
    assert diff(whole, make(tmp_path / "b", storage=Storage(profile="archive"))).equal
    lossy = diff(whole, make(tmp_path / "c", storage=Storage(profile="lossy2x", topk="compact")))
    assert not lossy.equal
    assert lossy.contents["textual/trace"].equal
    assert set(lossy.contents["textual/hidden"].fields) == {"states"}
    assert 0 < lossy.contents["textual/hidden"].max_abs["states"] < 0.5
    assert 0 < lossy.contents["textual/topk"].max_abs["logprobs"] < 0.1
    assert "token_ids" not in lossy.contents["textual/topk"].fields


def test_what_only_one_has(whole: Path, tmp_path: Path) -> None:
    part = make(tmp_path / "b", [1, 3, 9], groups=("samples", "textual"))
    difference = diff(whole, part)
    assert not difference.equal
    samples = difference.contents["samples"]
    assert (samples.only_a.count, samples.only_a.first) == (3, ["s0", "s2", "s4"])
    assert (samples.only_b.count, samples.only_b.first) == (1, ["s9"])
    assert samples.compared == 2
    missing = [change for change in difference.makers if change.field == "group"]
    assert [(c.group, c.a, c.b) for c in missing] == [
        ("acoustic", "recorded", None),
        ("descriptions", "recorded", None),
    ]
    assert difference.contents["acoustic/hidden"].only_a.count == 5


@pytest.mark.parametrize(
    ("table", "values", "name", "field", "distance"),
    [
        ("trace", {"text": "else"}, "textual/trace", "text", None),
        ("trace", {"logprob": -1.0}, "textual/trace", "logprob", 0.5),
        ("trace", {"correct": None}, "textual/trace", "correct", None),
        ("topk", {"target_ids": [3]}, "textual/topk", "target_ids", None),
        ("hidden", {"target_ids": [3]}, "textual/hidden", "target_ids", None),
    ],
    ids=["text", "logprob", "correct", "topk targets", "hidden targets"],
)
def test_values_that_differ_are_named(
    whole: Path,
    tmp_path: Path,
    table: str,
    values: dict[str, Any],
    name: str,
    field: str,
    distance: float | None,
) -> None:
    other = make(tmp_path / "b")
    edit_table(other, TEXTUAL, table, lambda rows: rows[0].update(values))
    difference = diff(whole, other)
    assert [n for n, c in difference.contents.items() if not c.equal] == [name]
    found = difference.contents[name]
    assert (found.differing.count, found.differing.first) == (1, ["s0"])
    assert found.fields == {field: 1}
    if distance is not None:
        assert found.max_abs[field] == distance


def test_audio_and_samples_are_compared_by_value(whole: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "b")
    silence = np.zeros(4000, "<f4").tobytes()
    path = "shards/samples/000/w0-000000"
    edit_table(other, path, "audio", lambda rows: rows[0].update(audio=silence))
    edit_table(other, path, "samples", lambda rows: rows[1].update(metadata='{"speaker": "bob"}'))
    found = diff(whole, other).contents["samples"]
    assert found.fields == {"audio": 1, "metadata": 1}
    assert found.max_abs["audio"] > 0.1
    assert found.differing.first == ["s0", "s1"]


def test_makers_licence_and_quarantine(whole: Path, tmp_path: Path) -> None:
    signals = {**MAKERS["textual"].signals, "topk": {"k": 3, "codec": "hot"}}
    other = make(tmp_path / "b", groups=("samples", "descriptions", "acoustic"), licence="CC0")
    with TapeWriter(other, replace(MAKERS["textual"], signals=signals)) as writer:
        writer.quarantine("s0", 0, "non-finite", "states")
    difference = diff(whole, other)
    assert [(c.group, c.field, c.a, c.b) for c in difference.makers] == [
        ("textual", "signals.topk.codec", None, "hot")
    ]
    assert difference.licence is not None
    assert (difference.licence.a, difference.licence.b) == ("unspecified", "CC0")
    assert difference.quarantined == {"only_a": [], "only_b": ["textual: s0: non-finite"]}
    assert difference.contents["textual/trace"].only_a.count == 5


def test_a_tape_equals_itself_through_a_url(whole: Path) -> None:
    assert compare(open_tape(whole), open_tape(f"file://{whole}"), uncounted).equal


LABELS = [f"class {number}" for number in range(1000)]


@pytest.mark.parametrize(
    ("one", "two", "told"),
    [
        (1, None, ("1", "None")),
        ("a" * 300, "b", ("'" + "a" * 36 + "...", "'b'")),
        (LABELS, [*LABELS, "more"], ("1000 items", "1001 items, item 1000 'more'")),
        ([*LABELS, 1], [*LABELS, 2], ("1001 items, item 1000 1", "1001 items, item 1000 2")),
        (LABELS, None, ("['class 0', 'class 1', 'class 2', 'cl...", "None")),
        (
            {"labels": LABELS, "multi_label": True, "k": 1},
            {"labels": LABELS[:1], "multi_label": True},
            ("labels 1000 items, item 1 'class 1', k 1", "labels 1 items, k None"),
        ),
    ],
)
def test_values_too_long_to_tell_are_told_where_they_differ(
    one: object, two: object, told: tuple[str, str]
) -> None:
    assert apart(one, two, 40) == told
    assert apart(two, one, 40) == told[::-1]


def test_a_change_of_many_classes_is_a_line() -> None:
    change = Change(group="beats", field="signals.frame_logits.labels", a=LABELS, b=LABELS[1:])
    expected = '1000 items, item 0 "class 0" | 999 items, item 0 "class 1"'
    assert str(change) == f"beats: signals.frame_logits.labels: {expected}"
    assert str(Change(group="", field="licence", a=None, b="x")) == 'licence: - | "x"'
