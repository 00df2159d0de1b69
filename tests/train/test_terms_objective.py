"""Every term of the objective on a real student, against its readable reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import terms_tape
import tiny_audio_lm
import torch
from objective_batches import NAMES, TOLERANCE, compare, gradients, load, objective, terms_of
from online_terms import ONLINE, online
from terms_tape import TEXT_LAYERS
from torch import Tensor

from audio_models.decoder import decoder_of
from audio_models.load import AudioLM, load_audio_lm
from cache_schema import Tape, open_tape
from train.batch.build import TrainBatch
from train.batch.targets import TopKTargets
from train.losses import eager
from train.terms.recipe import TERMS
from train.terms.resolve import StatesAt, Term

VOCABULARY = 270
PAIRED = "1:1,2:2"
MORE = {
    "text_lens": {"layers": "1:2,2:4", "divergence": "jsd"},
    "text_hidden": {"layers": "1:2,2:4"},
    "acoustic_lens": {"layers": PAIRED},
    "acoustic_hidden": {"layers": PAIRED, "distance": "cka"},
    "acoustic_response": {"layers": PAIRED, "distance": "mse"},
    "acoustic_kl": {"temperature": 2.0},
    "text_jsd": {"beta": 0.3},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> AudioLM:
    path = tiny_audio_lm.save_omni(tmp_path_factory.mktemp("teacher"), seed=1)
    return load_audio_lm(str(path), "float32", "cpu")


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory, student: AudioLM, teacher: AudioLM) -> Tape:
    """Of the acoustic teacher every token is kept: k = V."""
    folder = tmp_path_factory.mktemp("tape")
    return open_tape(terms_tape.write(folder / "tape", student, teacher, k=VOCABULARY))


@pytest.fixture
def model(student_dir: Path) -> AudioLM:
    return load_audio_lm(str(student_dir), "float32", "cpu")


@pytest.fixture(scope="module")
def every_term(tape: Tape) -> tuple[Term, ...]:
    names = [name for name, spec in TERMS.items() if spec.at in ("token", "audio")]
    sections = {name: {"weight": 1.0, **MORE.get(name, {})} for name in names}
    return terms_of(tape, **sections, **{"acoustic_kl-second": {"weight": 1.0, "source": "second"}})


@pytest.mark.parametrize("name", list(ONLINE))
def test_with_k_equal_v_offline_equals_online(
    tape: Tape, model: AudioLM, teacher: AudioLM, name: str
) -> None:
    """From the tape or from a teacher in memory: the same value, the same gradients."""
    terms = terms_of(tape, **{name: {"weight": 1.0, **MORE.get(name, {})}})
    (batch,) = load(model, tape, terms, [NAMES])
    module = objective(model, terms)
    (value,) = module(batch)
    found = gradients(module, value)
    expected = ONLINE[name](model, teacher, batch, online(model, teacher, batch))
    torch.testing.assert_close(value, expected, **TOLERANCE)
    compare(found, gradients(module, expected))


def test_a_projected_state_and_drawn_tokens_equal_their_references(
    tape: Tape, model: AudioLM, teacher: AudioLM
) -> None:
    sections = {"text_hidden": MORE["text_hidden"], "text_sampled": {}}
    terms = terms_of(tape, **{name: {"weight": 1.0, **each} for name, each in sections.items()})
    (batch,) = load(model, tape, terms, [NAMES])
    module = objective(model, terms)
    values = dict(zip((term.name for term in terms), module(batch), strict=True))
    found = {name: gradients(module, value) for name, value in values.items()}
    seen = online(model, teacher, batch)
    hidden = [tape[name]["textual/hidden"].states for name in NAMES]
    recorded = torch.cat([torch.from_numpy(each) for each in hidden])
    distances = []
    for index, (layer, other) in enumerate(((1, 2), (2, 4))):
        projected = module.projectors[f"text_hidden-{layer}-{other}"](
            seen.student[StatesAt("acoustic", at="token")][layer]
        )
        teachers = recorded[:, index]
        distances.append(
            eager.cosine_of_each(projected, teachers).sum()
            + eager.relative_mse_of_each(projected, teachers).sum()
        )
    shares = torch.zeros(seen.logits.shape)
    row = 0
    for name in NAMES:
        drawn = tape[name]["textual/sampled"]
        for start, stop in zip(drawn.offsets[:-1], drawn.offsets[1:], strict=True):
            ids = torch.from_numpy(drawn.token_ids[start:stop])
            shares[row, ids] = torch.from_numpy(drawn.counts[start:stop] / drawn.num_draws).float()
            row += 1
    expected = {
        "text_hidden": torch.stack(distances).mean(),
        "text_sampled": eager.dense_expected_cross_entropy(shares, seen.logits).sum(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value, **TOLERANCE)
        compare(found[name], gradients(module, value))


def test_three_micro_batches_equal_one_for_every_term(
    tape: Tape, model: AudioLM, every_term: tuple[Term, ...]
) -> None:
    """A token's weight depends on no token it is batched with, nor does padding change anything."""
    module = objective(model, every_term)
    (whole,) = load(model, tape, every_term, [NAMES])
    together = module(whole)
    parts = [module(each) for each in load(model, tape, every_term, [[n] for n in NAMES])]
    apart = torch.stack(parts).sum(0)
    counts = torch.stack(
        [module.counts(b) for b in load(model, tape, every_term, [[n] for n in NAMES])]
    )
    torch.testing.assert_close(counts.sum(0), module.counts(whole))
    for number, term in enumerate(every_term):
        torch.testing.assert_close(apart[number], together[number], msg=term.name, **TOLERANCE)
        compare(gradients(module, apart[number]), gradients(module, together[number]))


