from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import evaluations
import pytest
import tiny_audio_lm
import torch

from audio_models import generate as generation
from audio_models.drawing import Drawn, draws_of
from audio_models.generate import Decoding
from audio_models.load import AudioLM, load_audio_lm
from cache_schema import TapeRow, open_tape
from cache_schema.errors import ModelError
from train.evaluate import generate
from train.evaluate.benchmarks import BENCHMARKS, item_of
from train.evaluate.generate import Generator
from train.evaluate.prompting import prompt_text, take_apart
from train.evaluate.types import Item, Response

Asked = list[tuple[Item, TapeRow]]
GREEDY = Decoding(max_new_tokens=12)
DRAWN = Decoding(max_new_tokens=12, temperature=1.0, top_p=0.9, seed=3)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    folder = tmp_path_factory.mktemp("asked")
    tape = open_tape(evaluations.save_tape(evaluations.save_dataset(folder), folder / "tape"))
    return [(item_of(row, BENCHMARKS["own"]), row) for row in tape]


@pytest.fixture(scope="module")
def short_hearing(tmp_path_factory: pytest.TempPathFactory) -> AudioLM:
    folder = tiny_audio_lm.save_qwen_audio(tmp_path_factory.mktemp("qwen_audio"))
    return load_audio_lm(str(folder), "float32", "cpu")


def responses_of(
    lm: AudioLM, asked: Sequence[tuple[Item, TapeRow]], decoding: Decoding, batch_tokens: int
) -> dict[str, Response]:
    batches = Generator(lm, decoding, batch_tokens=batch_tokens).answer(asked)
    found = [response for batch in batches for response in batch]
    assert len({response.sample_id for response in found}) == len(found) == len(asked)
    return {response.sample_id: response for response in found}


