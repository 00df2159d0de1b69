"""What a recipe asks is checked against the tape before anything is loaded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import terms_tape
from tiny_tape import MakeTape, sample, trace
from typer.testing import CliRunner

from audio_models.load import AudioLM
from cache_schema import Tape, open_tape
from cache_schema.errors import MissingSignalError, TapeError, UsageError
from train.cli import app
from train.data import Example
from train.metrics import read_metrics
from train.terms.needs import with_every_signal
from train.terms.recipe import TermsRecipe
from train.terms.resolve import check_signals, recorded_kinds, resolve_terms
from train.terms.settings import DIVERGENCES


@pytest.fixture(scope="module")
def tape_dir(tmp_path_factory: pytest.TempPathFactory, student: AudioLM) -> Path:
    folder = tmp_path_factory.mktemp("tape")
    return terms_tape.write(folder / "tape", student, student, without=("s1", "s4"))


@pytest.fixture(scope="module")
def tape(tape_dir: Path) -> Tape:
    return open_tape(tape_dir)


def recipe(**sections: object) -> TermsRecipe:
    return TermsRecipe.from_values(
        {name: {"weight": 1, **settings} for name, settings in sections.items()}, "recipe.terms"
    )


def refusal(tape: Tape, **sections: object) -> str:
    with pytest.raises(MissingSignalError) as caught:
        check_signals(recipe(**sections), tape)
    return str(caught.value)


def test_signals_of_a_recipe_are_those_of_its_terms(tape: Tape) -> None:
    assert check_signals(recipe(ce={}), tape) == ("textual/trace",)
    found = check_signals(
        recipe(text_lens={}, acoustic_sampled={"source": "second"}, text_kl={}, text_tv={}), tape
    )
    assert found == ("second/sampled", "textual/lens", "textual/topk", "textual/trace")
    assert check_signals(TermsRecipe(ce=recipe(ce={})["ce"], **recipe(text_kl={})), tape)


@pytest.mark.parametrize(
    ("name", "settings", "parts"),
    [
        ("text_lens", {}, ("textual/lens", "--text-teacher M --set textual.lens=every:4")),
        ("text_sampled", {}, ("textual/sampled", "--set textual.draws=50")),
        ("acoustic_jsd", {}, ("acoustic/topk", "--acoustic-teacher M --top-k 64")),
        ("acoustic_lens", {}, ("acoustic/lens", "--set acoustic.lens=every:4")),
        (
            "acoustic_hidden",
            {"source": "wavlm"},
            ("wavlm/hidden", "--set acoustic.name=wavlm"),
        ),
        (
            "acoustic_response",
            {},
            ("at response positions, it has audio positions", "acoustic.states_at=both"),
        ),
    ],
)
def test_what_is_missing_is_named_with_how_to_record_it(
    make_tape: MakeTape, name: str, settings: dict[str, str], parts: tuple[str, ...]
) -> None:
    said = refusal(open_tape(make_tape()), **{name: settings})
    for part in (f"[terms.{name}] needs", f"leave out: --set terms.{name}.weight=0", *parts):
        assert part in said


def test_the_nearest_source_is_named(tape: Tape) -> None:
    said = refusal(tape, acoustic_lens={"source": "accoustic"})
    assert "did you mean 'acoustic/lens'" in said


def test_frames_are_no_response_positions(tape: Tape) -> None:
    said = refusal(tape, acoustic_response={"source": "frames"})
    assert "needs frames/hidden at response positions, it has an encoder's frames" in said
    assert "frames/hidden" in check_signals(recipe(acoustic_hidden={"source": "frames"}), tape)


def test_a_source_of_the_other_kind_is_refused(tape: Tape) -> None:
    said = refusal(tape, text_kl={"source": "second"})
    assert "source 'second' is of kind acoustic; the term needs one of kind textual" in said
    assert "(the tape has: textual)" in said
    assert "of kind samples" in refusal(tape, acoustic_kl={"source": "samples"})


def test_kinds_of_states_are_read_from_the_manifest(tape: Tape) -> None:
    assert recorded_kinds(tape, "acoustic") == ("audio", "token")
    assert recorded_kinds(tape, "frames") == ("frame",)
    assert recorded_kinds(tape, "textual") == ("token",)


def test_layers_are_paired_from_those_of_the_signal(tape: Tape) -> None:
    terms = resolve_terms(recipe(text_lens={}, acoustic_response={"layers": "top"}), tape, 2)
    assert [(term.name, term.pairs) for term in terms] == [
        ("text_lens", ((1, 2), (2, 4))),
        ("acoustic_response", ((2, 2),)),
    ]
    with pytest.raises(MissingSignalError, match=r"terms\.text_lens\.layers.*the tape holds 2, 4"):
        resolve_terms(recipe(text_lens={"layers": "1:1"}), tape, 2)
    with pytest.raises(UsageError, match=r"terms\.text_lens\.layers = 'evry:2'"):
        resolve_terms(recipe(text_lens={"layers": "evry:2"}), tape, 2)


def test_rows_without_a_signal_of_theirs_are_left_out_with_a_count(tape: Tape) -> None:
    examples = [
        Example(sample_id=row.sample_id, trace_index=index, num_tokens=9)
        for row in tape
        for index in range(2)
    ]
    terms = resolve_terms(recipe(acoustic_response={}, acoustic_hidden={}), tape, 2)
    kept, left_out = with_every_signal(tape, examples, terms)
    assert [(e.sample_id, e.trace_index) for e in kept] == [(f"s{n}", 0) for n in (0, 2, 3, 5)]
    # the recording's are there for any trace; a second trace has no states of its own
    assert left_out == Counter({"no acoustic/hidden of the trace": 8})
    kept, left_out = with_every_signal(tape, examples, resolve_terms(recipe(ce={}), tape, 2))
    assert (len(kept), left_out) == (12, Counter())
    with pytest.raises(TapeError, match=r"no row to train on \(2 no acoustic/hidden of the trace"):
        with_every_signal(tape, [e for e in examples if e.sample_id == "s1"], terms)


def train(tape_dir: Path, student_dir: Path, out: Path, *sets: str) -> tuple[int, str]:
    arguments = ["student", "--cache", str(tape_dir), "--student", str(student_dir)]
    more = [item for one in sets for item in ("--set", one)]
    result = CliRunner().invoke(
        app, [*arguments, "--out", str(out), "--recipe", "sft", "--max-steps", "2", *more]
    )
    return result.exit_code, result.output


def test_every_term_trains_at_once_and_is_reported(
    tape_dir: Path, student_dir: Path, tmp_path: Path
) -> None:
    names = [
        f"{side}_{measure}"
        for side in ("text", "acoustic")
        for measure in (*DIVERGENCES, "sampled", "lens", "hidden")
    ]
    sets = [f"terms.{name}.weight=0.1" for name in [*names, "acoustic_response"]]
    second = ("terms.acoustic_hidden-b.weight=0.1", "terms.acoustic_hidden-b.source=second")
    more = ("terms.acoustic_hidden.distance=cka", "logging.gradient_norms_every=1")
    status, said = train(tape_dir, student_dir, tmp_path / "run", *sets, *second, *more)
    assert status == 0, said
    assert "left out: 2 no acoustic/hidden of the trace" in said
    line = read_metrics(tmp_path / "run" / "metrics.jsonl")[0]
    assert set(line["terms"]) == {"ce", *names, "acoustic_response", "acoustic_hidden-b"}
    for name, term in line["terms"].items():
        assert term["count"] > 0
        assert {"value", "weight", "gradient_norm"} <= set(term)
        # the acoustic teacher is the student before training
        same = name.startswith("acoustic") and "sampled" not in name
        assert (abs(term["value"]) < 1e-4) == same, (name, term)
    report = (tmp_path / "run" / "report.md").read_text()
    assert "acoustic_hidden-b" in report


@pytest.mark.parametrize(
    "more",
    ["student.lora_rank=2", "student.activation_checkpointing=true", "student.autocast=bfloat16"],
)
def test_the_lens_and_relations_train_however_the_student_is_held(
    tape_dir: Path, student_dir: Path, tmp_path: Path, more: str
) -> None:
    found = []
    for readout in ("trained", "fixed"):
        out = tmp_path / readout
        sets = ("terms.text_lens.weight=1", f"terms.text_lens.readout={readout}", "optim.lr=0.01",
                "terms.text_hidden.weight=0.1", "terms.text_hidden.distance=cka")  # fmt: skip
        status, said = train(tape_dir, student_dir, out, *sets, more)
        assert status == 0, said
        found.append(
            [line["terms"]["text_lens"]["value"] for line in read_metrics(out / "metrics.jsonl")]
        )
    assert found[0][0] == found[1][0]
    # adapters leave norm and unembedding as they are: what is not trained cannot be fixed
    assert (found[0][1] == found[1][1]) == more.startswith("student.lora")


def test_frames_are_refused_as_responses_at_the_start_of_a_run(
    tape_dir: Path, student_dir: Path, tmp_path: Path
) -> None:
    sets = ("terms.acoustic_response.weight=1", "terms.acoustic_response.source=frames")
    status, said = train(tape_dir, student_dir, tmp_path / "run", *sets)
    assert status == 1
    assert "[terms.acoustic_response] needs frames/hidden at response positions" in said
    assert not (tmp_path / "run").exists()


def test_an_acoustic_teacher_of_other_ids_is_refused(
    make_tape: MakeTape, student: AudioLM, student_dir: Path, tmp_path: Path
) -> None:
    ids = {f"s{n}": trace(student, sample(n)).token_ids[1:] for n in range(12)}
    tape = make_tape(acoustic_responses=ids)
    status, said = train(tape, student_dir, tmp_path / "run", "terms.acoustic_tv.weight=1")
    assert status == 1
    assert "acoustic/topk was recorded on other token ids" in said