def test_what_stands_at_ignored_tokens_changes_nothing(
    tape: Tape, model: AudioLM, every_term: tuple[Term, ...]
) -> None:
    """Padding behind a row holds any id; what the losses see is the same to the last bit."""
    module = objective(model, every_term)
    (batch,) = load(model, tape, every_term, [NAMES])
    before = module(batch)
    inputs = dict(batch.audio.inputs)
    padding = inputs["attention_mask"] == 0
    assert padding.any()
    inputs["input_ids"] = inputs["input_ids"].masked_fill(padding, 7)
    after = module(replace(batch, audio=replace(batch.audio, inputs=inputs)))
    assert torch.equal(before, after)


def test_the_first_response_token_counts_and_the_last_position_does_not(
    tape: Tape, model: AudioLM
) -> None:
    """Masks are not shifted: token t is judged where it is predicted, one position before it."""
    terms = terms_of(tape, ce={"weight": 1.0}, acoustic_kl={"weight": 1.0})
    (batch,) = load(model, tape, terms, [NAMES[:1]])
    logits = model.model(**batch.audio.inputs, use_cache=False).logits[0]
    ids = batch.audio.inputs["input_ids"][0]
    count = len(batch.target_ids)
    assert torch.equal(ids[-count:], batch.target_ids)
    ce, kl = objective(model, terms)(batch)
    judged = logits[-count - 1 : -1]
    torch.testing.assert_close(ce, eager.dense_cross_entropy(judged, ids[-count:]).sum())
    first = batch.topk["acoustic"]
    said = torch.full((count, VOCABULARY), -torch.inf)
    said.scatter_(1, first.token_ids, first.logprobs)
    torch.testing.assert_close(kl, eager.dense_forward_kl(said, judged, 1.0).sum(), **TOLERANCE)


def gradient_of_logits(lm: AudioLM, terms: tuple[Term, ...], batch: TrainBatch) -> Tensor:
    """Return the gradient of all terms' sum at the unembedding's bias, one entry a token id."""
    head = lm.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(VOCABULARY))
    module = objective(lm, terms)
    module(batch).sum().backward()
    return head.bias.grad


