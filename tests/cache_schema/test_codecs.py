"""Codecs: exact where they say exact, bounded where they say bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorstore
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cache_schema.codecs import bfloat16
from cache_schema.codecs.pcm import decode_audio, encode_audio
from cache_schema.codecs.zarr_rows import ZarrRowsWriter, map_rows
from cache_schema.errors import TapeError

ANY_FLOAT32 = hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))


@given(ANY_FLOAT32)
def test_bfloat16_rounds_as_torch_does(values: np.ndarray) -> None:
    ours = bfloat16.to_float32(bfloat16.from_float32(values))
    theirs = torch.from_numpy(values.copy()).bfloat16().float().numpy()
    np.testing.assert_array_equal(ours, theirs)


@given(hnp.arrays(np.uint16, 20, elements=st.integers(0, 65535)))
def test_bfloat16_bits_survive(words: np.ndarray) -> None:
    wide = bfloat16.to_float32(words)
    finite = np.isfinite(wide)
    np.testing.assert_array_equal(bfloat16.from_float32(wide)[finite], words[finite])


@given(
    hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-4, 4, width=32))
    | hnp.arrays(np.int16, st.integers(1, 50)).map(lambda a: a.astype(np.float32) / 32768)
)
def test_audio_is_lossless(audio: np.ndarray) -> None:
    data, dtype = encode_audio(audio)
    np.testing.assert_array_equal(decode_audio(data, dtype), audio)


def test_sixteen_bit_audio_takes_two_bytes() -> None:
    audio = np.array([-1.0, 0.5, 32767 / 32768], dtype=np.float32)
    data, dtype = encode_audio(audio)
    assert (len(data), dtype) == (6, "int16")


@pytest.mark.parametrize("logical", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("num_rows", [0, 1, 7, 5000])
def test_streamed_shard_is_what_other_zarr_readers_read(
    tmp_path: Path, logical: str, num_rows: int
) -> None:
    rng = np.random.default_rng(num_rows)
    rows = bfloat16.encode(rng.normal(size=(num_rows, 160)).astype(np.float32), logical)
    writer = ZarrRowsWriter(tmp_path / "L001", 160, logical)
    for start in range(0, num_rows, 999):
        writer.append(rows[start : start + 999])
    writer.close()
    mapped = map_rows(tmp_path / "L001/zarr.json", tmp_path / "L001/c/0/0")
    np.testing.assert_array_equal(mapped, rows)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "L001", mode="r")[:], rows)
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(tmp_path / "L001")},
        "fill_missing_data_reads": False,
    }
    opened = tensorstore.open(spec, open=True).result()
    if num_rows:
        np.testing.assert_array_equal(opened.read().result(), rows)


def test_a_shard_with_a_hole_is_refused(tmp_path: Path) -> None:
    writer = ZarrRowsWriter(tmp_path / "L001", 4, "float32")
    writer.append(np.ones((3, 4), np.float32))
    writer.close()
    file = tmp_path / "L001/c/0/0"
    content = bytearray(file.read_bytes())
    content[-20:-12] = b"\xff" * 8
    file.write_bytes(content)
    with pytest.raises(TapeError, match="not contiguous"):
        map_rows(tmp_path / "L001/zarr.json", file)
