"""The lossy profile of layer states: errors within its bars, whatever finite states there are."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from states_files import LAYER, LOGICAL, read, record, synthetic

from cache_schema.codecs import bfloat16, states_lossy2x
from cache_schema.codecs.states_int8 import ErrorSums
from cache_schema.codecs.states_profiles import open_states_writer
from cache_schema.errors import TapeError

# --- lossy2x -------------------------------------------------------------------------------------


def reference_decoded(values: np.ndarray, num_fitted: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantise and decode in float64, written down again from the formula; return also the std."""
    mean, std = values[:num_fitted].mean(axis=0), values[:num_fitted].std(axis=0)
    standard = (values - mean) / std
    scale = np.abs(standard).max(axis=1, keepdims=True) / 127
    return mean + std * scale * np.rint(standard / scale), std


@pytest.mark.parametrize("logical", LOGICAL)
def test_lossy2x_keeps_its_bars(tmp_path: Path, logical: str) -> None:
    rows = synthetic(6000, 2048, logical)
    files, report = record(tmp_path, rows, logical, "lossy2x")
    assert sum(entry["bytes"] for entry in files.values()) / rows.size <= 1.05
    source = bfloat16.decode(rows).astype(np.float64)
    ours = bfloat16.decode(read(tmp_path, rows.shape, logical, "lossy2x")).astype(np.float64)
    expected, std = reference_decoded(source, 4096 if logical != "float32" else 2048)
    mean = source[: 4096 if logical != "float32" else 2048].mean(axis=0)

    def error(decoded: np.ndarray) -> float:
        return float(
            np.linalg.norm((decoded - source) / std) / np.linalg.norm((source - mean) / std)
        )

    # the reference is not rounded to the logical type; float32 arithmetic moves few codes by one
    assert error(ours) <= 1.15 * error(expected) <= 0.015
    assert error(ours) == pytest.approx(report["standardised_relative_error"], rel=1e-3)
    norms = np.linalg.norm(source, axis=1) * np.linalg.norm(ours, axis=1)
    cosines = (source * ours).sum(axis=1) / norms
    assert report["cosine_min"] == pytest.approx(cosines.min(), abs=1e-6)
    assert report["cosine_mean"] == pytest.approx(cosines.mean(), abs=1e-6)
    assert report["cosine_min"] >= 0.999
    step = std * np.abs((source - mean) / std).max(axis=1, keepdims=True) / 127
    ulp = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-22}[logical]
    assert (np.abs(ours - source) <= 0.501 * step + ulp * np.abs(ours) * 1.01 + 1e-5).all()


@pytest.mark.parametrize("logical", LOGICAL)
def test_constant_channels_are_exact_and_may_vary_later(tmp_path: Path, logical: str) -> None:
    values = np.random.default_rng(0).normal(size=(6000, 8)).astype(np.float32)
    values[:, 2], values[:, 5], values[:, 6] = 3.0703125, 0, -1e-3
    values[5000:, 6] = np.linspace(-2, 2, 1000)
    rows = bfloat16.encode(values, logical)
    record(tmp_path, rows, logical, "lossy2x")
    ours = read(tmp_path, rows.shape, logical, "lossy2x")
    np.testing.assert_array_equal(ours[:, [2, 5]], rows[:, [2, 5]])
    np.testing.assert_array_equal(ours[:5000, 6], rows[:5000, 6])
    assert np.abs(bfloat16.decode(ours)[5000:, 6] - values[5000:, 6]).max() < 0.05


def finite_rows(logical: str) -> st.SearchStrategy[np.ndarray]:
    wide = st.floats(width=16 if logical == "float16" else 32, allow_nan=False)
    near = {"bfloat16": 1e37, "float16": 65504, "float32": 1e38}[logical]
    number = wide.filter(lambda x: abs(x) <= near) | st.sampled_from([0.0, -0.0, near, -near, 1.0])
    return st.integers(1, 5).flatmap(
        lambda width: st.lists(st.lists(number, min_size=width, max_size=width), max_size=12).map(
            lambda rows: np.array(rows, np.float32).reshape(-1, width)
        )
    )


@pytest.mark.parametrize("logical", LOGICAL)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_lossy2x_survives_any_finite_states(logical: str, data: st.DataObject) -> None:
    rows = bfloat16.encode(data.draw(finite_rows(logical)), logical)
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        _, report = record(folder, rows, logical, "lossy2x", 5)
        ours = bfloat16.decode(read(folder, rows.shape, logical, "lossy2x"))
    assert np.isfinite(ours).all()
    assert report.keys() == {"standardised_relative_error", "cosine_mean", "cosine_min"}
    assert all(math.isfinite(figure) for figure in report.values())
    assert -1 <= report["cosine_min"] <= report["cosine_mean"] <= 1


def test_report_without_positions_and_of_zero_vectors(tmp_path: Path) -> None:
    _, report = record(tmp_path, np.empty((0, 4), np.float32), "float32", "lossy2x")
    assert report == {"standardised_relative_error": 0, "cosine_mean": 1, "cosine_min": 1}
    zero, one = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    sums = ErrorSums(np.concatenate([zero, one]))
    sums.add(zero, zero)
    assert sums.report()["cosine_min"] == 1
    sums.add(one, zero)
    assert sums.report() == {
        "standardised_relative_error": 1,
        "cosine_mean": 0.5,
        "cosine_min": 0,
    }


@pytest.mark.parametrize("logical", LOGICAL)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_lossy2x_refuses_what_is_not_finite(tmp_path: Path, logical: str, bad: float) -> None:
    rows = bfloat16.encode(np.array([[0.0, 1.0, bad]], np.float32), logical)
    writer = open_states_writer(tmp_path, LAYER, 3, logical, "lossy2x")
    with pytest.raises(TapeError, match="finite"):
        writer.append(rows)
    writer.abort()


def test_lossy2x_refuses_what_float32_cannot_standardise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states_lossy2x, "_FIT_ROWS", (2, 2))
    writer = open_states_writer(tmp_path, LAYER, 1, "float32", "lossy2x")
    writer.append(np.array([[0], [1e-20]], np.float32))
    with pytest.raises(TapeError, match="too far"):
        writer.append(np.array([[1e30]], np.float32))
    writer.abort()