@pytest.mark.parametrize(
    "name", [n for n, spec in TERMS.items() if spec.signal in ("topk", "lens")]
)
def test_tokens_in_the_tail_get_gradient(tape: Tape, model: AudioLM, name: str) -> None:
    side = name.partition("_")[0]
    layers = {"layers": PAIRED if side == "acoustic" else "1:2,2:4"} if "lens" in name else {}
    terms = terms_of(tape, **{name: {"weight": 1.0, **layers}})
    (batch,) = load(model, tape, terms, [NAMES])
    source = terms[0].source

    def narrow(topk: TopKTargets) -> TopKTargets:
        rest = topk.logprobs[:, 4:].exp().sum(-1) + topk.tail
        return TopKTargets(
            token_ids=topk.token_ids[:, :4] % 9, logprobs=topk.logprobs[:, :4], tail=rest
        )

    batch = replace(
        batch,
        topk={each: narrow(topk) for each, topk in batch.topk.items()},
        lens={s: {n: narrow(topk) for n, topk in m.items()} for s, m in batch.lens.items()},
    )
    assert source in {**batch.topk, **batch.lens}
    in_tail = gradient_of_logits(model, terms, batch)[9:]
    assert (in_tail != 0).all()


def test_the_lens_trains_the_layer_it_reads_and_the_readout_if_asked(
    tape: Tape, model: AudioLM
) -> None:
    found = {}
    for readout in ("trained", "fixed"):
        section = {"weight": 1.0, "layers": "1:2", "readout": readout}
        terms = terms_of(tape, text_lens=section)
        (batch,) = load(model, tape, terms, [NAMES])
        module = objective(model, terms)
        (value,) = module(batch)
        found[readout] = (value.detach(), gradients(module, value))
        assert all(p.requires_grad for p in decoder_of(model.model).norm.parameters())
    torch.testing.assert_close(found["trained"][0], found["fixed"][0], rtol=0, atol=0)
    norm = decoder_of(model.model).norm.weight
    head = model.model.get_output_embeddings().weight
    names = {n for n, p in module.named_parameters() if p is norm or p is head}
    trained, fixed = (found[each][1] for each in ("trained", "fixed"))
    assert trained.keys() - fixed.keys() == names
    assert len(names) == 2
    compare(fixed, {n: g for n, g in trained.items() if n not in names})
    # layer 1 is read, so block 2 has no part in it
    assert any("layers.0." in n and float(g.abs().max()) > 0 for n, g in fixed.items())
    assert not any("model.layers.1." in n for n in fixed)


def test_no_more_logits_than_a_chunk_exist(
    tape: Tape, model: AudioLM, every_term: tuple[Term, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    head = model.model.get_output_embeddings()
    hook = head.register_forward_hook(
        lambda _m, _a, output: seen.append(output.numel() // VOCABULARY)
    )
    module = objective(model, every_term, chunk=5)
    (batch,) = load(model, tape, every_term, [NAMES])
    module(batch).sum().backward()
    hook.remove()
    assert max(seen) == 5
    assert len(batch.target_ids) > 50


def test_terms_that_need_nothing_load_nothing(tape: Tape, model: AudioLM) -> None:
    terms = terms_of(tape, ce={"weight": 1.0}, text_lens={"weight": 1.0, "layers": "2:4"})
    (batch,) = load(model, tape, terms, [NAMES])
    assert (batch.topk, batch.sampled, batch.states) == ({}, {}, {})
    assert {source: list(layers) for source, layers in batch.lens.items()} == {"textual": [4]}


def test_projectors_stand_where_widths_differ_and_the_distance_minds(
    tape: Tape, model: AudioLM
) -> None:
    def names(**section: object) -> list[str]:
        terms = terms_of(
            tape,
            text_hidden={"weight": 1.0, "layers": "1:2,2:4", **section},
            acoustic_hidden={"weight": 1.0, "layers": PAIRED},
        )
        return list(objective(model, terms).projectors)

    both = ["text_hidden-1-2", "text_hidden-2-4"]
    assert names() == both
    assert names(distance="cka") == []
    assert names(distance="cka", projector="linear") == both
    assert TEXT_LAYERS == (2, 4)


@pytest.mark.gpu
def test_every_term_on_a_gpu_equals_the_cpu(
    tape: Tape, model: AudioLM, every_term: tuple[Term, ...]
) -> None:
    module = objective(model, every_term)
    (batch,) = load(model, tape, every_term, [NAMES])
    expected = module(batch).detach()
    device = torch.device("cuda")
    found = module.to(device)(batch.to(device))
    found.sum().backward()
    # float32 matrix products in another order
    torch.testing.assert_close(found.detach().cpu(), expected, rtol=1e-3, atol=1e-4)