@pytest.mark.parametrize("decoding", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_responses_do_not_depend_on_batch_or_order(
    student: AudioLM, short_hearing: AudioLM, asked: Asked, decoding: Decoding
) -> None:
    for lm in (student, short_hearing):
        alone = responses_of(lm, asked, decoding, 1)
        assert len({response.text for response in alone.values()}) > 3
        for batch_tokens in (300, 100_000):
            assert responses_of(lm, asked[::-1], decoding, batch_tokens) == alone
        some = asked[3:4] + asked[1:2]
        assert responses_of(lm, some, decoding, 100_000).items() <= alone.items()


def test_a_seed_decides_what_is_drawn(student: AudioLM, asked: Asked) -> None:
    first = responses_of(student, asked, DRAWN, 100_000)
    assert responses_of(student, asked, replace(DRAWN, seed=4), 100_000) != first
    assert responses_of(student, asked, GREEDY, 100_000) != first
    longer = responses_of(student, asked, replace(DRAWN, max_new_tokens=14), 100_000)
    for sample_id, response in first.items():
        if response.finish == "length":
            assert longer[sample_id].num_tokens > response.num_tokens


def test_draws_follow_the_distribution() -> None:
    shares = torch.tensor([0.5, 0.2, 0.0, 0.2, 0.1])
    rows = 4000
    numbers_BR = draws_of(0, [f"row-{index}" for index in range(rows)], 3)
    ids = torch.zeros(rows, 7, dtype=torch.long)
    for step in range(3):
        drawn = Drawn(numbers_BR, 7 - step)(ids, shares.log().expand(rows, 5)).argmax(dim=-1)
        seen = Counter(drawn.tolist())
        for token, share in enumerate(shares.tolist()):
            # five standard deviations of a count; nothing of what has no probability
            width = 5 * math.sqrt(rows * share * (1 - share))
            assert abs(seen[token] - rows * share) <= width
    assert torch.equal(draws_of(0, ["row-7"], 2), numbers_BR[7:8, :2])


def test_audio_that_would_be_cut_is_an_error(short_hearing: AudioLM, tmp_path: Path) -> None:
    data = evaluations.save_dataset(tmp_path, (0.5, 4.5, 3.9))
    tape = open_tape(evaluations.save_tape(data, tmp_path / "tape"))
    asked = [(item_of(row, BENCHMARKS["own"]), row) for row in tape]
    found = responses_of(short_hearing, asked, GREEDY, 100_000)
    assert [found[f"row-{index}"].finish == "error" for index in range(3)] == [False, True, False]
    assert found["row-1"].error == "4.5 s of audio, and the model hears 4 s"


def test_a_prompt_too_long_for_the_model_is_an_error(student: AudioLM, asked: Asked) -> None:
    limit = student.model.config.get_text_config().max_position_embeddings
    found = responses_of(student, asked[:1], replace(GREEDY, max_new_tokens=limit), 1)
    assert f"the model takes {limit}" in found["row-0"].error


def test_a_row_that_fails_leaves_the_others_alone(student: AudioLM, asked: Asked) -> None:
    whole = responses_of(student, asked, GREEDY, 100_000)
    item, row = asked[2]
    broken = [*asked[:2], (replace(item, question="<|AUDIO|>"), row), *asked[3:]]
    found = responses_of(student, broken, GREEDY, 100_000)
    assert "placeholder" in found["row-2"].error
    assert {k: v for k, v in found.items() if k != "row-2"} == {
        k: v for k, v in whole.items() if k != "row-2"
    }


def test_batches_that_do_not_fit_are_halved(
    student: AudioLM,
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = responses_of(student, asked, DRAWN, 100_000)
    sizes = []

    def short(fits: int) -> None:
        def tight(lm: object, requests: Sequence[object], *rest: object) -> object:
            sizes.append(len(requests))
            if len(requests) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory. (a test's)")
            return generation.generate_batch(lm, requests, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(generate, "generate_batch", tight)

    short(2)
    assert responses_of(student, asked, DRAWN, 100_000) == whole
    assert sizes[:2] == [7, 3]
    assert max(sizes[2:]) <= 2
    assert "out of memory with 7 rows" in capsys.readouterr().err
    short(0)
    with pytest.raises(ModelError, match=r"single row of \d+ tokens .*sample 'row-4'"):
        responses_of(student, asked, DRAWN, 100_000)


def test_logits_that_are_no_numbers_are_no_answer(student_dir: Path, asked: Asked) -> None:
    lm = load_audio_lm(str(student_dir), "float32", "cpu")
    with torch.no_grad():
        lm.model.get_output_embeddings().weight[3] = torch.nan
    for decoding in (GREEDY, DRAWN):
        found = responses_of(lm, asked[:2], decoding, 100_000)
        assert {response.error for response in found.values()} == {
            "the model's logits are not numbers (NaN)"
        }


@pytest.mark.parametrize(
    ("text", "finish", "prompt", "trace", "answer"),
    [
        ("<think>so</think> yes", "stop", "", "so", "yes"),
        (
            "<THINK><PLANNING>p</PLANNING><SUMMARY>s</SUMMARY></THINK><RESPONSE>no</RESPONSE>",
            "stop",
            "",
            "<PLANNING>p</PLANNING><SUMMARY>s</SUMMARY>",
            "no",
        ),
        ("yes", "stop", "", "", "yes"),
        ("ye", "length", "", "", ""),
        ("<think>so on and", "length", "", "so on and", ""),
        ("so</think>no", "stop", "<|im_start|>assistant\n<think>\n", "so", "no"),
        ("so it is", "stop", "<think>", "so it is", ""),
    ],
)
def test_trace_and_answer_are_told_apart(
    text: str, finish: str, prompt: str, trace: str, answer: str
) -> None:
    response = take_apart("a", text, 5, finish, prompt)
    assert (response.trace, response.answer) == (trace, answer)
    assert (response.text, response.num_tokens, response.finish) == (text, 5, finish)


def test_what_is_asked() -> None:
    item = Item(sample_id="a", question="Which?", choices=("yes", "no"), answer="yes")
    assert prompt_text(item) == "Which?\nChoices: yes, no"
    assert prompt_text(item, "Be short.") == "Which?\nChoices: yes, no\nBe short."
    assert prompt_text(replace(item, choices=(), question=""), "Transcribe.") == "Transcribe."


def test_numbers_do_not_change_between_releases() -> None:
    # with other numbers a resumed evaluation would mix two ways of drawing
    assert draws_of(7, ["a"], 2)[0].tolist() == [0.2416285016683003, 0.9107241430859885]
