"""The textual step on a teacher whose every word is known: all signals, chosen, told and given.

The steps before it run once; each test continues a copy of their tape.
"""

from __future__ import annotations

import numpy as np
import pytest
from fast_stage_one import END, ArithmeticTeacher, read
from textual_bench import NAMES, UNKNOWN, Bench, fates, yes_on

from cache_schema.errors import ProvenanceError, QuarantineError, UsageError
from pipeline.step import seed_of
from pipeline.teachers.base import Wanted


def test_all_signals_of_all_traces(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    tape = bench.run(yes_on(ann=0, ben=1), traces=4)
    assert tape.signals == (
        "textual/hidden", "textual/lens", "textual/sampled", "textual/topk", "textual/trace",
    )  # fmt: skip
    wanted = Wanted(top_k=8, layers=(1, 2), lens=(1, 2), lens_top_k=4, draws=5)
    for row in tape:
        seed = seed_of(0, row.sample_id)
        assert [trace.seed for trace in row.traces] == [seed + draw for draw in range(4)]
        for index, trace in enumerate(row.traces):
            expected = read(trace.prompt_token_ids, trace.token_ids, trace.seed, wanted)
            assert trace.logprob == pytest.approx(expected.target_logprobs.sum(), rel=1e-6)
            topk = row.signal("textual/topk", index)
            np.testing.assert_array_equal(topk.token_ids, expected.topk.token_ids)
            lens = row.signal("textual/lens", index)
            assert lens.layers == (1, 2)
            np.testing.assert_array_equal(lens.logprobs, expected.lens.logprobs)
            drawn = row.signal("textual/sampled", index)
            np.testing.assert_array_equal(
                np.repeat(drawn.token_ids, drawn.counts), expected.drawn_ids.reshape(-1)
            )
            states = row.signal("textual/hidden", index)
            np.testing.assert_allclose(states.states[:, 1], expected.states[2], rtol=2**-8)
    assert [trace.correct for trace in tape["ben"].traces] == [False, True, True, False]
    assert tape["ben"].traces[3].answer == "", "a cut answer is none"
    assert {trace.correct for trace in tape[UNKNOWN].traces} == {None}
    assert "textual: 28 of 28 traces kept; 5 of 24 judged right; 7 truncated; 7 not of" in (
        capsys.readouterr().err
    )
    assert bench.said("scored") == [], "their signals came with them"


def test_what_made_them_is_on_the_tape(bench: Bench) -> None:
    tape = bench.run(traces=2, template_args={"enable_thinking": False})
    group = tape.groups["textual"]
    assert group.signals == {
        "trace": {},
        "topk": {"k": 8, "codec": "hot"},
        "lens": {"layers": [1, 2], "k": 4, "codec": "hot"},
        "sampled": {"num_draws": 5},
        "hidden": {"layers": [1, 2], "width": 16, "dtype": "bfloat16", "profile": "hot"},
    }
    told = group.identity
    assert (group.notes["prompt"], group.notes["chat_name"]) == ("think.v1", "model")
    assert told["date"] == "2026-01-01"
    assert len(told["prompt_digest"]) == 64
    assert (told["form"], told["chat"], told["judge"]) == ("think", "template", "auto")
    assert (told["select"], told["rationales"], told["given"]) == ("all", "none", "")
    assert told["template_args"] == {"enable_thinking": False}
    assert {"traces", "temperature", "top_p", "sample_top_k", "min_p", "seed"} <= told.keys()
    assert told["descriptions"] == tape.groups["descriptions"].fingerprint
    with pytest.raises(ProvenanceError, match="select: tape 'all', now 'majority'"):
        bench.run(traces=2, template_args={"enable_thinking": False}, select="majority")


def test_signals_that_are_not_wanted(bench: Bench) -> None:
    tape = bench.run(traces=1, top_k=0, lens="none", draws=0, layers="none")
    assert tape.signals == ("textual/trace",)
    assert tape.groups["textual"].signals == {"trace": {}}


def test_the_first_right_one(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    tape = bench.run(yes_on(ann=0, ben=2), traces=4, select="first-correct")
    others = [(draw, "not chosen") for draw in (1, 2)]
    assert fates(tape, "ann") == (
        [("free", 0)], [("free", d, r) for d, r in [*others, (3, "truncated")]],
    )  # fmt: skip
    assert fates(tape, "ben")[0] == [("free", 2)]
    assert [reason for *_, reason in fates(tape, "ben")[1]] == [
        "wrong answer", "wrong answer", "truncated",
    ]  # fmt: skip
    assert tape["cat"].traces == []
    assert len(tape["cat"].rejected) == 4
    assert tape["cat"].signals == ()
    assert [reason for *_, reason in fates(tape, UNKNOWN)[1]] == ["not judged"] * 3 + ["truncated"]
    assert bench.said("scored") == ["scored 2"], "signals of kept traces alone"
    said = capsys.readouterr().err
    assert "2 of 28 traces kept; 4 of 24 judged right; 7 truncated" in said
    assert "14 wrong answer, 7 truncated, 3 not judged, 2 not chosen" in said
    assert "5 samples without a kept trace" in said
    asked = bench.said("asked")
    bench.run(yes_on(ann=0, ben=2), traces=4, select="first-correct")
    assert bench.said("asked") == asked, "rejected ones are done as well"


def test_the_likeliest_of_the_right_ones(bench: Bench) -> None:
    tape = bench.run(yes_on(ann=0, ben=2), traces=3, select="best-logprob")
    for name in ("ann", UNKNOWN):  # of all where nothing is judged
        (kept,), losers = tape[name].traces, tape[name].rejected
        means = {trace.draw: trace.logprob / len(kept.token_ids) for trace in [kept, *losers]}
        assert max(means, key=means.__getitem__) == kept.draw
        assert {trace.reason for trace in losers} == {"not chosen"}
    assert fates(tape, "ben")[0] == [("free", 2)]
    assert tape["ben"].rejected[0].reason == "wrong answer"
    assert bench.said("scored") == ["scored 2", "scored 1"], "signals of kept traces alone"


def test_the_most_frequent_answer(bench: Bench) -> None:
    tape = bench.run(yes_on(ann=1, ben=2), traces=3, select="majority")
    assert [fates(tape, name)[0] for name in ("ann", "ben", "cat")] == [
        [("free", 1)], [("free", 0)], [("free", 0)],
    ]  # fmt: skip
    assert tape["ben"].traces[0].correct is False, "the right answer is not looked at"


def told_only(prompt: str, seed: int) -> tuple[str, str]:
    """Right when the answer is told; Ann knows it anyway."""
    right = "right answer is: yes" in prompt or "I am ann." in prompt
    return f"<think>hm</think>{'yes' if right else 'no'}", "stop"


def test_rationales_where_none_was_right(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    tape = bench.run(told_only, traces=2, select="first-correct", rationales="wrong")
    assert fates(tape, "ann") == ([("free", 0)], [("free", 1, "not chosen")])
    assert fates(tape, "ben") == (
        [("label", 0)],
        [("free", 0, "wrong answer"), ("free", 1, "wrong answer"), ("label", 1, "not chosen")],
    )
    (trace,) = tape["ben"].traces
    told = bench.teacher.decode(trace.prompt_token_ids)
    assert "The right answer is: yes" in told, "the prompt as the engine saw it"
    wanted = Wanted(top_k=8, layers=(1, 2), lens=(1, 2), lens_top_k=4, draws=5)
    expected = read(trace.prompt_token_ids, trace.token_ids, trace.seed, wanted)
    assert trace.logprob == pytest.approx(expected.target_logprobs.sum(), rel=1e-6)
    assert fates(tape, UNKNOWN) == ([], [("free", 0, "not judged"), ("free", 1, "not judged")])
    said = capsys.readouterr().err
    assert "6 of 24 traces (14 free, 10 label) kept" in said
    assert "samples whose answer was not told: 1 no answer to tell" in said


def test_rationales_beside_all(bench: Bench) -> None:
    tape = bench.run(told_only, traces=2, rationales="wrong")
    assert fates(tape, "ann") == ([("free", 0), ("free", 1)], [])
    assert fates(tape, "ben") == (
        [("free", 0), ("free", 1), ("label", 0), ("label", 1)], [],
    )  # fmt: skip
    assert [trace.correct for trace in tape["ben"].traces] == [False, False, True, True]


def test_only_rationales(bench: Bench) -> None:
    tape = bench.run(told_only, traces=2, rationales="all")
    assert fates(tape, "ann") == fates(tape, "ben") == ([("label", 0), ("label", 1)], [])
    (failed,) = tape.quarantined
    assert (failed.sample_id, failed.reason) == (UNKNOWN, "no answer to tell")


def test_given_traces(bench: Bench) -> None:
    tape = bench.run(given="cot")
    assert bench.said("asked") == [], "nothing is generated"
    for name in NAMES[:-1]:
        row = tape[name]
        assert fates(tape, name) == ([("given", 0), ("given", 1)], [])
        first, second = row.traces
        assert (first.text, first.answer, first.correct) == ("<think>given</think>yes", "yes", True)
        assert (second.answer, second.correct, second.finish_reason) == ("no", False, "stop")
        assert first.token_ids[-1] == END
        topk = row["textual/topk"]
        np.testing.assert_array_equal(topk.target_ids, first.token_ids)
    (failed,) = tape.quarantined
    assert (failed.sample_id, failed.reason) == (UNKNOWN, "no given trace")
    assert "traces" not in tape.groups["textual"].identity


def test_given_traces_are_chosen_from_too(bench: Bench) -> None:
    tape = bench.run(given="cot", select="first-correct")
    assert fates(tape, "ann") == ([("given", 0)], [("given", 1, "wrong answer")])


def test_given_traces_that_cannot_be_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QuarantineError, match=r"column 'coot' is missing; did you mean 'cot'"):
        bench.run(given="coot")
    monkeypatch.setattr(ArithmeticTeacher, "max_model_len", 150)
    with pytest.raises(QuarantineError, match=r"given trace too long: text 0 of 'cot'"):
        bench.run(given="cot")
    with pytest.raises(UsageError, match="nothing is written; leave"):
        bench.run(given="cot", rationales="all")


def test_prompts_that_leave_no_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QuarantineError, match=r"prompt too long: \d+ prompt \+ 4000 new tokens"):
        bench.run(max_new_tokens=4000)
    # Room for the question, and not for the question with its answer.
    length = len(bench.teacher.encode([{"role": "user", "content": "x" * 200}]))
    monkeypatch.setattr(ArithmeticTeacher, "max_model_len", length + 50)
    tape = bench.run(told_only, traces=1, max_new_tokens=8, rationales="wrong")
    assert fates(tape, "ben") == ([("free", 0)], [])


def test_a_description_of_blanks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_schema.row.TapeRow.description", " \n")
    with pytest.raises(QuarantineError, match="empty description"):
        bench.run()
