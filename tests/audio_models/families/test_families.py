"""What families beside the Qwen2 ones compute: states, losses, answers, against the plain class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_audio_families
import torch
from family_requests import SECONDS, one_request, plain, requests_for, tone

from audio_models.forward import forward_with_states, unembed
from audio_models.generate import generate
from audio_models.inputs import Request, build_inputs
from audio_models.load import AudioLM, load_audio_lm
from audio_models.padding import hears_padding
from audio_models.rows_alone import join_rows
from cache_schema.errors import AudioError

# float32, states of order 1; a padded batch reorders the sums of attention and of matrix products
ATOL = 5e-5


def test_states_of_one_row_equal_those_of_the_untouched_class(
    lm: AudioLM, family_dir: Path
) -> None:
    network = type(lm.model).from_pretrained(family_dir, dtype=torch.float32).eval()
    for seconds in SECONDS:
        batch = build_inputs(lm, [one_request(lm, seconds)])
        with torch.no_grad():
            output = forward_with_states(lm.model, batch.inputs, [0, 1, 2], batch.predict_positions)
        expected = plain(lm, batch, network)
        for layer in (0, 1):
            torch.testing.assert_close(
                output.states[layer], expected.hidden_states[layer], atol=0, rtol=0
            )
        normed = lm.model.get_decoder().norm(output.states[2])
        torch.testing.assert_close(normed, expected.hidden_states[2], atol=0, rtol=0)
        assert not torch.allclose(output.states[2], expected.hidden_states[2], atol=1e-2)
        torch.testing.assert_close(
            output.logits_NV, expected.logits[0, batch.predict_positions[0]], atol=ATOL, rtol=1e-4
        )


def test_states_of_a_batch_equal_those_of_a_plain_pass(lm: AudioLM) -> None:
    requests = requests_for(lm)
    batch = build_inputs(lm, requests)
    with torch.no_grad():
        output = forward_with_states(lm.model, batch.inputs, [0, 1, 2], batch.predict_positions)
    expected = plain(lm, batch)
    normed = lm.model.get_decoder().norm(output.states[2])
    for index, request in enumerate(requests):
        columns = batch.predict_positions[index]
        np.testing.assert_array_equal(
            batch.inputs["input_ids"][index, columns + 1], request.response_ids
        )
        for positions in (batch.audio_positions[index], columns):
            for layer, ours in ((0, output.states[0]), (1, output.states[1]), (2, normed)):
                theirs = expected.hidden_states[layer][index, positions]
                torch.testing.assert_close(ours[index, positions], theirs, atol=0, rtol=0)
    torch.testing.assert_close(
        unembed(lm.model, output.readout_ND), output.logits_NV, atol=ATOL, rtol=1e-4
    )


@pytest.mark.parametrize("side", ["right", "left"])
def test_batched_rows_equal_single_rows(lm: AudioLM, side: str) -> None:
    requests = requests_for(lm)
    batch = build_inputs(lm, requests, padding_side=side)
    with torch.no_grad():
        output = forward_with_states(lm.model, batch.inputs, [0, 1, 2], batch.predict_positions)
    logits = torch.split(output.logits_NV, [len(p) for p in batch.predict_positions])
    for index, request in enumerate(requests):
        alone = build_inputs(lm, [request])
        with torch.no_grad():
            expected = forward_with_states(
                lm.model, alone.inputs, [0, 1, 2], alone.predict_positions
            )
        torch.testing.assert_close(logits[index], expected.logits_NV, atol=ATOL, rtol=1e-3)
        for layer in (0, 1, 2):
            ours = output.states[layer][index, batch.audio_positions[index]]
            theirs = expected.states[layer][0, alone.audio_positions[0]]
            torch.testing.assert_close(ours, theirs, atol=ATOL, rtol=1e-3)


def test_training_lowers_the_loss_and_reaches_every_part(family_dir: Path) -> None:
    lm = load_audio_lm(str(family_dir), "float32", "cpu")
    requests = requests_for(lm)
    targets = torch.from_numpy(np.concatenate([request.response_ids for request in requests]))
    batch = build_inputs(lm, requests)
    optimizer = torch.optim.SGD(lm.model.parameters(), lr=0.003)
    losses = []
    for _ in range(3):
        output = forward_with_states(lm.model, batch.inputs, [], batch.predict_positions)
        loss = torch.nn.functional.cross_entropy(output.logits_NV, targets)
        optimizer.zero_grad()
        loss.backward()
        for part, prefixes in lm.family.parts.items():
            grads = [
                parameter.grad.abs().sum()
                for name, parameter in lm.model.named_parameters()
                if name.startswith(prefixes) and parameter.grad is not None
            ]
            assert sum(grads) > 0, part
            assert np.isfinite(sum(grads).item()), part
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]


def test_answers_do_not_depend_on_the_batch(lm: AudioLM) -> None:
    requests = [Request(audio=one.audio, text=one.text) for one in requests_for(lm)]
    together = generate(lm, requests, max_new_tokens=4, batch_size=4)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = generate(lm, [request], max_new_tokens=4, batch_size=1)
        np.testing.assert_array_equal(alone.token_ids, answer.token_ids)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_runs_on_a_cpu(family_dir: Path, dtype: str) -> None:
    lm = load_audio_lm(str(family_dir), dtype, "cpu")
    batch = build_inputs(lm, requests_for(lm))
    with torch.no_grad():
        output = forward_with_states(lm.model, batch.inputs, [2], batch.predict_positions)
    assert output.states[2].dtype == getattr(torch, dtype)
    assert output.logits_NV.isfinite().all()


def test_a_student_of_any_family_is_saved_and_loaded_again(lm: AudioLM, tmp_path: Path) -> None:
    lm.model.save_pretrained(tmp_path)
    lm.processor.save_pretrained(tmp_path)
    again = load_audio_lm(str(tmp_path), "float32", "cpu")
    batch, other = (build_inputs(one, requests_for(lm)) for one in (lm, again))
    for key, value in batch.inputs.items():
        torch.testing.assert_close(value, other.inputs[key], atol=0, rtol=0, equal_nan=True)
    assert torch.equal(plain(lm, batch).logits, plain(again, other).logits)


def test_padding_of_rows_alone_is_no_number() -> None:
    rows = [
        {"input_ids": torch.ones(1, n, dtype=torch.long), "input_features": torch.zeros(1, n, 2)}
        for n in (2, 3)
    ]
    joined = join_rows(rows)
    assert [len(ids) for ids in joined["input_ids"]] == [2, 3]
    assert joined["input_features"].isnan().sum() == 2


def test_rows_alone_are_needed_where_the_table_says_so(lm: AudioLM, family_dir: Path) -> None:
    """The class as it comes lets a row of 0.5 s hear the padding that longer ones bring."""
    network = type(lm.model).from_pretrained(family_dir, dtype=torch.float32).eval()
    requests = requests_for(lm)
    if lm.family.features_alone:
        name = "audio_input_features" if lm.family.name.startswith("Phi") else "input_features"
        batch = build_inputs(lm, requests)
        batch.inputs[name] = batch.inputs[name].nan_to_num()
    else:
        batch = build_inputs(lm, requests)
    alone = build_inputs(lm, requests[:1])
    together = plain(lm, batch, network).hidden_states[0][0, batch.audio_positions[0]]
    single = plain(lm, alone, network).hidden_states[0][0, alone.audio_positions[0]]
    hears_padding = not torch.allclose(together, single, atol=ATOL, rtol=1e-3)
    assert hears_padding == (lm.family.rows_alone is not None)


@pytest.mark.parametrize("masked", [True, False])
def test_a_family_nobody_listed_is_tried_for_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masked: bool
) -> None:
    """Qwen3-Omni hears padding where rows do not run alone; GLM-ASR does not."""
    save = tiny_audio_families.save_glm_asr if masked else tiny_audio_families.save_qwen3_omni
    lm = load_audio_lm(str(save(tmp_path)), "float32", "cpu")
    assert not hears_padding(lm)
    if not masked:
        together = type(lm.model).get_audio_features.__get__(lm.model)
        monkeypatch.setattr(lm.model, "get_audio_features", together)
        assert hears_padding(lm)


def test_messages_leave_the_place_in_a_batch_out(lm: AudioLM) -> None:
    """Whoever calls names the sample; batches are halved, so a number would mean nothing."""
    good = one_request(lm, 1.0)
    for audio in (np.zeros(0, np.float32), np.full(8000, np.nan, np.float32)):
        with pytest.raises(AudioError) as told:
            build_inputs(lm, [good, Request(audio=audio, text="?")])
        assert "row" not in str(told.value)
    if lm.max_audio_s < float("inf"):
        audio = tone(lm.max_audio_s, 300.0)
        longer = np.append(audio, audio[:1])
        with pytest.raises(AudioError, match=rf"^{lm.max_audio_s:g}\.0001 s of audio"):
            build_inputs(lm, [Request(audio=longer, text="?")])


def test_text_alone_is_read_as_by_transformers(lm: AudioLM) -> None:
    """Rows without audio: prompt and response, padding changes nothing, no feature is needed."""
    answers = ("yes", "no, nothing at all")
    requests = [
        Request(
            audio=None,
            text=f"A tone, {word}. Which?",
            response_ids=np.asarray(lm.tokenizer(word)["input_ids"], dtype=np.int64),
        )
        for word in answers
    ]
    batch = build_inputs(lm, requests)
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    assert not (batch.inputs["input_ids"] == lm.audio_token_id).any()
    assert [len(row) for row in batch.audio_positions] == [0, 0]
    with torch.no_grad():
        together = forward_with_states(lm.model, batch.inputs, (1,), batch.predict_positions)
    start = 0
    for number, request in enumerate(requests):
        one = build_inputs(lm, [request])
        ids = one.inputs["input_ids"][0]
        where = one.predict_positions[0]
        assert request.response_ids is not None
        assert ids[where + 1].tolist() == request.response_ids.tolist()
        assert request.text in lm.tokenizer.decode(ids)
        logits = plain(lm, one).logits[0, where]
        own = together.logits_NV[start : start + len(where)]
        torch.testing.assert_close(own, logits, atol=10 * ATOL, rtol=1e-4, msg=f"row {number}")
        start += len(where)
