"""Prompts as files, the rules by which traces are chosen, drawn tokens counted, wheels packed."""

from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from cache_schema.answers.forms import FORMS, parse_trace
from cache_schema.commands.recipes import load_recipe
from cache_schema.errors import ModelError, UsageError
from cache_schema.rows.values import sampled_of, sampled_row
from pipeline.extract import check as check_extraction
from pipeline.prompts import load_prompt, shipped_prompts
from pipeline.recipe import DatasetRecipe, ExtractRecipe, TapeRecipe
from pipeline.textual_recipe import SELECTIONS, TextualRecipe
from pipeline.token_rows import counted
from pipeline.traces.candidate import Candidate
from pipeline.traces.check import check_traces
from pipeline.traces.select import KEPT, is_right, select

GOOD = 'form = "think"\nuser = "{description} {question}"\n'
RATIONALE = 'rationale = "{description} {question} {answer}"\n'


def test_shipped_prompts() -> None:
    assert shipped_prompts() == ["cota.v1", "plain.v1", "think.v1"]
    assert TextualRecipe().prompt in shipped_prompts()
    for name in shipped_prompts():
        prompt = load_prompt(name)
        assert prompt.form == name.partition(".")[0]
        for messages in (
            prompt.ask("A {dog} barks.", "Who?", ("a", "b")),
            prompt.ask_why("A {dog} barks.", "Who?", ("a", "b"), "a {b}"),
        ):
            (message,) = messages
            assert message["role"] == "user", "some templates refuse a system role"
            assert "A {dog} barks." in message["content"]
            assert "Who?\nChoices: a, b" in message["content"]
        assert "a {b}" in message["content"]
        assert len(prompt.ask("", "", ())[0]["content"]) < 350, "some contexts are small"
        assert (
            prompt.digest
            == hashlib.sha256(Path(f"pipeline/prompts/{name}.toml").read_bytes()).hexdigest()
        )


def test_the_words_of_plain_are_those_teachers_were_trained_on() -> None:
    (message,) = load_prompt("plain.v1").ask("Transcript: two", "Even?", ("yes", "no"))
    assert message["content"] == (
        "Description of the audio: Transcript: two\nQuestion: Even?\nChoices: yes, no"
    )


def test_the_form_that_cota_shows_is_the_form_it_is_parsed_by() -> None:
    content = load_prompt("cota.v1").ask("", "", ())[0]["content"]
    parsed = parse_trace(content[content.index("<THINK>") :], "cota")
    assert parsed.complete
    assert parsed.problems == ()
    assert set(parsed.parts) == {*FORMS["cota"], "response"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD, "rationale"),
        (GOOD + RATIONALE.replace("{answer}", ""), "lacks the field {answer}"),
        (GOOD.replace("{question}", "{qestion}") + RATIONALE, "did you mean 'question'"),
        (GOOD.replace("{question}", "{question.text}") + RATIONALE, "unknown field"),
        (GOOD.replace("{question}", "{question:d}") + RATIONALE, "prompt.user"),
        (GOOD.replace("{question}", "{question") + RATIONALE, "prompt.user"),
        (GOOD.replace("{question}", "{question} {}") + RATIONALE, "unknown field {}"),
        (GOOD + RATIONALE + "sytem = 1", "unknown key 'sytem'"),
        (GOOD.replace("think", "thnik") + RATIONALE, "did you mean 'think'"),
        (GOOD.replace('"think"', "3") + RATIONALE, "expected str"),
        ("form = ", "Invalid value"),
    ],
)
def test_mistakes_in_a_prompt_are_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(UsageError) as caught:
        load_prompt(str(file))
    assert message in str(caught.value)


def test_a_prompt_of_the_users(tmp_path: Path) -> None:
    file = tmp_path / "mine.v2.toml"
    file.write_text(GOOD.replace("{question}", "{question} {{so}}") + RATIONALE)
    prompt = load_prompt(str(file))
    assert prompt.name == "mine.v2.toml"
    assert prompt.ask("d", "q", ())[0]["content"] == "d q {so}"
    with pytest.raises(UsageError, match=r"did you mean 'cota\.v1'"):
        load_prompt("cota.v2")
    with pytest.raises(UsageError, match="No such file"):
        load_prompt("nowhere.toml")


def test_settings_are_checked_before_anything_runs(tmp_path: Path, text_teacher: Path) -> None:
    def check(*overrides: str) -> None:
        check_traces(load_recipe(TextualRecipe, None, [f"teacher={text_teacher}", *overrides]))

    template = tmp_path / "chat.jinja"
    template.write_text("")
    check("lens=1,3", f"chat={template}", "given=cot")
    for overrides, message in (
        (["lens=0,4"], "layers 0 to 3"),
        (["chat=nowhere.jinja"], "there is no such file"),
        (["prompt=cota"], "did you mean 'cota.v1'"),
        (["engine=transformers", "vllm.tensor_parallel_size=2"], "textual.vllm .*means nothing"),
        (["temperature=0.005"], "expected 0 .greedy. or 0.01 and above"),
        (["given=cot", "rationales=all"], "textual.rationales = 'all': means nothing"),
        (["given=cot", "temperature=0.5"], "textual.temperature = 0.5: means nothing"),
    ):
        with pytest.raises(UsageError, match=message):
            check(*overrides)


