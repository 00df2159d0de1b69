"""Profiles of layer states: exact or bounded, read by other Zarr readers, refused when damaged."""

from __future__ import annotations

import json
import math
import struct
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema.codecs import bfloat16, states_lossy2x
from cache_schema.codecs.bfloat16 import STORED_DTYPES
from cache_schema.codecs.files import checksum
from cache_schema.codecs.states_int8 import ErrorSums
from cache_schema.codecs.states_profiles import (
    StatesReader,
    open_states_reader,
    open_states_writer,
)
from cache_schema.errors import TapeError
from cache_schema.signals import STATES_PROFILES as PROFILES

LAYER = "hidden.zarr/L012"
EXACT = ("hot", "archive")
LOGICAL = tuple(STORED_DTYPES)


def record(
    folder: Path, rows: np.ndarray, logical: str, profile: str, step: int = 999
) -> tuple[dict[str, Any], dict[str, float]]:
    writer = open_states_writer(folder, LAYER, rows.shape[1], logical, profile)
    for start in range(0, len(rows), step):
        writer.append(rows[start : start + step])
    assert writer.num_rows == len(rows)
    return writer.close()


def opened(folder: Path, shape: tuple[int, int], logical: str, profile: str) -> StatesReader:
    return open_states_reader(folder.joinpath, LAYER, profile, *shape, logical)


def read(folder: Path, shape: tuple[int, int], logical: str, profile: str) -> np.ndarray:
    reader = opened(folder, shape, logical, profile)
    out = np.empty(shape, STORED_DTYPES[logical])
    reader.read_into(0, out)
    reader.close()
    return out


