"""Encoder-only text models: their states against transformers', in batches of every size."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_reading import read, textual
from safetensors.torch import load_file, save_file
from tiny_encoders import MAX_POSITIONS, NUM_LAYERS, WIDTH, save_encoder
from transformers import AutoModel

from cache_schema.codecs import bfloat16
from cache_schema.errors import ModelError, UsageError
from pipeline.teachers import hf_encoder
from pipeline.teachers.hf_encoder import HfEncoder

# transformers compiles a part of DeBERTa with torch.jit.script while it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

ALL_LAYERS = tuple(range(NUM_LAYERS + 1))
TEXTS = ("one two", "a voice speaks slowly and gladly : one two three plus four", "three")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "deberta"])
def test_states_are_those_of_transformers(saved_encoder: Any, family: str, dtype: str) -> None:
    path = saved_encoder(family)
    encoder = HfEncoder(textual(path, dtype))
    plain = AutoModel.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
    for text in TEXTS:
        ids = encoder.encode(text)
        (states,) = read(encoder, [ids], ALL_LAYERS)
        with torch.inference_mode():
            output = plain(input_ids=torch.from_numpy(ids[None]), output_hidden_states=True)
        expected = [layer[0].float().numpy() for layer in output.hidden_states]
        # The same kernels on the same shapes: not one bit differs.
        for layer in ALL_LAYERS[:-1]:
            np.testing.assert_array_equal(bfloat16.decode(states[layer]), expected[layer])
        last = bfloat16.decode(states[NUM_LAYERS])
        if family == "modernbert":
            assert not np.array_equal(last, expected[-1])
            with torch.inference_mode():
                normed = plain.final_norm(torch.from_numpy(last).to(plain.dtype))
            last = normed.float().numpy()
        np.testing.assert_array_equal(last, expected[-1])
        assert states[0].dtype == (np.uint16 if dtype == "bfloat16" else np.float32)
        assert states[0].shape == (len(ids), WIDTH)


@pytest.mark.parametrize(
    ("family", "dtype", "tolerance"),
    [
        *((name, "float32", 1e-5) for name in ("bert", "roberta", "modernbert", "deberta", "fnet")),
        *((name, "bfloat16", 0.06) for name in ("bert", "roberta", "modernbert", "deberta")),
    ],
)
def test_batched_equals_single(
    saved_encoder: Any, family: str, dtype: str, tolerance: float
) -> None:
    encoder = HfEncoder(textual(saved_encoder(family), dtype))
    rows = [encoder.encode(text) for text in (*TEXTS, "two")]
    for row, together in zip(rows, read(encoder, rows, ALL_LAYERS), strict=True):
        (alone,) = read(encoder, [row], ALL_LAYERS)
        for layer in ALL_LAYERS:
            one, other = bfloat16.decode(alone[layer]), bfloat16.decode(together[layer])
            # Kernels round otherwise at another shape: a few units in the last place of the
            # largest state, 2^-23 or 2^-8, carried through three blocks.
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(one).max())


def test_a_family_that_sees_padding_is_read_at_equal_lengths(
    saved_encoder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = HfEncoder(textual(saved_encoder("fnet")))
    assert "looks at padding" in capsys.readouterr().err
    sizes = batch_sizes(encoder)
    read(encoder, [encoder.encode(text) for text in ("one", "two", "one two", "three")], [1])
    assert sizes == [3, 1]


def test_a_dtype_the_model_cannot_compute_in(saved_encoder: Any) -> None:
    with pytest.raises(ModelError, match=r"cannot compute in bfloat16.*textual.dtype=float32"):
        HfEncoder(textual(saved_encoder("fnet"), "bfloat16"))


def batch_sizes(encoder: HfEncoder, most: int = 1000) -> list[int]:
    """Note the size of each forward pass that has memory for at most so many rows."""
    sizes: list[int] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("no memory")

    encoder._model.register_forward_pre_hook(note, with_kwargs=True)
    return sizes


def test_batches_hold_so_many_tokens(saved_encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = HfEncoder(textual(saved_encoder("bert")))
    rows = [encoder.encode(text) for text in ("one", "two two two", "one two")]
    monkeypatch.setattr(hf_encoder, "BATCH_TOKENS", 8)
    sizes = batch_sizes(encoder)
    states_of = read(encoder, rows, [1])
    assert sizes == [2, 1]
    assert [len(states[1]) for states in states_of] == [3, 5, 4], "in the order given"


def test_memory_runs_out(saved_encoder: Any, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = HfEncoder(textual(saved_encoder("bert")))
    rows = [encoder.encode(text) for text in TEXTS]
    whole = read(encoder, rows, [2])
    sizes = batch_sizes(encoder, most=1)
    halved = read(encoder, rows, [2])
    assert sizes == [3, 1, 2, 1, 1]
    assert "out of memory with 3 descriptions a batch, halving" in capsys.readouterr().err
    for one, other in zip(whole, halved, strict=True):
        np.testing.assert_allclose(one[2], other[2], atol=1e-5)
    batch_sizes(encoder, most=0)
    assert read(encoder, rows[:2], [2]) == [None, None]


def test_one_forward_pass_is_held_at_a_time(
    saved_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a text is read, the states of the pass before are gone."""
    encoder = HfEncoder(textual(saved_encoder("bert")))
    rows = [encoder.encode(text) for text in TEXTS]
    monkeypatch.setattr(hf_encoder, "BATCH_TOKENS", 1)
    sizes = batch_sizes(encoder)
    held: list[weakref.ref[Any]] = []
    for passes, (_, states) in enumerate(encoder.read(rows, ALL_LAYERS), 1):
        assert states is not None
        assert len(sizes) == passes, "no pass was run ahead"
        assert [one() for one in held] == [None] * len(held)
        held = [weakref.ref(array.base) for array in states.values() if array.base is not None]
        assert len(held) == len(ALL_LAYERS)
        del states


def test_what_it_takes_and_is(saved_encoder: Any) -> None:
    bert, roberta = (HfEncoder(textual(saved_encoder(name))) for name in ("bert", "roberta"))
    assert bert.max_tokens == MAX_POSITIONS
    assert roberta.max_tokens == MAX_POSITIONS - 1, "positions begin after the one of padding"
    read(bert, [np.full(bert.max_tokens, 7)], [3])
    roberta.read([np.full(roberta.max_tokens, 7)], [3])
    assert len(bert.encode(" ")) == 0
    assert bert.encode("one").tolist() == [1, 8, 2]
    about = bert.describe()
    assert (about["engine"], about["num_layers"], about["width"]) == ("encoder", NUM_LAYERS, WIDTH)
    assert about["model_digest"].startswith("sha256:")
    with pytest.raises(ModelError, match=f"the model takes 1 to {MAX_POSITIONS} tokens"):
        HfEncoder(textual(saved_encoder("bert"), max_model_len=MAX_POSITIONS + 1))
    with pytest.raises(UsageError, match="layers 0 to 3"):
        read(bert, [bert.encode("one")], [4])


def test_missing_weights_are_not_made_up(saved_encoder: Any, tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "cut", "bert")
    weights = load_file(path / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 weights, such as encoder.layer.1.output"):
        HfEncoder(textual(path))
