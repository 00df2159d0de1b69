"""``verify --replay``: tiny real teachers, run again in this process, against tapes and damage.

One test runs the command as a user would; the others call the step without a process of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replays import PAGE, edit_notes, other_word, recipe_of, record, signals_of, textual, verified
from sound_tape import edit_line, edit_table, uncounted
from tiny_audio_encoders import save_encoder
from tiny_stage_one import run_pipeline
from transformers import AutoModelForCausalLM

from cache_schema import open_tape
from cache_schema.codecs.files import checksum
from cache_schema.commands.recipes import as_toml
from cache_schema.errors import MissingSignalError, ModelError, ProvenanceError, UsageError
from pipeline.recipe import AcousticRecipe, DatasetRecipe, ExtractRecipe, TapeRecipe, TextualRecipe
from pipeline.replay.choose import choose
from pipeline.replay.found import BEYOND, EQUAL, WITHIN
from pipeline.replay.run import ReplayError
from pipeline.share.attach import attach
from pipeline.share.owned import open_owned
from pipeline.tapes.pages import verify_page


@pytest.fixture(scope="module")
def whole(
    dataset: Path,
    described: Path,
    text_teacher: Path,
    acoustic_teacher: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Sampled traces, an audio language model read on them, and a classifier."""
    folder = tmp_path_factory.mktemp("whole")
    out = folder / "tape"
    shutil.copytree(described, out)
    writes = textual(text_teacher, traces=2, temperature=1.0, sample_top_k=8, rationales="wrong")
    record(recipe_of(dataset, out, textual=writes, seed=3), "textual")
    hears = AcousticRecipe(
        teacher=str(acoustic_teacher), layers="0,2", states_at="both", top_k=5, lens="1", draws=5
    )
    record(recipe_of(dataset, out, acoustic=hears), "acoustic")
    encoder = save_encoder(folder / "wav2vec2", "wav2vec2", "ForSequenceClassification")
    judges = AcousticRecipe(teacher=str(encoder), name="mood", layers="1", multi_label=False)
    return record(recipe_of(dataset, out, acoustic=judges), "acoustic")


@pytest.mark.usefixtures("_here")
def test_every_source_again(whole: Path) -> None:
    """Sampled traces, told ones, responses, audio positions, classes: alone they are the same."""
    values = verified(whole)
    assert values["sound"], values["problems"]
    found = values["replay"]
    assert [one["source"] for one in found["sources"]] == ["acoustic", "mood", "textual"]
    for one in found["sources"]:
        assert one["samples"] == list(open_tape(whole).sample_ids)
        assert one["verdict"] in (EQUAL, WITHIN)
        assert one["engine_version"] == one["recorded_engine_version"]
    texts = signals_of(values)
    assert set(texts) == {"trace", "topk", "lens", "sampled", "hidden"}
    assert texts["trace"]["rows"] == 4 * (2 + 2), "free and told"
    assert texts["topk"]["measures"]["other top-1"]["worst"] == 0
    hears = signals_of(values, "acoustic")
    assert hears["hidden"]["rows"] == 4 * (1 + 4), "the recording's and each response's"
    assert set(signals_of(values, "mood")) == {"hidden", "utterance_logits", "embedding"}


@pytest.mark.usefixtures("_here")
def test_some_samples_by_seed(whole: Path) -> None:
    """Alone, in another batch, a sampled trace is the same: its seed is its own."""
    values = verified(whole, "textual", "mood", count=1, seed=5)
    assert values["sound"], values["problems"]
    ids = [one["samples"] for one in values["replay"]["sources"]]
    assert len(ids[0]) == 1
    assert ids[0] == ids[1]
    assert values["replay"]["seed"] == 5
    tape = open_tape(whole)
    info = tape.groups["mood"]
    seen = {row.sample_id for seed in range(9) for row in choose(tape, info, 1, seed)}
    assert len(seen) > 1


