"""Terms on the student's audio tower, on a real student and a real tape, against references."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import heard_tape
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from audio_models.load import AudioLM, load_audio_lm
from audio_models.tower_inside import InnerTower
from cache_schema import Tape, open_tape
from cache_schema.errors import ModelError
from cache_schema.signals import AUDIO_ROW
from train.batch.build import Needs, Share, TrainBatch, load_batches
from train.heads import AudioHead, load_heads, save_heads
from train.losses import eager
from train.objective import Objective
from train.steps.ring import HostBuffer, Readers
from train.terms.needs import signals_read
from train.terms.recipe import TermsRecipe
from train.terms.resolve import Term, check_signals, resolve_terms

NAMES = ("r0", "r2", "r3", "r5")
SECTIONS: dict[str, dict[str, Any]] = {
    "acoustic_utterance": {"weight": 1.0, "source": "mood", "temperature": 2.0},
    "acoustic_utterance-voice": {"weight": 0.5, "source": "voice", "pooling": "statistics"},
    "acoustic_frames": {"weight": 0.3, "source": "events", "temperature": 3.0},
    "acoustic_embedding": {"weight": 0.7, "source": "voice", "distance": "cosine_mse"},
}
# float32 sums of some dozens, in another order
TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Tape:
    return open_tape(
        heard_tape.record(tmp_path_factory.mktemp("heard"), ("mood", "events", "voice"))
    )


@pytest.fixture
def lm(student_dir: Path) -> AudioLM:
    return load_audio_lm(str(student_dir), "float32", "cpu")


def terms_of(tape: Tape, sections: dict[str, dict[str, Any]] | None = None) -> tuple[Term, ...]:
    recipe = TermsRecipe.from_values(sections or SECTIONS, "recipe.terms")
    check_signals(recipe, tape)
    return resolve_terms(recipe, tape, 2)


def load(
    lm: AudioLM, tape: Tape, needs: Needs, shares: Sequence[Sequence[str]]
) -> list[TrainBatch]:
    buffer = HostBuffer()
    with Readers() as readers:
        rows = [[(name, AUDIO_ROW) for name in share] for share in shares]
        found = [Share(tape=tape, needs=needs, rows=each) for each in rows]
        batches = load_batches(lm, found, buffer, readers)
        buffer.wait()
    return batches


def objective(lm: AudioLM, terms: tuple[Term, ...]) -> Objective:
    torch.manual_seed(0)
    return Objective(lm.model, terms, lm.width, 16)


def gradients(module: Objective, value: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    value.backward(retain_graph=True)
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def compare(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    largest = max(float(each.abs().max()) for each in other.values())
    for name in one.keys() | other.keys():
        found, expected = (each.get(name, torch.zeros(())) for each in (one, other))
        # of small gradients the digits of the large ones they are sums of
        torch.testing.assert_close(*torch.broadcast_tensors(found, expected), rtol=1e-3,
                                   atol=1e-5 * max(largest, 1e-3))  # fmt: skip


def frames_of(lm: AudioLM, batch: TrainBatch) -> list[Tensor]:
    """Return each row's tower frames, normalised, of a tower that runs alone on the row alone."""
    counts = [len(times) for times in batch.audio.tower_times_s]
    frames_ND = InnerTower(lm.model).run(batch.audio)
    mean, std = frames_ND.mean(-1, keepdim=True), frames_ND.var(-1, keepdim=True, correction=0)
    return list(((frames_ND - mean) / (std + 1e-5).sqrt()).split(counts))


def reference(lm: AudioLM, tape: Tape, term: Term, head: AudioHead, batch: TrainBatch) -> Tensor:
    """Return a term by its definition, row by row and frame by frame."""
    total = torch.zeros(())
    weight, bias = head.linear.weight, head.linear.bias
    name = f"{term.source}/{term.spec.signal}"
    temperature = getattr(term.settings, "temperature", 1.0)
    for sample, row_FD, times_s in zip(
        NAMES, frames_of(lm, batch), batch.audio.tower_times_s, strict=True
    ):
        said: Any = tape[sample][name]
        pooled = row_FD.mean(0)
        if head.attention is not None:
            scores_F1 = head.attention.score(head.attention.hidden(row_FD).tanh())
            pooled = eager.attentive_statistics(row_FD, scores_F1[:, 0])
        if term.spec.signal == "embedding":
            student_1E, teacher_1E = (
                (pooled @ weight.T + bias)[None],
                torch.tensor(said.values)[None],
            )
            total = total + eager.cosine_of_each(student_1E, teacher_1E).sum()
            total = total + eager.relative_mse_of_each(student_1E, teacher_1E).sum()
        elif term.spec.signal == "utterance_logits":
            logits_1C = (pooled @ weight.T + bias)[None]
            kl = eager.dense_forward_kl(torch.tensor(said.logits)[None], logits_1C, temperature)
            total = total + temperature**2 * kl.sum()
        else:
            beliefs_FC = (torch.tensor(said.logits) / temperature).sigmoid()
            for frame_D, own_s in zip(row_FD, times_s.tolist(), strict=True):
                if own_s[0] >= said.times_s[-1, 1]:  # the teacher's front end leaves out the end
                    continue
                p_C = eager.mean_over_time(beliefs_FC, torch.tensor(said.times_s), tuple(own_s))
                teacher_1C = temperature * p_C.logit()[None]
                kl = eager.dense_binary_kl(
                    teacher_1C, (frame_D @ weight.T + bias)[None], temperature
                )
                total = total + temperature**2 * kl.sum()
    return total