def test_the_teacher_is_checked_before_hours_of_ingesting(
    tmp_path: Path, text_teacher: Path
) -> None:
    def check(**settings: Any) -> None:
        check_extraction(
            ExtractRecipe(
                dataset=DatasetRecipe(path="rows.jsonl"),
                tape=TapeRecipe(out="tape"),
                textual=TextualRecipe(teacher=str(folder), **settings),
            )
        )

    folder = shutil.copytree(text_teacher, tmp_path / "teacher")
    check(engine="transformers")
    with pytest.raises(UsageError, match=r"quantisation: .* did you mean 'quantization'"):
        check(vllm={"quantisation": "fp8"})
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        check(engine="transformers")


def candidate(
    answer: str = "a",
    correct: bool | None = True,
    *,
    cut: bool = False,
    logprob: float = -1.0,
    length: int = 2,
) -> Candidate:
    return Candidate(
        text=answer,
        token_ids=np.zeros(length, np.int64),
        prompt_token_ids=np.zeros(1, np.int64),
        finish_reason="length" if cut else "stop",
        answer=answer,
        correct=correct,
        in_form=True,
        origin="free",
        draw=0,
        seed=0,
        logprob=logprob,
    )


RIGHT, WRONG, UNJUDGED = candidate(), candidate("b", False), candidate(correct=None)
CUT, EMPTY = candidate(cut=True), candidate("", False)
FAULTS = ["wrong answer", "truncated", "no answer"]


def test_all_keeps_all() -> None:
    assert select("all", [WRONG, CUT, EMPTY, RIGHT, UNJUDGED]) == [KEPT] * 5


def test_first_correct() -> None:
    assert select("first-correct", [WRONG, CUT, EMPTY, RIGHT, UNJUDGED, RIGHT]) == [
        *FAULTS, KEPT, "not judged", "not chosen",
    ]  # fmt: skip
    assert select("first-correct", [WRONG, CUT, EMPTY]) == FAULTS
    assert select("first-correct", []) == []


def test_best_logprob() -> None:
    short, long = candidate(logprob=-2.0), candidate(logprob=-3.0, length=6)
    assert select("best-logprob", [WRONG, short, long, CUT]) == [
        "wrong answer", "not chosen", KEPT, "truncated",
    ]  # fmt: skip
    unjudged = [candidate("a", None, logprob=-2.0), candidate("b", None), CUT]
    assert select("best-logprob", unjudged) == ["not chosen", KEPT, "truncated"]
    assert select("best-logprob", [candidate(logprob=math.nan), RIGHT]) == ["not chosen", KEPT]
    assert select("best-logprob", [RIGHT, RIGHT]) == [KEPT, "not chosen"], "the earlier of equals"


def test_majority() -> None:
    def answers(*given: str, choices: tuple[str, ...] = ()) -> list[int]:
        reasons = select("majority", [candidate(text, False) for text in given], choices)
        assert {*reasons} <= {KEPT, "not chosen", "no answer"}
        return [index for index, reason in enumerate(reasons) if reason == KEPT]

    assert answers("b", "a", "c", "A.") == [1]
    assert answers("b", "a", "a", "b") == [0], "ties go to the earlier"
    assert answers("8", "7.0", "seven") == [1]
    assert answers("red", "B", "blue", choices=("red", "blue")) == [1]
    assert answers("", "", "a") == [2]
    assert answers("", "") == []
    assert select("majority", [CUT, CUT, WRONG]) == ["truncated", "truncated", KEPT]


candidates = st.builds(
    candidate,
    st.sampled_from(["a", "b", "7", "seven", ""]),
    st.sampled_from([True, False, None]),
    cut=st.booleans(),
    logprob=st.floats(-9, 0) | st.just(math.nan),
    length=st.integers(0, 3),
)


@settings(deadline=None)
@given(st.sampled_from(SELECTIONS[1:]), st.lists(candidates, max_size=8))
def test_every_rule_gives_every_trace_one_fate(rule: str, traces: list[Candidate]) -> None:
    reasons = select(rule, traces)
    kept = [trace for trace, reason in zip(traces, reasons, strict=True) if reason == KEPT]
    assert len(reasons) == len(traces)
    assert len(kept) <= 1
    assert all(trace.complete for trace in kept)
    if rule == "first-correct":
        assert kept == [trace for trace in traces if is_right(trace)][:1]
    if rule == "best-logprob":
        assert all(trace.correct is not False for trace in kept)
    assert ("not chosen" in reasons) <= bool(kept)


drawn_ids = stn.arrays(
    np.int64, st.tuples(st.integers(0, 6), st.integers(1, 9)), elements=st.integers(0, 5)
)


@given(drawn_ids)
def test_drawn_tokens_are_counted(drawn: np.ndarray) -> None:
    drawn = np.sort(drawn, axis=1)
    found = counted(np.zeros(len(drawn), np.int64), drawn)
    back = sampled_of(sampled_row("a", 0, found), "here")
    for place, ids in enumerate(drawn):
        part = slice(back.offsets[place], back.offsets[place + 1])
        np.testing.assert_array_equal(np.repeat(back.token_ids[part], back.counts[part]), ids)