def synthetic(num_rows: int, width: int, logical: str, seed: int = 0) -> np.ndarray:
    """States as a language model has them: unequal channels, means, a few 50-100 times larger."""
    rng = np.random.default_rng(seed)
    std = np.exp(rng.normal(0, 0.4, width))
    mean = rng.normal(0, 0.3, width) * std
    outliers = rng.choice(width, max(1, width // 256), replace=False)
    std[outliers] *= rng.uniform(10, 20, len(outliers))
    mean[outliers] = rng.choice([-1, 1], len(outliers)) * rng.uniform(50, 100, len(outliers))
    values = mean + std * rng.standard_normal((num_rows, width), dtype=np.float32)
    return bfloat16.encode(values.astype(np.float32), logical)


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


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


# --- hostile files -------------------------------------------------------------------------------

SHAPE = (600, 512)  # three chunks of archive
Change = Callable[[dict[str, Any]], object]


def sharding(metadata: dict[str, Any]) -> dict[str, Any]:
    return metadata["codecs"][0]["configuration"]


BAD_METADATA: dict[str, Change] = {
    "huge shape": lambda m: m.update(shape=[2**60, SHAPE[1]]),
    "negative shape": lambda m: m.update(shape=[-1, SHAPE[1]]),
    "other width": lambda m: m.update(shape=[SHAPE[0], 511]),
    "text as shape": lambda m: m.update(shape=["600", "512"]),
    "three axes": lambda m: m.update(shape=[*SHAPE, 1]),
    "no rows a chunk": lambda m: sharding(m).update(chunk_shape=[0, SHAPE[1]]),
    "negative rows a chunk": lambda m: sharding(m).update(chunk_shape=[-4, SHAPE[1]]),
    "huge rows a chunk": lambda m: sharding(m).update(chunk_shape=[2**62, SHAPE[1]]),
    "large rows a chunk": lambda m: sharding(m).update(chunk_shape=[2**14, SHAPE[1]]),
    "true rows a chunk": lambda m: sharding(m).update(chunk_shape=[True, SHAPE[1]]),
    "float rows a chunk": lambda m: sharding(m).update(chunk_shape=[256.0, SHAPE[1]]),
    "text as rows a chunk": lambda m: sharding(m).update(chunk_shape=["256", SHAPE[1]]),
    "one row a chunk": lambda m: sharding(m).update(chunk_shape=[1, SHAPE[1]]),
    "no chunk shape": lambda m: sharding(m).pop("chunk_shape"),
    "narrow chunks": lambda m: sharding(m).update(chunk_shape=[256, 1]),
    "huge outer chunk": lambda m: m["chunk_grid"].update(configuration={"chunk_shape": [2**60, 1]}),
    "irregular grid": lambda m: m["chunk_grid"].update(name="rectangular"),
    "no codecs": lambda m: m.update(codecs=[]),
    "codecs no list": lambda m: m.update(codecs="gzip"),
    "unknown codec": lambda m: sharding(m)["codecs"].append({"name": "rot13"}),
    "big endian": lambda m: sharding(m)["codecs"][0]["configuration"].update(endian="big"),
    "index without checksum": lambda m: sharding(m)["index_codecs"].pop(),
    "index at the start": lambda m: sharding(m).update(index_location="start"),
    "fill value": lambda m: m.update(fill_value=7),
    "NaN as fill value": lambda m: m.update(fill_value=math.nan),
    "other type": lambda m: m.update(data_type="int64"),
    "version 2": lambda m: m.update(zarr_format=2),
    "a group": lambda m: m.update(node_type="group"),
    "no attributes": lambda m: m.pop("attributes"),
    "attributes no object": lambda m: m.update(attributes=[]),
    "other logical type": lambda m: m.update(attributes={"logical_dtype": "int4"}),
    "unknown key": lambda m: m.update(storage_transformers=[{"name": "x"}]),
    "deep": lambda m: m.update(attributes=json.loads("[" * 90 + "]" * 90)),
    "large": lambda m: m.update(attributes={"x": "y" * (1 << 16)}),
    "long": lambda m: m.update(dimension_names=["y" * 60_000]),
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for profile in PROFILES:
        made[profile] = tmp_path_factory.mktemp(profile)
        record(made[profile], synthetic(*SHAPE, "bfloat16"), "bfloat16", profile)
    return made


def copy_of(folder: Path, target: Path) -> Path:
    for path in folder.rglob("*"):
        if path.is_file():
            copied = target / path.relative_to(folder)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(path.read_bytes())
    return target


def arrays_of(profile: str) -> list[str]:
    return [LAYER, f"{LAYER}_scale", f"{LAYER}_channels"] if profile == "lossy2x" else [LAYER]


ARRAYS = [(profile, name) for profile in PROFILES for name in arrays_of(profile)]


@pytest.mark.parametrize(("profile", "name"), ARRAYS)
@pytest.mark.parametrize("change", BAD_METADATA.values(), ids=BAD_METADATA.keys())
def test_other_metadata_is_refused(
    tmp_path: Path, pristine: dict[str, Path], profile: str, name: str, change: Change
) -> None:
    folder = copy_of(pristine[profile], tmp_path)
    path = folder / name / "zarr.json"
    metadata = json.loads(path.read_bytes())
    change(metadata)
    path.write_text(json.dumps(metadata))
    with pytest.raises(TapeError, match=r"(zarr\.json|c/0|c/0/0): ") as raised:
        read(folder, SHAPE, "bfloat16", profile)
    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 60_000, b"9" * 5000, b'{"codecs": 1}'],
    ids=["empty", "cut", "list", "null", "binary", "deep", "long number", "number"],
)
def test_what_is_no_metadata_is_refused(
    tmp_path: Path, pristine: dict[str, Path], profile: str, content: bytes
) -> None:
    folder = copy_of(pristine[profile], tmp_path)
    (folder / LAYER / "zarr.json").write_bytes(content)
    with pytest.raises(TapeError, match=r"zarr\.json: "):
        read(folder, SHAPE, "bfloat16", profile)


def reindexed(content: bytes, change: Callable[[np.ndarray], object]) -> bytes:
    """Change the index of three (offset, bytes), under a checksum that is right again."""
    index = np.frombuffer(content[-52:-4], "<u8").reshape(3, 2).copy()
    change(index)
    encoded = index.tobytes()
    return content[:-52] + encoded + google_crc32c.value(encoded).to_bytes(4, "little")


def rechunked(content: bytes, change: Callable[[bytearray], object]) -> bytes:
    """Change the first chunk of archive data, under a checksum that is right again."""
    length = int.from_bytes(content[-44:-36], "little")
    chunk = bytearray(content[: length - 4])
    change(chunk)
    crc = google_crc32c.value(bytes(chunk)).to_bytes(4, "little")
    return bytes(chunk) + crc + content[length:]


def put(offset: int, form: str, *values: int) -> Callable[[bytearray], object]:
    return lambda chunk: struct.pack_into(form, chunk, offset, *values)


MISSING = 2**64 - 1
BAD_ARCHIVES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda c: b"",
    "index cut": lambda c: c[-50:],
    "front cut": lambda c: c[1:],
    "end cut": lambda c: c[:-1],
    "longer": lambda c: b"\0" + c,
    "index checksum": lambda c: c[:-1] + bytes([c[-1] ^ 1]),
    "missing chunk": lambda c: reindexed(c, lambda i: i[1].fill(MISSING)),
    "offset beyond": lambda c: reindexed(c, lambda i: i[2, :1].fill(2**63)),
    "length beyond": lambda c: reindexed(c, lambda i: i[2, 1:].fill(2**63)),
    "length wraps": lambda c: reindexed(c, lambda i: i[1, 1:].fill(2**64 - 5)),
    "length 0": lambda c: reindexed(c, lambda i: i[1, 1:].fill(0)),
    "overlapping": lambda c: reindexed(c, lambda i: i[1].__setitem__(slice(None), i[0])),
    "backwards": lambda c: reindexed(c, lambda i: i.__setitem__(slice(None), i[::-1].copy())),
    "hole": lambda c: reindexed(c, lambda i: i[0, 1:].__isub__(np.uint64(1))),
    "chunk checksum": lambda c: bytes([c[0] ^ 1]) + c[1:],
    "unpacks to 4 GiB": lambda c: rechunked(c, put(4, "<I", 2**32 - 1)),
    "unpacks to 0": lambda c: rechunked(c, put(4, "<I", 0)),
    "unpacks to less": lambda c: rechunked(c, put(4, "<I", 256 * 1024 - 2)),
    "block of 2 GiB": lambda c: rechunked(c, put(8, "<I", 2**31 - 1)),
    "block of 0": lambda c: rechunked(c, put(8, "<I", 0)),
    "blocks of 1": lambda c: rechunked(c, put(8, "<I", 1)),
    "packed 4 GiB": lambda c: rechunked(c, put(12, "<I", 2**32 - 1)),
    "packed 0": lambda c: rechunked(c, put(12, "<I", 0)),
    "element of 0": lambda c: rechunked(c, put(3, "<B", 0)),
    "other blosc": lambda c: rechunked(c, put(0, "<B", 3)),
    "not packed": lambda c: rechunked(c, put(2, "<B", 0x93)),
    "unknown packer": lambda c: rechunked(c, put(2, "<B", 0xF1)),
    "block beyond": lambda c: rechunked(c, put(16, "<I", 2**31 - 1)),
    "block before": lambda c: rechunked(c, put(16, "<i", -5)),
    "stream of 2 GiB": lambda c: rechunked(c, put(20, "<I", 2**31 - 1)),
    "zeros": lambda c: rechunked(
        c, lambda chunk: chunk.__setitem__(slice(16, None), bytes(len(chunk) - 16))
    ),
}


