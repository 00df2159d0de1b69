"""Encoder-only text models: their states against transformers', and on the tape."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from sound_tape import uncounted
from tiny_audio_lm import save_omni
from tiny_encoders import MAX_POSITIONS, NUM_LAYERS, WIDTH, save_encoder
from tiny_stage_one import save_text_teacher
from transformers import AutoModel

from cache_schema import open_tape
from cache_schema.codecs import bfloat16
from cache_schema.errors import ModelError, QuarantineError, UsageError
from cache_schema.validate import validate
from pipeline.acoustic_recipe import AcousticRecipe
from pipeline.costs.weigh import work_of
from pipeline.extract import check, run_step
from pipeline.recipe import DatasetRecipe, ExtractRecipe, FailureRecipe, TapeRecipe
from pipeline.teachers import hf_encoder
from pipeline.teachers.hf_encoder import HfEncoder
from pipeline.textual_recipe import TextualRecipe

# transformers compiles a part of DeBERTa with torch.jit.script while it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

ALL_LAYERS = tuple(range(NUM_LAYERS + 1))
TEXTS = ("one two", "a voice speaks slowly and gladly : one two three plus four", "three")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("encoders")

    def save(family: str) -> Path:
        path = folder / family
        return path if path.exists() else save_encoder(path, family)

    return save


def read(encoder: HfEncoder, rows: Sequence[Any], layers: Sequence[int]) -> list[Any]:
    """Read texts; return their states in the order given."""
    found = dict(encoder.read(rows, layers))
    return [found[number] for number in range(len(rows))]


def textual(path: Path, dtype: str = "float32", **settings: Any) -> TextualRecipe:
    return TextualRecipe(teacher=str(path), engine="encoder", dtype=dtype, **settings)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "deberta"])
def test_states_are_those_of_transformers(saved: Any, family: str, dtype: str) -> None:
    path = saved(family)
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
def test_batched_equals_single(saved: Any, family: str, dtype: str, tolerance: float) -> None:
    encoder = HfEncoder(textual(saved(family), dtype))
    rows = [encoder.encode(text) for text in (*TEXTS, "two")]
    for row, together in zip(rows, read(encoder, rows, ALL_LAYERS), strict=True):
        (alone,) = read(encoder, [row], ALL_LAYERS)
        for layer in ALL_LAYERS:
            one, other = bfloat16.decode(alone[layer]), bfloat16.decode(together[layer])
            # Kernels round otherwise at another shape: a few units in the last place of the
            # largest state, 2^-23 or 2^-8, carried through three blocks.
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(one).max())


def test_a_family_that_sees_padding_is_read_at_equal_lengths(
    saved: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = HfEncoder(textual(saved("fnet")))
    assert "looks at padding" in capsys.readouterr().err
    sizes = batch_sizes(encoder)
    read(encoder, [encoder.encode(text) for text in ("one", "two", "one two", "three")], [1])
    assert sizes == [3, 1]


def test_a_dtype_the_model_cannot_compute_in(saved: Any) -> None:
    with pytest.raises(ModelError, match=r"cannot compute in bfloat16.*textual.dtype=float32"):
        HfEncoder(textual(saved("fnet"), "bfloat16"))


def batch_sizes(encoder: HfEncoder, most: int = 1000) -> list[int]:
    """Note the size of each forward pass that has memory for at most so many rows."""
    sizes: list[int] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("no memory")

    encoder._model.register_forward_pre_hook(note, with_kwargs=True)
    return sizes


def test_batches_hold_so_many_tokens(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = HfEncoder(textual(saved("bert")))
    rows = [encoder.encode(text) for text in ("one", "two two two", "one two")]
    monkeypatch.setattr(hf_encoder, "BATCH_TOKENS", 8)
    sizes = batch_sizes(encoder)
    states_of = read(encoder, rows, [1])
    assert sizes == [2, 1]
    assert [len(states[1]) for states in states_of] == [3, 5, 4], "in the order given"


def test_memory_runs_out(saved: Any, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = HfEncoder(textual(saved("bert")))
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


def test_one_description_that_does_not_fit_is_quarantined(
    saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_rows(tmp_path, ["one two", "two " * 9, "three"])
    teacher = textual(saved("bert"), layers="top")
    recipe = extraction(tmp_path, teacher, failures=FailureRecipe(max_fraction=0.5))
    run_step("ingest", recipe)
    run_step("textualize", recipe)
    whole = HfEncoder._read_batch

    def short_of_memory(self: HfEncoder, rows: Sequence[Any], layers: Sequence[int]) -> Any:
        if max(map(len, rows)) > 10 and len(layers) == 1:  # the check of padding reads them all
            raise torch.OutOfMemoryError("no memory")
        return whole(self, rows, layers)

    monkeypatch.setattr(HfEncoder, "_read_batch", short_of_memory)
    run_step("textual", recipe)
    tape = open_tape(tmp_path / "tape")
    assert tape.recorded("textual") == {"r0", "r2"}
    ((failed,)) = tape.quarantined
    told = (failed.sample_id, failed.reason, failed.detail)
    assert told == ("r1", "out of memory", "13 tokens do not fit, read alone")


def test_one_forward_pass_is_held_at_a_time(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a text is read, the states of the pass before are gone."""
    encoder = HfEncoder(textual(saved("bert")))
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


def test_what_it_takes_and_is(saved: Any) -> None:
    bert, roberta = (HfEncoder(textual(saved(name))) for name in ("bert", "roberta"))
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
        HfEncoder(textual(saved("bert"), max_model_len=MAX_POSITIONS + 1))
    with pytest.raises(UsageError, match="layers 0 to 3"):
        read(bert, [bert.encode("one")], [4])


