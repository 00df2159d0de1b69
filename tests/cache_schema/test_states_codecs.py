"""Exact profiles of layer states: every bit comes back, to other Zarr readers too."""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from states_files import EXACT, LAYER, LOGICAL, bits, opened, read, record, synthetic

from cache_schema.codecs import bfloat16
from cache_schema.codecs.bfloat16 import STORED_DTYPES
from cache_schema.codecs.files import checksum
from cache_schema.codecs.states_profiles import open_states_writer
from cache_schema.errors import TapeError
from cache_schema.signals import STATES_PROFILES as PROFILES


@st.composite
def layers(draw: st.DrawFn) -> tuple[np.ndarray, str, list[int]]:
    logical = draw(st.sampled_from(LOGICAL))
    width = draw(st.sampled_from([1, 2, 3, 64, 160, 1000, 2048, 4096]) | st.integers(1, 300))
    appends = draw(st.lists(st.integers(0, max(2, 60_000 // width)), max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    stored = STORED_DTYPES[logical]
    noise = rng.bytes(sum(appends) * width * stored.itemsize)  # NaN payloads, infinities, all of it
    rows = np.frombuffer(noise, stored).reshape(-1, width)
    if draw(st.booleans()):
        rows = (np.frombuffer(noise, np.uint8)[: rows.size] & 3).astype(stored).reshape(rows.shape)
    return rows, logical, appends


@pytest.mark.parametrize("profile", EXACT)
@settings(max_examples=40, deadline=None)
@given(layers(), st.data())
def test_exact_profiles_give_every_bit_back(
    profile: str, layer: tuple[np.ndarray, str, list[int]], data: st.DataObject
) -> None:
    rows, logical, appends = layer
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        writer = open_states_writer(folder, LAYER, rows.shape[1], logical, profile)
        at = 0
        for count in appends:
            writer.append(rows[at : at + count])
            at += count
        files, report = writer.close()
        assert report == {}
        for name, entry in files.items():
            path = folder / name
            assert entry == {"bytes": path.stat().st_size, "xxh3_128": checksum(path)}
        reader = opened(folder, rows.shape, logical, profile)
        for _ in range(4):
            start = data.draw(st.integers(0, len(rows)))
            stop = data.draw(st.integers(start, len(rows)))
            out = np.empty((stop - start, rows.shape[1]), rows.dtype)
            reader.read_into(start, out)
            assert bits(out) == bits(rows[start:stop])
        for start, count in ((0, len(rows) + 1), (-1, 1), (len(rows), 1), (2**63, 1)):
            with pytest.raises(TapeError, match="rows"):
                reader.read_into(start, np.empty((count, rows.shape[1]), rows.dtype))
        reader.close()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("logical", LOGICAL)
@pytest.mark.parametrize(("num_rows", "width"), [(0, 64), (1, 1), (7, 160), (3000, 160), (9, 4096)])
def test_other_readers_read_every_array(
    tmp_path: Path, profile: str, logical: str, num_rows: int, width: int
) -> None:
    rows = synthetic(num_rows, width, logical)
    files, _ = record(tmp_path, rows, logical, profile)
    arrays = {}
    for layer_dir in sorted({name.partition("/c/")[0] for name in files if "/c/" in name}):
        with_zarr = zarr.open_array(tmp_path / layer_dir, mode="r")
        assert with_zarr.attrs["logical_dtype"] == logical
        arrays[layer_dir.removeprefix(LAYER)] = values = np.asarray(with_zarr[:])
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(tmp_path / layer_dir)},
            "fill_missing_data_reads": False,
        }
        store = tensorstore.open(spec, open=True).result()
        assert store.shape == values.shape
        if values.size:
            assert bits(store.read().result()) == bits(values)
    ours = read(tmp_path, rows.shape, logical, profile)
    if profile in EXACT:
        assert arrays.keys() == {""}
        assert bits(arrays[""]) == bits(rows) == bits(ours)
        return
    assert arrays.keys() == {"", "_scale", "_channels"}
    mean, std = arrays["_channels"].astype(np.float64)
    exact = mean + std * arrays["_scale"][:, None].astype(np.float64) * arrays[""]
    half_ulp = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-23}[logical]
    slack = 1e-6 * (np.abs(exact) + np.abs(mean))
    assert (np.abs(bfloat16.decode(ours) - exact) <= half_ulp * np.abs(exact) + slack).all()


@pytest.mark.parametrize("num_rows", [1, 1000, 3000])
def test_hot_bytes_are_those_zarr_python_writes(tmp_path: Path, num_rows: int) -> None:
    rows = synthetic(num_rows, 160, "float16")
    record(tmp_path, rows, "float16", "hot")
    metadata = json.loads((tmp_path / LAYER / "zarr.json").read_bytes())
    theirs = zarr.create_array(
        store=tmp_path / "theirs",
        shape=rows.shape,
        dtype=rows.dtype,
        chunks=tuple(metadata["codecs"][0]["configuration"]["chunk_shape"]),
        shards=tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"]),
        compressors=None,
        config={"write_empty_chunks": True},
    )
    theirs[:] = rows
    assert (tmp_path / "theirs/c/0/0").read_bytes() == (tmp_path / LAYER / "c/0/0").read_bytes()


@pytest.mark.parametrize("profile", PROFILES)
def test_appends_leave_no_trace(tmp_path: Path, profile: str) -> None:
    rows = synthetic(5000, 64, "bfloat16")
    found = [
        record(tmp_path / str(step), rows, "bfloat16", profile, step)[0] for step in (1, 777, 5000)
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("profile", PROFILES)
def test_threads_read_one_layer_at_once(tmp_path: Path, profile: str) -> None:
    rows = synthetic(4000, 256, "bfloat16")
    record(tmp_path, rows, "bfloat16", profile)
    whole = read(tmp_path, rows.shape, "bfloat16", profile)
    reader = opened(tmp_path, rows.shape, "bfloat16", profile)

    def read_part(start: int) -> bool:
        ring = np.zeros((1000, 256), np.uint16)
        reader.read_into(start, ring[100:900])
        return bits(ring[100:900]) == bits(whole[start : start + 800]) and not ring[:100].any()

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read_part, range(0, 3200, 37)))
    reader.close()
    with pytest.raises(TapeError):
        reader.read_into(0, np.empty((1, 256), np.uint16))
