"""Which samples the acoustic teacher is read on, on which responses, and where memory runs out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import full_tape
import numpy as np
import pytest
import torch
from tiny_audio_lm import build_tokenizer
from tiny_stage_one import save_dataset

from cache_schema import open_tape
from cache_schema.errors import TapeError
from cache_schema.maker import GroupInfo
from cache_schema.rows.values import trace_row
from cache_schema.types import Trace
from cache_schema.writer import TapeWriter
from pipeline.acoustic_recipe import AcousticRecipe
from pipeline.extract import run_step
from pipeline.hearing import language_model
from pipeline.recipe import DatasetRecipe, ExtractRecipe, FailureRecipe, TapeRecipe
from pipeline.responses import Responses
from pipeline.step import Pending
from pipeline.textual_recipe import TextualRecipe

ROWS = 4


def extraction(folder: Path, teacher: Path, layers: str, **settings: Any) -> ExtractRecipe:
    """A recipe whose samples are on the tape."""
    dataset = save_dataset(folder, ROWS)
    recipe = ExtractRecipe(
        dataset=DatasetRecipe(path=str(dataset)),
        tape=TapeRecipe(out=str(folder / "tape")),
        acoustic=AcousticRecipe(teacher=str(teacher), layers=layers, top_k=4, batch_size=8),
        **settings,
    )
    run_step("ingest", recipe)
    return recipe


def add_traces(
    root: str | Path,
    texts: dict[str, list[str]],
    finish: str = "stop",
    ids: Sequence[int] = (1, 2),
    digest: str = "of another tokenizer",
) -> None:
    """Write traces of a textual teacher."""
    identity = {"tokenizer_digest": digest}
    info = GroupInfo(group="textual", kind="textual", signals={"trace": {}}, identity=identity)
    with TapeWriter(Path(root), info) as writer:
        for sample_id, many in texts.items():
            traces = [
                Trace(
                    text=text,
                    token_ids=np.array(ids),
                    prompt_token_ids=np.array([3]),
                    finish_reason=finish,
                    answer="yes",
                    correct=True,
                    logprob=-1.0,
                )
                for text in many
            ]
            rows = [trace_row(sample_id, number, trace) for number, trace in enumerate(traces)]
            writer.add({"trace": rows})


def shards_of(recipe: ExtractRecipe) -> int:
    return len(open_tape(recipe.tape.out).shards.get("acoustic", []))


def test_a_sample_without_a_kept_trace_has_its_states_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tape = open_tape(full_tape.make(tmp_path, groups=("samples", "descriptions", "textual")))
    responses = Responses(tape, build_tokenizer(), "another tokenizer")
    assert responses.origin == "trace text"
    rows = Pending(tape, np.arange(len(tape)))
    with_states = responses.ready(rows, tape, with_states=True)
    assert [row.sample_id for row in with_states] == ["s0", "s1", "s2", "s3", "s4"]
    # Without layers it would be pending for ever.
    without = responses.ready(rows, tape, with_states=False)
    assert [row.sample_id for row in without] == ["s0", "s1", "s2", "s3"]
    assert "1 samples have no response" in capsys.readouterr().err
    assert [len(ids) for ids in responses.of(tape["s4"])] == [0]


def test_ids_of_the_same_tokenizer_are_never_made_from_text(tmp_path: Path) -> None:
    """Half a character is a token, and no text that would give it again."""
    tokenizer = build_tokenizer()
    full_tape.make(tmp_path, groups=("samples",))
    half = tokenizer("\u00e9", add_special_tokens=False)["input_ids"][:1]
    ids = [*half, *half, tokenizer.eos_token_id]
    add_traces(tmp_path, {"s0": [tokenizer.decode(half * 2)]}, ids=ids, digest="the same")
    tape = open_tape(tmp_path)
    responses = Responses(tape, tokenizer, "the same")
    assert responses.origin == "trace ids"
    assert [found.tolist() for found in responses.of(tape["s0"])] == [ids]
    of_text = Responses(tape, tokenizer, "another")
    assert [found.tolist() for found in of_text.of(tape["s0"])] != [ids]


@pytest.mark.parametrize("source", ["answers", "traces"])
def test_what_leaves_nothing_to_record_is_left_out_aloud(
    tmp_path: Path,
    acoustic_teacher: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    recipe = extraction(tmp_path, acoustic_teacher, "none")
    if source == "traces":
        add_traces(
            recipe.tape.out, {f"row-{n}": ["" if n == 1 else "it rises", ""] for n in range(ROWS)}
        )
    else:
        rows = tmp_path / "rows.jsonl"
        lines = rows.read_text().splitlines()
        lines[1] = lines[1].replace('"answer": "yes"', '"answer": ""')
        rows.write_text("\n".join(lines) + "\n")
        tape = TapeRecipe(out=str(tmp_path / "other"))
        recipe = ExtractRecipe(**{**vars(recipe), "tape": tape})
        run_step("ingest", recipe)
    run_step("acoustic", recipe)
    tape = open_tape(recipe.tape.out)
    assert tape.recorded("acoustic") == {"row-0", "row-2", "row-3"}
    assert (tape.quarantined, shards_of(recipe)) == ([], 1)
    said = capsys.readouterr().err
    assert "1 samples have no response, and without layers nothing to record" in said
    assert ("read on the dataset's answers" in said) == (source == "answers")
    assert ("read on the text of the textual traces" in said) == (source == "traces")

    monkeypatch.setattr(language_model, "load_audio_lm", None)  # a finished tape loads nothing
    run_step("acoustic", recipe)
    said = capsys.readouterr().err
    assert "1 samples have no response" in said
    assert "nothing else to record" in said
    assert shards_of(recipe) == 1


def test_a_trace_that_was_cut_has_no_stop(tmp_path: Path, acoustic_teacher: Path) -> None:
    recipe = extraction(tmp_path, acoustic_teacher, "none")
    add_traces(recipe.tape.out, {"row-0": ["it rises"]})
    add_traces(recipe.tape.out, {"row-1": ["it rises"]}, finish="length")
    run_step("acoustic", recipe)
    tape = open_tape(recipe.tape.out)
    whole, cut = (tape[name]["acoustic/topk"].target_ids for name in ("row-0", "row-1"))
    stop = build_tokenizer().eos_token_id
    assert whole.tolist() == [*cut.tolist(), stop]
    assert stop not in cut


def test_a_named_text_teacher_that_has_not_run_is_no_reason_for_answers(
    tmp_path: Path, acoustic_teacher: Path
) -> None:
    later = TextualRecipe(teacher="some/teacher")
    recipe = extraction(tmp_path, acoustic_teacher, "top", textual=later)
    with pytest.raises(TapeError, match=r"run the textual step first, or leave --text-teacher out"):
        run_step("acoustic", recipe)
    assert "acoustic" not in open_tape(recipe.tape.out).groups
    run_step("acoustic", ExtractRecipe(**{**vars(recipe), "textual": TextualRecipe()}))
    tape = open_tape(recipe.tape.out)
    assert tape.sources["acoustic"]["responses"] == "answers"
    run_step("acoustic", recipe)  # finished: there is nothing to refuse


def test_memory_runs_out_request_by_request(
    tmp_path: Path,
    acoustic_teacher: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two traces a sample, memory for one of them, and one that does not fit at all."""
    recipe = extraction(tmp_path, acoustic_teacher, "1", failures=FailureRecipe(max_fraction=0.5))
    texts = {f"row-{n}": [f"it rises {n}", "it falls"] for n in range(ROWS)}
    texts["row-2"][1] = "it falls and falls " * 9
    add_traces(recipe.tape.out, texts)
    sizes: list[int] = []
    load = language_model.load_audio_lm

    def short_of_memory(*arguments: Any) -> Any:
        lm = load(*arguments)

        def note(_module: Any, _args: Any, kwargs: dict[str, torch.Tensor]) -> None:
            if "attention_mask" not in kwargs or "output_hidden_states" in kwargs:
                return  # the unembedding of a few positions, or what is tried at loading
            sizes.append(len(kwargs["input_ids"]))
            if kwargs["input_ids"].numel() > 160:
                raise torch.OutOfMemoryError("no memory")

        lm.model.register_forward_pre_hook(note, with_kwargs=True)
        return lm

    monkeypatch.setattr(language_model, "load_audio_lm", short_of_memory)
    run_step("acoustic", recipe)
    assert (sizes[0], min(sizes)) == (2 * ROWS, 1)
    tape = open_tape(recipe.tape.out)
    assert tape.recorded("acoustic") == {"row-0", "row-1", "row-3"}
    ((failed,)) = tape.quarantined
    assert (failed.sample_id, failed.reason) == ("row-2", "out of memory")
    assert "response tokens do not fit, read alone" in failed.detail
    assert (
        "out of memory with 8 items a pass, from now on 4 items a pass" in capsys.readouterr().err
    )
    assert len(tape["row-0"]["acoustic/topk"].target_ids) > 0
