"""States of a description, as an encoder of text read it, against what the student hears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import heard_tape
import pytest
import torch
from tiny_tape import MakeTape
from torch import Tensor
from train_runs import Launch, train_here

from audio_models.forward import forward_with_states
from audio_models.load import AudioLM, load_audio_lm
from cache_schema import Tape, open_tape
from cache_schema.errors import MissingSignalError, UsageError
from cache_schema.signals import AUDIO_ROW
from train.batch.build import Share, TrainBatch, load_batches
from train.losses import eager
from train.objective import Objective
from train.steps.ring import HostBuffer, Readers
from train.terms.needs import signals_read
from train.terms.recipe import TermsRecipe
from train.terms.resolve import Term, check_signals, resolve_terms

NAMES = ("r0", "r2", "r5")


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Tape:
    return open_tape(heard_tape.record(tmp_path_factory.mktemp("read"), ("textual",)))


@pytest.fixture
def lm(student_dir: Path) -> AudioLM:
    return load_audio_lm(str(student_dir), "float32", "cpu")


def terms_of(tape: Tape, **settings: Any) -> tuple[Term, ...]:
    recipe = TermsRecipe.from_values({"text_pooled": {"weight": 1.0, **settings}}, "recipe.terms")
    assert check_signals(recipe, tape) == ("textual/hidden",)
    return resolve_terms(recipe, tape, 2)


def load(lm: AudioLM, tape: Tape, terms: tuple[Term, ...], *shares: tuple[str, ...]) -> list[Any]:
    buffer = HostBuffer()
    needs = signals_read(terms)
    rows = [[(name, AUDIO_ROW) for name in share] for share in shares]
    with Readers() as readers:
        batches = load_batches(
            lm, [Share(tape=tape, needs=needs, rows=each) for each in rows], buffer, readers
        )
        buffer.wait()
    return batches


def gradients(module: Objective, value: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    value.backward(retain_graph=True)
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def reference(lm: AudioLM, tape: Tape, module: Objective, batch: TrainBatch, pairs: Any) -> Tensor:
    """Return the term with cosine and MSE, mean by mean."""
    layers = [student for student, _ in pairs]
    out = forward_with_states(lm.model, batch.audio.inputs, layers, batch.audio.predict_positions)
    total = torch.zeros(())
    for student, teacher in pairs:
        for row, name in enumerate(NAMES):
            heard = out.states[student][row, batch.audio.audio_positions[row]].mean(0)
            projected = module.projectors[f"text_pooled-{student}-{teacher}"].weight @ heard
            read = tape[name]["textual/hidden"]
            states = torch.tensor(read.states[:, read.layers.index(teacher)])
            one = projected[None], states.mean(0)[None]
            distance = eager.cosine_of_each(*one) + eager.relative_mse_of_each(*one)
            total = total + distance.sum() / len(pairs)
    return total


def test_value_and_gradient_equal_the_reference(lm: AudioLM, tape: Tape) -> None:
    terms = terms_of(tape, layers="1:1,2:3", distance="cosine_mse")
    assert terms[0].teacher_width == 64
    (batch,) = load(lm, tape, terms, NAMES)
    torch.manual_seed(0)
    module = Objective(lm.model, terms, lm.width, 16)
    (value,) = module(batch)
    found = gradients(module, value)
    expected = reference(lm, tape, module, batch, ((1, 1), (2, 3)))
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    wanted = gradients(module, expected)
    largest = max(float(each.abs().max()) for each in wanted.values())
    for name in found.keys() | wanted.keys():
        zero = torch.zeros(())
        pair = torch.broadcast_tensors(found.get(name, zero), wanted.get(name, zero))
        torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-5 * largest)
    assert float(module.counts(batch)) == len(NAMES)
    assert any(n.startswith("model.audio_tower.") and g.any() for n, g in found.items())


def test_what_is_beside_a_row_changes_nothing(lm: AudioLM, tape: Tape) -> None:
    """No row is set against another, so a row weighs the same in any micro-batch."""
    terms = terms_of(tape)
    torch.manual_seed(0)
    module = Objective(lm.model, terms, lm.width, 16)
    whole, *alone = load(lm, tape, terms, NAMES, *((name,) for name in NAMES))
    with torch.no_grad():
        parts = torch.stack([module(batch) for batch in alone]).sum(0)
        torch.testing.assert_close(module(whole), parts, rtol=1e-5, atol=1e-6)


def test_settings_it_has_no_use_for_are_refused() -> None:
    with pytest.raises(UsageError, match=r"text_pooled: distance 'cka' relates positions of a row"):
        TermsRecipe.from_values({"text_pooled": {"weight": 1.0, "distance": "cka"}}, "terms")
    with pytest.raises(UsageError, match=r"unknown key 'temperature'"):
        TermsRecipe.from_values({"text_pooled": {"weight": 1.0, "temperature": 2.0}}, "terms")


def test_states_of_traces_are_no_states_of_descriptions(make_tape: MakeTape) -> None:
    recipe = TermsRecipe.from_values({"text_pooled": {"weight": 1.0}}, "terms")
    with pytest.raises(MissingSignalError) as caught:
        check_signals(recipe, open_tape(make_tape()))
    said = str(caught.value)
    assert "[terms.text_pooled] needs textual/hidden at a description's tokens" in said
    assert "it has response positions (record it: --text-teacher M --engine encoder" in said
    assert "on a tape of its own where the textual teacher writes traces" in said


def test_states_of_descriptions_are_no_states_of_traces(tape: Tape) -> None:
    recipe = TermsRecipe.from_values({"text_hidden": {"weight": 1.0}}, "terms")
    with pytest.raises(MissingSignalError, match=r"textual/trace, which text_hidden need"):
        check_signals(recipe, tape)


def test_a_layer_the_tape_lacks_is_listed(tape: Tape) -> None:
    with pytest.raises(MissingSignalError, match=r"the tape holds 0, 1, 3"):
        terms_of(tape, layers="2:2")


def test_samples_whose_description_was_not_read_are_left_out_and_counted(
    tape: Tape, student_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "pooled.toml").write_text("[terms.text_pooled]\nweight = 1.0\n")
    launch = Launch(tape=Path(tape.location), student=student_dir, out=tmp_path / "run", more=(
        "--recipe", str(tmp_path / "pooled.toml"), "--max-steps", "2"))  # fmt: skip
    result = train_here(launch)
    assert result.exit_code == 0, result.output
    assert "rows: 7; left out: 1 no textual/hidden" in result.output
    assert not (launch.out / "student" / "heads").exists()


def test_a_task_that_reads_descriptions_hears_nothing(
    tape: Tape, student_dir: Path, tmp_path: Path
) -> None:
    text = '[terms.text_pooled]\nweight = 1.0\n[tasks.a]\nreads = "description"\n'
    (tmp_path / "read.toml").write_text(text)
    launch = Launch(tape=Path(tape.location), student=student_dir, out=tmp_path / "run", more=(
        "--recipe", str(tmp_path / "read.toml"), "--max-steps", "1"))  # fmt: skip
    result = train_here(launch)
    assert result.exit_code == 1
    assert "reads descriptions, and text_pooled compare what is heard" in result.output