@pytest.mark.parametrize("tape_dir", ["bfloat16"], indirect=True)
def test_the_command_under_vllm(tape_dir: Path, text_teacher: Path) -> None:
    """As a user types it: the real engine, in bfloat16, the teacher elsewhere by now."""
    flags = ["--replay", "2", "--source", "textual", "--text-teacher", text_teacher, "--json"]
    done = run_pipeline("verify", tape_dir, *flags)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    (one,) = values["replay"]["sources"]
    assert (one["engine"], one["dtype"], one["of"]) == ("vllm", "bfloat16", 9)
    assert (one["teacher"], len(one["samples"])) == (str(text_teacher), 2)
    found = signals_of(values)
    assert found["trace"]["rows"] == 2
    # seen equal, bit by bit; a hundredth of what rounding may do is far from another model's
    assert found["topk"]["measures"]["KL"]["worst"] < 5e-4


def test_another_teacher_is_refused(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By its own process, which says why."""
    other = save_encoder(tmp_path / "other", "hubert", "ForSequenceClassification")
    with pytest.raises(ReplayError, match="--acoustic-teacher"):
        verified(whole, "mood", acoustic=[f"mood={other}"])
    told = capfd.readouterr().err
    assert "'mood' was recorded differently" in told
    assert "model_digest" in told
    assert "Traceback" not in told


@pytest.mark.usefixtures("_here")
def test_a_teacher_that_is_gone(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gone"):
        verified(whole, "mood", acoustic=[str(tmp_path / "gone")])


@pytest.mark.usefixtures("_here")
def test_other_weights_are_refused(whole: Path, tmp_path: Path, text_teacher: Path) -> None:
    changed = Path(shutil.copytree(text_teacher, tmp_path / "changed"))
    model = AutoModelForCausalLM.from_pretrained(changed)
    model.lm_head.weight.data[7, 7] += 1e-3
    model.save_pretrained(changed)
    with pytest.raises(ProvenanceError, match="model_digest"):
        verified(whole, "textual", text=changed)


def raised(rows: list[dict[str, Any]]) -> None:
    """One token of the first row a little more probable; the sum still is 1."""
    logprobs = list(rows[0]["logprobs"])
    logprobs[0] += 0.05
    rows[0]["logprobs"] = logprobs
    rows[0]["tail"] = [max(0.0, rows[0]["tail"][0] - 1e-4), *rows[0]["tail"][1:]]


def told_right(rows: list[dict[str, Any]]) -> None:
    rows[0]["correct"] = True


def gladder(rows: list[dict[str, Any]]) -> None:
    rows[0]["logits"] = [rows[0]["logits"][0], rows[0]["logits"][1] * 1.01, rows[0]["logits"][2]]


def fewer(rows: list[dict[str, Any]]) -> None:
    del rows[0]


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("group", "table", "change", "told"),
    [
        ("textual", "topk", raised, "KL"),
        ("textual", "trace", told_right, "equal tokens, but correct differ"),
        ("textual", "trace", other_word, "turns off at token 2"),
        ("textual", "sampled", fewer, "is made again, and is not on the tape"),
        ("mood", "utterance_logits", gladder, "relative error"),
        ("acoustic", "topk", fewer, "is made again, and is not on the tape"),
    ],
)
def test_a_changed_value_is_found(
    whole: Path, tmp_path: Path, group: str, table: str, change: Callable[..., None], told: str
) -> None:
    """Written anew with every checksum right, as whoever wants to deceive would."""
    tape = Path(shutil.copytree(whole, tmp_path / "tape"))
    edit_table(tape, f"shards/{group}/000/w0of1-000000", table, change)
    values = verified(tape, group)
    assert not values["sound"]
    assert values["kinds"]["replay differs"] >= 1
    assert any(told in one["message"] for one in values["problems"]), values["problems"]
    sources = {one["source"]: one["verdict"] for one in values["replay"]["sources"]}
    assert sources == {group: BEYOND}
    assert "DIFFERENT" in verify_page({**values, **PAGE})


@pytest.mark.usefixtures("_here")
def test_a_changed_state_is_found(whole: Path, tmp_path: Path) -> None:
    tape = Path(shutil.copytree(whole, tmp_path / "tape"))
    path = "shards/mood/000/w0of1-000000"
    name = "hidden.zarr/L001/c/0/0"
    file = tape / path / name
    states = np.fromfile(file, dtype=np.uint16)
    states[: 4 * 32] ^= 1 << 6  # half a unit and more, in four frames
    states.tofile(file)

    def committed(line: dict[str, Any]) -> None:
        line["files"][name] = {"bytes": file.stat().st_size, "xxh3_128": checksum(file)}

    edit_line(tape, path, committed)
    values = verified(tape, "mood")
    assert signals_of(values, "mood")["hidden"]["beyond"]["count"] == 1
    assert "relative error of layer 1" in values["problems"][0]["message"]


@pytest.mark.usefixtures("_here")
def test_without_a_note_the_recipe_is_asked_for(
    whole: Path, text_teacher: Path, tmp_path: Path
) -> None:
    tape = Path(shutil.copytree(whole, tmp_path / "tape"))
    edit_notes(tape, "textual", lambda notes: notes.pop("recipe"))
    with pytest.raises(UsageError, match=r"--recipe R\.toml"):
        verified(tape)
    with pytest.raises(ProvenanceError, match="temperature"):
        verified(tape, "textual", text=text_teacher)
    file = tmp_path / "recipe.toml"
    made = textual(text_teacher, traces=2, temperature=1.0, sample_top_k=8, rationales="wrong")
    file.write_text(as_toml(ExtractRecipe(textual=made, tape=TapeRecipe(out="elsewhere"), seed=3)))
    values = verified(tape, "textual", recipe=file)
    assert values["sound"], values["problems"]
    changed = {key: v for key, v in vars(made).items() if v != getattr(TextualRecipe(), key, None)}
    rest = [f"textual.{key}={v!r}" for key, v in changed.items() if key != "teacher"]
    values = verified(tape, "textual", text=text_teacher, overrides=("seed=3", *rest))
    assert values["sound"], values["problems"]


def test_a_note_cannot_run_code(whole: Path, tmp_path: Path) -> None:
    tape = Path(shutil.copytree(whole, tmp_path / "tape"))

    def evil(notes: dict[str, Any]) -> None:
        notes["recipe"]["textual"]["vllm"] = {"logits_processors": ["evil:Code"]}

    edit_notes(tape, "textual", evil)
    with pytest.raises(UsageError, match=r"textual\.vllm\.logits_processors"):
        verified(tape, "textual")


def test_wrong_flags(whole: Path, tmp_path: Path) -> None:
    for flags, told in (
        ({"overrides": ("tape.profile=hot",)}, "settings of teachers only"),
        ({"acoustic": ["somewhere"]}, "NAME=MODEL"),
    ):
        with pytest.raises(UsageError, match=told):
            verified(whole, **flags)
    with pytest.raises(UsageError, match="did you mean 'textual'"):
        verified(whole, "textul")


@pytest.mark.usefixtures("_here")
def test_references_need_their_recordings(dataset: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "tape"
    source = DatasetRecipe(path=str(dataset), limit=4, audio="reference")
    recipe = replace(recipe_of(dataset, out), dataset=source)
    judges = AcousticRecipe(
        teacher=str(whole.parent / "wav2vec2"), name="mood", layers="1", multi_label=False
    )
    record(replace(recipe, acoustic=judges), "ingest", "acoustic")
    with pytest.raises(MissingSignalError, match="pipeline attach"):
        verified(out)
    attach(str(out), partial(open_owned, recipe.dataset), uncounted)
    values = verified(out)
    assert values["sound"], values["problems"]


@pytest.mark.usefixtures("_here")
def test_a_sample_that_fails_now(whole: Path, tmp_path: Path) -> None:
    """What was recorded and is quarantined on the replay is a difference."""
    tape = Path(shutil.copytree(whole, tmp_path / "tape"))
    for table in ("audio", "samples"):
        edit_table(tape, "shards/samples/000/w0of1-000000", table, shortened)
    found = verified(tape, "mood")["problems"]
    assert any("not made again" in one["message"] for one in found), found


def shortened(rows: list[dict[str, Any]]) -> None:
    if "audio" in rows[0]:
        rows[0]["audio"] = rows[0]["audio"][:20]
    else:
        rows[0]["num_audio_samples"] = 10
