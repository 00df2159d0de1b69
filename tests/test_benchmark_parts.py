"""What benchmarks stand on: peers' stores give back what was written, exponents, the summary."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).parent / "benchmarks"
NAMES = ("figures", "peer_stores", "peers", "run", "topk")


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    return {name: importlib.import_module(name) for name in NAMES}


def test_every_benchmark_finds_what_it_imports(benchmarks: dict[str, ModuleType]) -> None:
    """They are run now and then; a name that moved must not wait for that."""
    names = benchmarks["run"].NAMES
    assert {"loader", "peers", "trainer"} <= set(names)
    for name in names:
        assert callable(importlib.import_module(name).measure), name


def test_every_store_returns_what_was_written(
    benchmarks: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers, stores = benchmarks["peers"], benchmarks["peer_stores"]
    monkeypatch.setattr(stores, "BATCH_SAMPLES", 2)
    monkeypatch.setattr(peers, "DICT_TRACES", 2)
    traces = [
        tuple(part[:20] for part in trace)
        for trace in benchmarks["topk"].make_shard(16, 151_936, 5).traces
    ]
    found = peers.write(tmp_path, traces)
    assert [store.num_samples for store in found] == [5] * 7 + [2]
    peers.compare(found, traces)
    for store in found:
        ids, logprobs = store.one(1)
        assert np.array_equal(ids, traces[1][0])
        assert np.abs(logprobs - traces[1][1]).max() < peers.COMPACT_ERROR_NATS
        assert store.num_bytes > store.num_tokens * 16


def test_ids_are_packed_to_the_last_bit(benchmarks: dict[str, ModuleType]) -> None:
    stores = benchmarks["peer_stores"]
    ids = np.random.default_rng(0).integers(0, 1 << stores.ID_BITS, (7, 8), dtype=np.int32)
    ids[0], ids[-1] = 0, (1 << stores.ID_BITS) - 1
    packed = np.frombuffer(stores.pack(ids), dtype=np.uint8)
    assert packed.size == ids.size * stores.ID_BITS // 8
    assert np.array_equal(stores.unpack(packed, 2, 7, 8), ids[2:])


def test_growth_is_the_exponent_of_the_cost(benchmarks: dict[str, ModuleType]) -> None:
    for exponent in (0.0, 1.0, 2.0):
        costs = {size: 3.0 * size**exponent for size in (10, 100, 1000)}
        figure = benchmarks["figures"].growth("a cost", costs, str, 1.1)
        assert figure.value == pytest.approx(exponent, abs=1e-9)
        assert figure.met is (exponent < 2)
        assert f"the last {10 ** (exponent - 1):.2f} of linear" in figure.note


def test_the_summary_names_what_was_missed(benchmarks: dict[str, ModuleType]) -> None:
    figure = benchmarks["figures"].Figure
    kept = {
        "a": [
            figure(name="told", value=1, unit="s"),
            figure(name="fast", value=2, unit="x", bar=1.0),
            figure(name="slow", value=0.5, unit="x", bar=1.0),
        ]
    }
    assert benchmarks["run"].summary(kept, ["b"]) == [
        "2 bars: 1 met, 1 missed; 3 figures",
        "MISSED a: slow 0.5 x (>= 1)",
        "FAILED b: the bars it stopped before are not counted",
    ]


def test_a_verdict_goes_into_a_file(benchmarks: dict[str, ModuleType]) -> None:
    figure = benchmarks["figures"].Figure(name="of numpy", value=np.float64(2), unit="x", bar=1.0)
    assert figure.met is True, "JSON does not know numpy's"
