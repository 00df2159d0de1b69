"""Forms of a trace: what is taken out of it, what is told of it, and hostile texts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema.answers.forms import FORMS, opens_thinking, parse_trace
from cache_schema.errors import UsageError

WHOLE = (
    "<THINK><PLANNING>plan</PLANNING><CAPTION>heard</CAPTION><REASONING>steps</REASONING>"
    "<SUMMARY>so</SUMMARY></THINK><RESPONSE> yes </RESPONSE>"
)
TAGS = [
    f"<{slash}{name}>"
    for name in ("THINK", "thinking", "PLANNING", "Caption", "REASONING", "SUMMARY", "RESPONSE")
    for slash in ("", "/")
]


def test_a_whole_trace_of_every_form() -> None:
    cota = parse_trace(WHOLE, "cota")
    assert cota.parts == {
        "planning": "plan", "caption": "heard", "reasoning": "steps", "summary": "so",
        "response": "yes",
    }  # fmt: skip
    assert (cota.answer, cota.complete, cota.problems) == ("yes", True, ())
    assert parse_trace(WHOLE.lower(), "cota").parts == cota.parts
    think = parse_trace("<Thinking>hm</THINKING>\n\nseven.", "think")
    assert (think.parts, think.answer, think.complete) == ({"think": "hm"}, "seven.", True)
    plain = parse_trace("just seven", "plain")
    assert (plain.parts, plain.answer, plain.complete) == ({}, "just seven", True)


@pytest.mark.parametrize(
    ("form", "text", "answer", "problem"),
    [
        ("cota", WHOLE.replace("<CAPTION>heard</CAPTION>", ""), "yes", "missing CAPTION"),
        ("cota", WHOLE.replace("</CAPTION>", ""), "yes", "unclosed CAPTION"),
        ("cota", WHOLE.replace("<CAPTION>", ""), "yes", "unopened CAPTION"),
        ("cota", WHOLE.replace("CAPTION", "PLANNING"), "yes", "repeated PLANNING"),
        ("cota", WHOLE.replace("</RESPONSE>", ""), "yes", "unclosed RESPONSE"),
        ("cota", WHOLE.replace("<RESPONSE>", ""), "yes", "unopened RESPONSE"),
        ("cota", WHOLE.replace("<THINK>", ""), "yes", "unopened THINK"),
        ("cota", WHOLE.replace("</THINK>", ""), "yes", "unclosed THINK"),
        ("cota", WHOLE.replace("<THINK>", "").replace("</THINK>", ""), "yes", "missing THINK"),
        ("cota", "<RESPONSE>yes</RESPONSE><THINK>after</THINK>", "yes", "THINK out of order"),
        ("cota", "<THINK><SUMMARY>s</SUMMARY><CAPTION>c</CAPTION></THINK>yes", "yes",
         "CAPTION out of order"),
        ("cota", "<THINK>a</THINK><CAPTION>c</CAPTION>yes", "yes", "CAPTION outside THINK"),
        ("cota", "yes", "yes", "missing RESPONSE"),
        ("think", "seven", "seven", "missing THINK"),
        ("think", "<think>a</think>b<think>c</think>seven", "seven", "repeated THINK"),
        ("plain", "", "", "no answer"),
    ],
)  # fmt: skip
def test_what_is_not_of_the_form_is_told(form: str, text: str, answer: str, problem: str) -> None:
    parsed = parse_trace(text, form)
    assert parsed.answer == answer
    assert problem in parsed.problems
    unharmed = problem.startswith(("repeated", "unopened THINK"))
    assert parsed.complete is (unharmed and "PLANNING" not in problem)


@pytest.mark.parametrize(
    "text",
    [
        "<THINK><PLANNING>never ends",
        "<THINK><PLANNING>a</PLANNING> cut here",
        "<think>the form wants <RESPONSE>only the answer</RESPONSE>, so I",
        "<think>the form wants <RESPONSE> tags",
        "<RESPONSE>yes</RESPONSE> or rather <think>no",
    ],
)
def test_cut_inside_its_thinking(text: str) -> None:
    for form in FORMS:
        parsed = parse_trace(text, form, truncated=True)
        expected = "yes" if text.startswith("<RESPONSE>") else ""
        assert parsed.answer == expected
        assert not parsed.complete or form == "plain"


def test_a_cut_answer_is_none_and_a_whole_one_stands() -> None:
    assert parse_trace("<think>a</think>seventy", "think", truncated=True).answer == ""
    assert parse_trace("<RESPONSE>seventy", "cota", truncated=True).answer == ""
    assert parse_trace("seventy", "plain", truncated=True).answer == ""
    parsed = parse_trace(WHOLE + " and then", "cota", truncated=True)
    assert (parsed.answer, parsed.problems) == ("yes", ("truncated",))


def test_thinking_that_the_prompt_opened_and_forms_quoted_while_thinking() -> None:
    opened = parse_trace("I think <RESPONSE>no</RESPONSE> maybe</think>seven", "think")
    assert (opened.answer, opened.complete) == ("seven", True)
    native = parse_trace(f"<think>write <RESPONSE>x</RESPONSE> then</think>{WHOLE}", "cota")
    assert (native.answer, native.complete) == ("yes", True)
    assert native.parts == parse_trace(WHOLE, "cota").parts
    assert not any("out of order" in problem for problem in native.problems)
    moved = WHOLE.replace("</THINK>", "") + "</THINK>"
    assert parse_trace(moved, "cota").answer == "yes"


@pytest.mark.parametrize("form", sorted(FORMS))
def test_thinking_that_the_prompt_opened_and_nothing_ended(form: str) -> None:
    parsed = parse_trace("it may be seven", form, opened=True)
    assert (parsed.answer, parsed.complete) == ("", False)
    assert "unclosed THINK" in parsed.problems
    assert parse_trace("it may be seven", form).answer == "it may be seven", "not opened: no tags"
    ended = parse_trace("hm</think>seven", form, opened=True)
    assert (ended.answer, ended.parts.get("think", "hm")) == ("seven", "hm")
    assert "unopened THINK" not in ended.problems
    inside = parse_trace("hm <RESPONSE>seven</RESPONSE>", form, opened=True)
    assert inside.answer == "seven", "a closed response ends it as well"
    anew = parse_trace("<think>hm</think>seven", form, opened=True)
    assert anew.answer == "seven"


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|assistant|>\n<think>\n", True),
        ("<Thinking>", True),
        ("<think>\n\n</think>\n\n", False),  # how templates leave thinking out
        ("write <think>...</think> <|assistant|>", False),
        ("begin with <think> <|assistant|>", False),
        ("", False),
    ],
)
def test_prompts_that_open_a_thinking(prompt: str, opened: bool) -> None:
    assert opens_thinking(prompt) is opened


def test_no_such_form() -> None:
    with pytest.raises(UsageError, match="did you mean 'cota'"):
        parse_trace("", "cot")


pieces = st.lists(st.sampled_from([*TAGS, "a", " b ", "<", ">", "\n"]), max_size=30).map("".join)


@settings(deadline=None)
@given(
    text=pieces, form=st.sampled_from(sorted(FORMS)), truncated=st.booleans(), opened=st.booleans()
)
def test_any_order_of_tags(text: str, form: str, truncated: bool, opened: bool) -> None:
    parsed = parse_trace(text, form, truncated=truncated, opened=opened)
    assert parsed.answer in text
    assert parsed.answer == parsed.answer.strip()
    assert all(part in text for part in parsed.parts.values())
    assert len(set(parsed.problems)) == len(parsed.problems)
    assert not parsed.complete or parsed.answer
    lower = parse_trace(text.lower(), form, truncated=truncated, opened=opened)
    assert (lower.answer, lower.problems) == (parsed.answer.lower(), parsed.problems)


@settings(deadline=None)
@given(
    parts=st.lists(st.text(st.characters(exclude_characters="<")), min_size=5, max_size=5),
    wrap=st.sampled_from(["", " ", "\n"]),
)
def test_what_is_written_is_read(parts: list[str], wrap: str) -> None:
    names = [*FORMS["cota"], "response"]
    tagged = [
        f"<{n.upper()}>{wrap}{part}</{n.upper()}>" for n, part in zip(names, parts, strict=True)
    ]
    parsed = parse_trace(f"<THINK>{''.join(tagged[:4])}</THINK>{wrap}{tagged[4]}", "cota")
    assert parsed.parts == {n: part.strip() for n, part in zip(names, parts, strict=True)}
    assert parsed.complete is bool(parts[4].strip())


@pytest.mark.parametrize(
    "unit", ["<think>", "</think>", "<RESPONSE>", "<think><response></response>", "<", "</SUMMARY>"]
)
def test_a_megabyte_of_anything(unit: str) -> None:
    text = unit * ((1 << 20) // len(unit))
    started = time.process_time()
    for form in FORMS:
        parsed = parse_trace(text, form)
        assert len(parsed.problems) < 20
    assert time.process_time() - started < 3, "about 0.2 s each"
