"""Ids get numbers without an object each, whatever their hashes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cache_schema import layout, open_tape
from cache_schema.index import arrays, id_numbers
from cache_schema.index.id_numbers import IdNumbers
from cache_schema.maker import GroupInfo
from cache_schema.rows.values import sample_rows
from cache_schema.types import Sample
from cache_schema.writer import TapeWriter

IDS = [f"id-{n}-é" for n in range(60)]


@pytest.fixture(params=[None, 5, 1])
def few_hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes as they are, of five values, or all equal; little kept in the dictionary."""
    monkeypatch.setattr(id_numbers, "RECENT", 7)
    if request.param is not None:
        real = arrays.hash_of
        for module in (arrays, id_numbers):
            monkeypatch.setattr(module, "hash_of", lambda given: real(given) % request.param)


def chunked(ids: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(ids, pa.string())])


@pytest.mark.usefixtures("few_hashes")
def test_each_id_has_one_number() -> None:
    numbers = IdNumbers()
    for ids in (IDS[:10], [*IDS[5:30], *IDS[:3]], IDS, []):
        given = numbers.add(chunked(ids)).tolist()
        assert [numbers[number] for number in given] == ids
    assert len(numbers) == len(IDS)
    texts = numbers.texts().to_pylist()
    assert sorted(texts) == sorted(IDS)
    assert [numbers[number] for number in range(len(IDS))] == texts
    assert numbers.hashes().tolist() == [id_numbers.hash_of(text) for text in texts]


def save(root: Path, ids: list[str], first: int) -> None:
    with TapeWriter(root, GroupInfo(group="samples", kind="samples"), shard_samples=4) as writer:
        for row_index, sample_id in enumerate(ids, first):
            sample = Sample(
                sample_id=sample_id,
                row_index=row_index,
                audio=None,
                question="What?",
                choices=(),
                answer="",
                metadata={},
            )
            writer.add(sample_rows(sample, "0" * 64, 16))


@pytest.mark.usefixtures("few_hashes")
def test_a_tape_that_grows(tmp_path: Path) -> None:
    root = tmp_path / "tape"
    for first in (0, 20, 40):
        save(root, IDS[first : first + 20], first)
        info = GroupInfo(group="descriptions", kind="descriptions")
        with TapeWriter(root, info) as writer:
            for given in IDS[first + 19 : first - 1 if first else None : -3]:
                writer.add({"descriptions": [{"sample_id": given, "description": given}]})
    grown = open_tape(root)
    assert grown.sample_ids == tuple(IDS)
    assert [grown[given].row_index for given in IDS] == list(range(60))
    assert all(grown[given].description == given for given in grown.recorded("descriptions"))
    mask = grown.recorded_mask("descriptions")
    shutil.rmtree(root / layout.INDEX_DIR)
    rebuilt = open_tape(root)
    assert rebuilt.sample_ids == grown.sample_ids
    np.testing.assert_array_equal(rebuilt.recorded_mask("descriptions"), mask)