@pytest.mark.parametrize("change", BAD_ARCHIVES.values(), ids=BAD_ARCHIVES.keys())
def test_a_damaged_archive_is_refused(
    tmp_path: Path, pristine: dict[str, Path], change: Callable[[bytes], bytes]
) -> None:
    folder = copy_of(pristine["archive"], tmp_path)
    path = folder / LAYER / "c/0/0"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(TapeError, match="c/0/0: "):
        read(folder, SHAPE, "bfloat16", "archive")


@pytest.mark.parametrize(("profile", "name"), [a for a in ARRAYS if a[0] != "archive"])
@pytest.mark.parametrize(
    "change",
    [
        lambda c: b"",
        lambda c: c[1:],
        lambda c: c + b"\0",
        lambda c: c[:-1] + bytes([c[-1] ^ 1]),
        lambda c: c[:-20] + bytes([c[-20] ^ 1]) + c[-19:],
        lambda c: c[:-20] + b"\xff" * 16 + google_crc32c.value(b"\xff" * 16).to_bytes(4, "little"),
    ],
    ids=["empty", "shorter", "longer", "checksum", "index", "missing chunk"],
)
def test_damaged_contiguous_rows_are_refused(
    tmp_path: Path,
    pristine: dict[str, Path],
    profile: str,
    name: str,
    change: Callable[[bytes], bytes],
) -> None:
    folder = copy_of(pristine[profile], tmp_path)
    path = next((folder / name / "c").rglob("0")) if name.endswith("_scale") else None
    path = path or folder / name / "c/0/0"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(TapeError, match="c/0"):
        read(folder, SHAPE, "bfloat16", profile)


