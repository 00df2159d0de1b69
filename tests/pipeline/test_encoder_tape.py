"""Encoder-only text models as textual teachers: recipes of them, and tapes they are read on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from encoder_reading import read, textual
from sound_tape import uncounted
from tiny_audio_lm import save_omni
from tiny_stage_one import save_text_teacher

from cache_schema import open_tape
from cache_schema.errors import ModelError, QuarantineError, UsageError
from cache_schema.validate.tape import validate
from pipeline.acoustic_recipe import AcousticRecipe
from pipeline.costs.weigh import work_of
from pipeline.extract import check, run_step
from pipeline.recipe import DatasetRecipe, ExtractRecipe, FailureRecipe, TapeRecipe
from pipeline.teachers import hf_encoder
from pipeline.teachers.hf_encoder import HfEncoder
from pipeline.textual_recipe import TextualRecipe


def test_one_description_that_does_not_fit_is_quarantined(
    saved_encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_rows(tmp_path, ["one two", "two " * 9, "three"])
    teacher = textual(saved_encoder("bert"), layers="top")
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


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_an_encoder_writes_nothing(saved_encoder: Any, tmp_path: Path, engine: str) -> None:
    recipe = extraction(tmp_path, TextualRecipe(teacher=str(saved_encoder("bert")), engine=engine))
    for refuse in (lambda: check(recipe), lambda: run_step("textual", recipe)):
        with pytest.raises(ModelError, match=r"BertForMaskedLM.* use --engine encoder"):
            refuse()


def test_settings_of_traces_are_refused(saved_encoder: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"textual.max_new_tokens = 64: means nothing"):
        check(extraction(tmp_path, textual(saved_encoder("bert"), max_new_tokens=64)))
    check(extraction(tmp_path, textual(saved_encoder("bert"), top_k=16)))


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


def test_a_tape_of_an_encoder(
    saved_encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcripts = ["one two three", "two", "plus four " * 3, "a voice", "slowly " * 30, "two one"]
    save_rows(tmp_path, transcripts)
    teacher = textual(saved_encoder("modernbert"), layers="0,2,3", batch_samples=4)
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


def test_an_acoustic_teacher_beside_an_encoder(saved_encoder: Any, tmp_path: Path) -> None:
    """There are no traces to respond with, so the acoustic teacher is read on the answers."""
    save_rows(tmp_path, ["one two", "three"], answer="four")
    teacher = AcousticRecipe(teacher=str(save_omni(tmp_path / "omni")), layers="top", top_k=4)
    recipe = extraction(tmp_path, textual(saved_encoder("bert"), layers="top"), acoustic=teacher)
    for step in ("ingest", "textualize", "textual", "acoustic"):
        run_step(step, recipe)
    tape = open_tape(tmp_path / "tape")
    assert tape.signals == ("acoustic/hidden", "acoustic/topk", "textual/hidden")
    assert tape.sources["acoustic"]["responses"] == "answers"
    assert len(tape["r1"]["acoustic/topk"].target_ids) > 0
    assert validate(tmp_path / "tape", uncounted, deep=True).problems == []


def test_an_empty_description_is_quarantined(saved_encoder: Any, tmp_path: Path) -> None:
    save_rows(tmp_path, ["one", "\ufffd"])  # BERT's tokenizer drops this character
    recipe = extraction(tmp_path, textual(saved_encoder("bert")))
    recipe = ExtractRecipe(
        **{**vars(recipe), "textualize": type(recipe.textualize)(template="{transcript}")}
    )
    run_step("ingest", recipe)
    run_step("textualize", recipe)
    with pytest.raises(QuarantineError, match=r"r1 \(row 1\): empty description"):
        run_step("textual", recipe)