@pytest.mark.parametrize("name", list(SECTIONS))
def test_values_and_gradients_equal_the_references(lm: AudioLM, tape: Tape, name: str) -> None:
    terms = terms_of(tape, {name: SECTIONS[name]})
    (batch,) = load(lm, tape, signals_read(terms), [NAMES])
    module = objective(lm, terms)
    (value,) = module(batch)
    found = gradients(module, value)
    head = module.projectors[name]
    assert isinstance(head, AudioHead)
    expected = reference(lm, tape, terms[0], head, batch)
    torch.testing.assert_close(value, expected, **TOLERANCE)
    compare(found, gradients(module, expected))
    assert any(n.startswith("model.audio_tower.layers.0.") for n in found)
    counts = module.counts(batch)
    assert int(counts) == (batch.recordings.frames["events/frame_logits"].meeting.count
                           if name == "acoustic_frames" else len(NAMES))  # fmt: skip


def test_micro_batches_and_what_is_beside_a_row_change_nothing(lm: AudioLM, tape: Tape) -> None:
    terms = terms_of(tape)
    module = objective(lm, terms)
    needs = signals_read(terms)
    (whole,) = load(lm, tape, needs, [NAMES])
    scale_M = torch.tensor([1.0, 0.5, 0.01, 0.7])
    loss, sums_M = module(whole, scale_M)
    expected = gradients(module, loss)
    parts = load(lm, tape, needs, [NAMES[:1], NAMES[1:3], NAMES[3:]])
    module.zero_grad()
    total_M, counts_M = torch.zeros(4), torch.zeros(4, dtype=torch.float64)
    for part in parts:
        loss, part_M = module(part, scale_M)
        loss.backward()
        total_M += part_M
        counts_M += module.counts(part)
    torch.testing.assert_close(total_M, sums_M, **TOLERANCE)
    torch.testing.assert_close(counts_M, module.counts(whole))
    found = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    compare(found, expected)


def test_the_language_model_runs_only_where_something_reads_it(
    lm: AudioLM, tape: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it or without it the terms are the same."""
    terms = terms_of(tape)
    (batch,) = load(lm, tape, signals_read(terms), [NAMES])
    module = objective(lm, terms)
    ran = []
    lm.model.get_decoder().register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        alone_M = module(batch)
        assert not ran
        monkeypatch.setattr("train.terms.tower.all", lambda _: False, raising=False)
        whole_M = module(batch)
    assert ran
    # the same frames of the same kernels, but for how a batch is laid out
    torch.testing.assert_close(whole_M, alone_M, **TOLERANCE)


def test_autocast_leaves_heads_in_float32(lm: AudioLM, tape: Tape) -> None:
    module = objective(lm, terms_of(tape))
    head = module.projectors["acoustic_utterance"]
    frames = torch.randn(7, 32).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(frames, [3, 4]).dtype == torch.float32


def test_saved_heads_are_read_back(lm: AudioLM, tape: Tape, tmp_path: Path) -> None:
    module = objective(lm, terms_of(tape))
    save_heads(dict(module.projectors.items()), tmp_path)
    heads = load_heads(tmp_path)
    assert list(heads) == list(SECTIONS)
    assert heads["acoustic_utterance"].spec.labels == ("angry", "glad", "sad")
    assert heads["acoustic_frames"].spec.multi_label
    frames = torch.randn(9, 32)
    for name, head in heads.items():
        assert not head.training
        assert torch.equal(head(frames, [4, 5]), module.projectors[name](frames, [4, 5]))


@pytest.mark.parametrize("fault", ["none", "no json", "unknown", "fewer", "no tensor file"])
def test_heads_that_cannot_be_read_are_named(
    lm: AudioLM, tape: Tape, tmp_path: Path, fault: str
) -> None:
    if fault != "none":
        module = objective(lm, terms_of(tape))
        save_heads(dict(module.projectors.items()), tmp_path)
        about, weights = tmp_path / "heads" / "heads.json", tmp_path / "heads" / "heads.safetensors"
        if fault == "no json":
            about.write_text("{")
        elif fault == "unknown":
            about.write_text(json.dumps({"a": {"colour": 1}}))
        elif fault == "fewer":
            save_file({"acoustic_frames.linear.weight": torch.zeros(1)}, weights)
        else:
            weights.unlink()
    expected = "no heads/heads.json" if fault == "none" else "heads: "
    with pytest.raises(ModelError, match=expected):
        load_heads(tmp_path)


def test_a_student_without_heads_has_no_folder_of_them(tmp_path: Path) -> None:
    save_heads({"a": torch.nn.Linear(1, 1)}, tmp_path)
    assert list(tmp_path.iterdir()) == []
