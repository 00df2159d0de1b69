"""Codecs: exact where they say exact, bounded where they say bounded."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cache_schema.codecs import bfloat16
from cache_schema.codecs.pcm import decode_audio, encode_audio

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