def test_missing_weights_are_not_made_up(saved: Any, tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "cut", "bert")
    weights = load_file(path / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 weights, such as encoder.layer.1.output"):
        HfEncoder(textual(path))


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_an_encoder_writes_nothing(saved: Any, tmp_path: Path, engine: str) -> None:
    recipe = extraction(tmp_path, TextualRecipe(teacher=str(saved("bert")), engine=engine))
    for refuse in (lambda: check(recipe), lambda: run_step("textual", recipe)):
        with pytest.raises(ModelError, match=r"BertForMaskedLM.* use --engine encoder"):
            refuse()


def test_settings_of_traces_are_refused(saved: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"textual.max_new_tokens = 64: means nothing"):
        check(extraction(tmp_path, textual(saved("bert"), max_new_tokens=64)))
    check(extraction(tmp_path, textual(saved("bert"), top_k=16)))


def test_a_writing_model_is_no_encoder(tmp_path: Path) -> None:
    path = save_text_teacher(tmp_path / "qwen")
    with pytest.raises(ModelError, match=r"Qwen3ForCausalLM.* use --engine vllm"):
        check(extraction(tmp_path, textual(path)))


def extraction(folder: Path, teacher: TextualRecipe, **settings: Any) -> ExtractRecipe:
    return ExtractRecipe(
        dataset=DatasetRecipe(path=str(folder / "rows.jsonl"), question="What is said?"),
        textual=teacher,
        tape=TapeRecipe(out=str(folder / "tape"), shard_samples=4, states_dtype="float32"),
        **settings,
    )


def save_rows(folder: Path, transcripts: list[str], **cells: str) -> None:
    soundfile.write(folder / "a.wav", np.linspace(-0.5, 0.5, 800, dtype=np.float32), 16_000)
    rows = [
        {"id": f"r{number}", "audio": "a.wav", "transcript": transcript, **cells}
        for number, transcript in enumerate(transcripts)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_tape_of_an_encoder(saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transcripts = ["one two three", "two", "plus four " * 3, "a voice", "slowly " * 30, "two one"]
    save_rows(tmp_path, transcripts)
    teacher = textual(saved("modernbert"), layers="0,2,3", batch_samples=4)
    recipe = extraction(tmp_path, teacher)
    run_step("ingest", recipe)
    run_step("textualize", recipe)
    long = r"r4 \(row 4\): description too long: 34 tokens, the model takes 24"
    with pytest.raises(QuarantineError, match=long):
        run_step("textual", recipe)
    assert len(open_tape(tmp_path / "tape").recorded("textual")) == 5, "the others are on the tape"

    run_step("textual", extraction(tmp_path, teacher, failures=FailureRecipe(max_fraction=0.2)))
    tape = open_tape(tmp_path / "tape")
    assert tape.signals == ("textual/hidden",)
    assert [(q.sample_id, q.reason) for q in tape.quarantined] == [("r4", "description too long")]
    encoder = HfEncoder(teacher)
    assert tape.sources["textual"]["model_digest"] == encoder.describe()["model_digest"]
    for number in (0, 1, 2, 3, 5):
        row = tape[f"r{number}"]
        hidden = row["textual/hidden"]
        ids = encoder.encode(row.description or "")
        np.testing.assert_array_equal(hidden.target_ids, ids)
        assert (hidden.kind, hidden.layers, row.traces) == ("text", (0, 2, 3), [])
        (alone,) = read(encoder, [ids], (0, 2, 3))
        stacked = np.stack([alone[layer] for layer in (0, 2, 3)], axis=1)
        np.testing.assert_allclose(hidden.states, stacked, atol=1e-4)  # batched, see above
    assert validate(tmp_path / "tape", uncounted, deep=True).problems == []
    assert work_of("textual", tape, range(6)).tolist() == [7, 5, 10, 6, 0, 6], "tokens read"

    before = sorted(path.name for path in (tmp_path / "tape/manifest").iterdir())
    monkeypatch.setattr(hf_encoder, "_load", None)
    run_step("textual", recipe)  # finished: nothing is added, and no weights are loaded
    assert sorted(path.name for path in (tmp_path / "tape/manifest").iterdir()) == before


def test_an_acoustic_teacher_beside_an_encoder(saved: Any, tmp_path: Path) -> None:
    """There are no traces to respond with, so the acoustic teacher is read on the answers."""
    save_rows(tmp_path, ["one two", "three"], answer="four")
    teacher = AcousticRecipe(teacher=str(save_omni(tmp_path / "omni")), layers="top", top_k=4)
    recipe = extraction(tmp_path, textual(saved("bert"), layers="top"), acoustic=teacher)
    for step in ("ingest", "textualize", "textual", "acoustic"):
        run_step(step, recipe)
    tape = open_tape(tmp_path / "tape")
    assert tape.signals == ("acoustic/hidden", "acoustic/topk", "textual/hidden")
    assert tape.sources["acoustic"]["responses"] == "answers"
    assert len(tape["r1"]["acoustic/topk"].target_ids) > 0
    assert validate(tmp_path / "tape", uncounted, deep=True).problems == []


def test_an_empty_description_is_quarantined(saved: Any, tmp_path: Path) -> None:
    save_rows(tmp_path, ["one", "\ufffd"])  # BERT's tokenizer drops this character
    recipe = extraction(tmp_path, textual(saved("bert")))
    recipe = ExtractRecipe(
        **{**vars(recipe), "textualize": type(recipe.textualize)(template="{transcript}")}
    )
    run_step("ingest", recipe)
    run_step("textualize", recipe)
    with pytest.raises(QuarantineError, match=r"r1 \(row 1\): empty description"):
        run_step("textual", recipe)