@pytest.mark.parametrize(
    ("file", "number"),
    [
        ("_scale/c/0", math.nan),
        ("_scale/c/0", math.inf),
        ("_scale/c/0", -1),
        ("_channels/c/0/0", math.nan),
        ("_channels/c/0/0", -math.inf),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    tmp_path: Path, pristine: dict[str, Path], file: str, number: float
) -> None:
    folder = copy_of(pristine["lossy2x"], tmp_path)
    path = folder / (LAYER + file)
    path.write_bytes(struct.pack("<f", number) + path.read_bytes()[4:])
    with pytest.raises(TapeError, match=LAYER):
        opened(folder, SHAPE, "bfloat16", "lossy2x")


def test_deviations_must_be_above_zero(tmp_path: Path, pristine: dict[str, Path]) -> None:
    folder = copy_of(pristine["lossy2x"], tmp_path)
    path = folder / f"{LAYER}_channels/c/0/0"
    content = path.read_bytes()
    path.write_bytes(content[: 4 * SHAPE[1]] + bytes(4) + content[4 * SHAPE[1] + 4 :])
    with pytest.raises(TapeError, match="deviations"):
        opened(folder, SHAPE, "bfloat16", "lossy2x")


@pytest.mark.filterwarnings("error")
def test_decoding_any_numbers_stays_finite(tmp_path: Path, pristine: dict[str, Path]) -> None:
    folder = copy_of(pristine["lossy2x"], tmp_path)
    path = folder / f"{LAYER}_scale/c/0"
    path.write_bytes(struct.pack("<f", 3e38) * SHAPE[0] + path.read_bytes()[4 * SHAPE[0] :])
    path = folder / LAYER / "c/0/0"
    path.write_bytes(b"\x80" * SHAPE[1] + path.read_bytes()[SHAPE[1] :])
    assert np.isfinite(bfloat16.decode(read(folder, SHAPE, "bfloat16", "lossy2x"))).all()


def flipped(content: bytes) -> Iterator[tuple[int, bytes]]:
    offsets = sorted(
        {*range(64), *range(len(content) - 64, len(content)), *range(0, len(content), 1511)}
    )
    for offset in offsets:
        for flip in (0x01, 0x80, 0xFF):
            yield offset, content[:offset] + bytes([content[offset] ^ flip]) + content[offset + 1 :]


def test_no_flipped_byte_of_an_archive_gets_through(
    tmp_path: Path, pristine: dict[str, Path]
) -> None:
    folder = copy_of(pristine["archive"], tmp_path)
    path = folder / LAYER / "c/0/0"
    for _, content in flipped(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(TapeError):
            read(folder, SHAPE, "bfloat16", "archive")


def test_hostile_streams_under_a_right_checksum_do_no_harm(
    tmp_path: Path, pristine: dict[str, Path]
) -> None:
    folder = copy_of(pristine["archive"], tmp_path)
    path = folder / LAYER / "c/0/0"
    rng = np.random.default_rng(0)
    whole = path.read_bytes()
    length = int.from_bytes(whole[-44:-36], "little") - 4
    for offset in [*range(64), *rng.integers(64, length, 300).tolist()]:
        flip = int(rng.integers(1, 256))
        path.write_bytes(rechunked(whole, lambda c, o=offset, f=flip: c.__setitem__(o, c[o] ^ f)))
        try:
            out = read(folder, SHAPE, "bfloat16", "archive")
        except TapeError:
            continue
        assert out.shape == SHAPE  # other values, which the manifest's checksum tells


@pytest.mark.parametrize("profile", PROFILES)
def test_a_file_cut_while_open_is_an_error(
    tmp_path: Path, pristine: dict[str, Path], profile: str
) -> None:
    folder = copy_of(pristine[profile], tmp_path)
    reader = opened(folder, SHAPE, "bfloat16", profile)
    path = folder / LAYER / "c/0/0"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TapeError, match=r"too early|greater than file"):
        reader.read_into(0, np.empty(SHAPE, np.uint16))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("num_rows", "width", "logical"),
    [
        (2**60, 512, "bfloat16"),
        (-1, 512, "bfloat16"),
        ("600", 512, "bfloat16"),
        (600.0, 512, "bfloat16"),
        (601, 512, "bfloat16"),
        (600, 0, "bfloat16"),
        (600, 2**40, "bfloat16"),
        (600, None, "bfloat16"),
        (600, True, "bfloat16"),
        (600, 512, "float16"),
        (600, 512, "float32"),
        (600, 512, "int8"),
        (600, 512, ["bfloat16"]),
    ],
)
def test_a_manifest_that_disagrees_is_refused(
    pristine: dict[str, Path], profile: str, num_rows: Any, width: Any, logical: Any
) -> None:
    with pytest.raises(TapeError, match="expected"):
        open_states_reader(pristine[profile].joinpath, LAYER, profile, num_rows, width, logical)


@pytest.mark.parametrize("profile", PROFILES)
def test_absent_and_odd_files_are_named(
    tmp_path: Path, pristine: dict[str, Path], profile: str
) -> None:
    with pytest.raises(TapeError, match="cannot be opened"):
        opened(tmp_path, SHAPE, "bfloat16", profile)
    folder = copy_of(pristine[profile], tmp_path)
    (folder / LAYER / "c/0/0").unlink()
    (folder / LAYER / "c/0/0").mkdir()
    with pytest.raises(TapeError, match="regular file"):
        opened(folder, SHAPE, "bfloat16", profile)
    with pytest.raises(TapeError, match="profile 'warm', expected"):
        open_states_writer(tmp_path, "L1", 4, "float32", "warm")
