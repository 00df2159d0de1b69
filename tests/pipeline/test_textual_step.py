"""The textual step on a teacher whose every word is known: chosen, told, given, and engines dying.

The steps before it run once; each test continues a copy of their tape.
"""

from __future__ import annotations

import contextlib
import gc
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fast_stage_one import END, ArithmeticTeacher, read, recipe_of, save_config

import pipeline.textual
from cache_schema import Tape, open_tape
from cache_schema.errors import (
    ModelError,
    ProvenanceError,
    QuarantineError,
    UsageError,
)
from cache_schema.validate import validate
from pipeline.extract import run_step
from pipeline.recipe import ExtractRecipe
from pipeline.step import seed_of
from pipeline.teachers.base import EngineDiedError, TokenSignals, Wanted
from pipeline.teachers.records import record_dtype

NAMES = ("ann", "ben", "cat", "dan", "eve", "fay", "gus")
UNKNOWN = "gus"
"""Its answer is not known; nor has it a given trace."""

Writes = Callable[[str, int], tuple[str, str]]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> ExtractRecipe:
    """Seven described samples whose right answer is yes."""
    folder = tmp_path_factory.mktemp("described")
    lines = []
    for name in NAMES:
        soundfile.write(folder / f"{name}.wav", 0.1 * np.sin(np.arange(400.0)), 16000)
        row: dict[str, Any] = {
            "id": name, "audio": f"{name}.wav", "question": "Even?", "choices": ["yes", "no"],
            "transcript": f"I am {name}.", "cot": ["<think>given</think>yes", "no"],
        }  # fmt: skip
        row |= {"cot": ""} if name == UNKNOWN else {"answer": "yes"}
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    save_config(folder / "arithmetic")
    recipe = recipe_of(str(folder / "rows.jsonl"), str(folder / "tape"), "", "hot")
    for step in ("ingest", "textualize"):
        run_step(step, recipe)
    return recipe


@contextlib.contextmanager
def uncounted(_: str, __: int) -> Iterator[Callable[[int], None]]:
    """Draw no progress."""
    yield lambda count: None


class Bench:
    """A copy of the tape, and the textual step over it."""

    def __init__(
        self, described: ExtractRecipe, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.out = shutil.copytree(described.tape.out, folder / "tape")
        self._described, self._patch = described, monkeypatch
        self.calls = folder / "calls"
        self.teacher = ArithmeticTeacher(self.calls)

    def run(self, writes: Writes | None = None, kills: Sequence[str] = (), **textual: Any) -> Tape:
        """Run the step on what a teacher writes; return the tape."""
        self.teacher = ArithmeticTeacher(self.calls, writes, kills)
        self._patch.setattr("pipeline.traces.survive.PAUSES_S", (0.0, 0.0))
        self._patch.setattr(pipeline.textual, "load_teacher", lambda *_: self.teacher)
        values = {"batch_samples": 4, "select": "all", "prompt": "think.v1", **textual}
        if "given" in values:
            values |= {"traces": 1, "temperature": 0.0}
        recipe = replace(
            self._described,
            textual=replace(self._described.textual, **values),
            tape=replace(self._described.tape, out=str(self.out)),
        )
        run_step("textual", recipe)
        tape = open_tape(self.out)
        assert validate(self.out, uncounted, deep=True).problems == []
        return tape

    def said(self, word: str) -> list[str]:
        """Return the teacher's diary lines that begin with a word."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line for line in lines if line.startswith(word)]


@pytest.fixture
def bench(described: ExtractRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(described, tmp_path, monkeypatch)


def draw_of(prompt: str, seed: int) -> int:
    """Which of a sample's draws a seed belongs to."""
    return seed - seed_of(0, next(name for name in NAMES if f"I am {name}." in prompt))


def yes_on(**draws: int) -> Writes:
    """Right on the given draw of a sample (told or not), wrong before, cut on draw 3."""

    def writes(prompt: str, seed: int) -> tuple[str, str]:
        draw = draw_of(prompt, seed)
        right = any(f"I am {name}." in prompt and draw >= at for name, at in draws.items())
        text = f"<think>{draw}</think>{'yes' if right else 'no'}"
        return text, "length" if draw == 3 else "stop"

    return writes


def fates(tape: Tape, name: str) -> tuple[list[tuple[str, int]], list[tuple[str, int, str]]]:
    row = tape[name]
    return (
        [(trace.origin, trace.draw) for trace in row.traces],
        [(trace.origin, trace.draw, trace.reason) for trace in row.rejected],
    )


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


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("victim", ["ann", "dan", "gus"])
def test_one_sample_that_kills_the_engine(
    bench: Bench, capsys: pytest.CaptureFixture[str], victim: str, size: int
) -> None:
    tape = bench.run(kills=[f"I am {victim}."], batch_samples=size)
    (failed,) = tape.quarantined
    assert (failed.sample_id, failed.reason) == (victim, "engine died")
    assert tape.recorded("textual") == set(NAMES) - {victim}
    said = capsys.readouterr().err
    deaths = said.count("the engine died")
    assert 2 <= deaths <= 6
    assert len(bench.said("started")) == deaths + 1, "it is started, again after each death"
    assert f"on sample '{victim}' (the engine is gone); trying it once more" in said
    assert f"on sample '{victim}' (the engine is gone); it is left out" in said


def test_two_of_them(bench: Bench) -> None:
    tape = bench.run(kills=["I am ann.", "I am gus."], batch_samples=7)
    assert {(q.sample_id, q.reason) for q in tape.quarantined} == {
        ("ann", "engine died"), ("gus", "engine died"),
    }  # fmt: skip


def test_the_values_do_not_depend_on_deaths(bench: Bench, tmp_path: Path) -> None:
    died = bench.run(kills=["I am dan."], traces=2, batch_samples=7)
    values = {row.sample_id: repr(row.traces) for row in died}
    shutil.rmtree(bench.out)
    shutil.copytree(Path(bench._described.tape.out), bench.out)
    whole = bench.run(traces=2, batch_samples=2)
    assert all(values[name] == repr(whole[name].traces) for name in NAMES if name != "dan")


def test_a_broken_engine_ends_the_step(bench: Bench) -> None:
    with pytest.raises(ModelError, match="died 5 times in a row, last on what it should") as caught:
        bench.run(kills=[""], batch_samples=7)
    assert not isinstance(caught.value, EngineDiedError)
    assert bench.said("started") == ["started"] * 5
    assert open_tape(bench.out).quarantined == []
    assert bench.run().quarantined == [], "the same command continues"


def test_an_engine_that_only_survives_trifles_ends_the_step(bench: Bench) -> None:
    with pytest.raises(ModelError, match="on each of the first 5 samples, last on 'eve'"):
        bench.run(kills=["I am"], batch_samples=7)
    assert open_tape(bench.out).quarantined == [], "no sample is to blame"


def test_an_engine_that_does_not_start_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where the memory of the process that died is not free yet."""
    start, starts = ArithmeticTeacher.start, iter([True, False, False])

    def slowly(self: ArithmeticTeacher, wanted: Wanted) -> None:
        if not next(starts, True):
            raise ModelError("no memory yet")
        start(self, wanted)

    monkeypatch.setattr(ArithmeticTeacher, "start", slowly)
    tape = bench.run(kills=["I am ben."], batch_samples=2)
    assert [failed.sample_id for failed in tape.quarantined] == ["ben"]
    assert capsys.readouterr().err.count("does not work (no memory yet); trying it again") == 2
    shutil.rmtree(bench.out)
    shutil.copytree(Path(bench._described.tape.out), bench.out)
    starts = iter([False])
    with pytest.raises(ModelError, match=r"^no memory yet$"):
        bench.run()


def test_what_succeeded_before_an_engine_broke_is_on_the_tape(bench: Bench) -> None:
    """And what was bad is quarantined, so that the next run does not die of it again."""
    kills = ["I am cat."]

    def writes(prompt: str, seed: int) -> tuple[str, str]:
        if "I am dan." in prompt:
            kills.append("")
        return "<think>a</think>yes", "stop"

    with pytest.raises(ModelError, match="What succeeded is on the tape"):
        bench.run(writes, kills, batch_samples=1)
    tape = open_tape(bench.out)
    assert tape.recorded("textual") == {"ann", "ben", "dan"}
    assert [failed.sample_id for failed in tape.quarantined] == ["cat"]
    asked = len(bench.said("asked"))
    assert bench.run().recorded("textual") == set(NAMES) - {"cat"}
    assert len(bench.said("asked")) == asked + 3


def test_an_engine_that_dies_while_scoring(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the batch is on the tape twice, and nothing is lost."""
    left = [1]
    score = ArithmeticTeacher.score

    def once(self: ArithmeticTeacher, *arguments: Any) -> Any:
        if left.pop() if left else 0:
            self._dead = True
            raise EngineDiedError("out of memory")
        return score(self, *arguments)

    monkeypatch.setattr(ArithmeticTeacher, "score", once)
    tape = bench.run(yes_on(ann=0, eve=1), traces=2, select="first-correct")
    assert [fates(tape, name)[0] for name in ("ann", "eve")] == [[("free", 0)], [("free", 1)]]
    assert sum(len(row.traces) + len(row.rejected) for row in tape) == 2 * len(NAMES)
    assert tape.catalog.index.duplicates == 0


def living() -> int:
    """How many traces' signals are in memory; freed without waiting for a collection."""
    return sum(type(item) is TokenSignals for item in gc.get_objects())


@pytest.mark.parametrize("select", ["all", "best-logprob"])
def test_no_signals_of_another_batch_are_alive(bench: Bench, select: str) -> None:
    """States are most of the memory; gigabytes of them a batch are nothing unusual."""
    alive: list[int] = []

    def writes(prompt: str, seed: int) -> tuple[str, str]:
        if draw_of(prompt, seed) == 0:
            alive.append(living())
        return "<think>a</think>yes", "stop"

    bench.run(writes, traces=3, batch_samples=1, select=select)
    assert alive == [0] * len(NAMES)


@pytest.mark.parametrize(("rationales", "samples"), [("none", 3), ("wrong", 1)])
def test_a_batch_of_many_long_traces_is_traced_in_parts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, rationales: str, samples: int
) -> None:
    parts: list[tuple[int, int]] = []
    trace = ArithmeticTeacher.trace

    def counted(self: ArithmeticTeacher, prompts: Any, *arguments: Any) -> Any:
        parts.append((len(prompts), living()))
        return trace(self, prompts, *arguments)

    monkeypatch.setattr(ArithmeticTeacher, "trace", counted)
    of_token = record_dtype(
        Wanted(top_k=8, layers=(1, 2), lens=(1, 2), lens_top_k=4, draws=5), 16, "float32"
    ).itemsize
    monkeypatch.setattr("pipeline.traces.settle.HELD_BYTES", 3 * 2 * 100 * of_token)
    bench.run(
        yes_on(**dict.fromkeys(NAMES, 0)), traces=2, max_new_tokens=100, batch_samples=7,
        select="all", rationales=rationales,
    )  # fmt: skip
    free = [part for part in parts if part[1] == 0]
    assert sum(count for count, _ in free) == len(NAMES), "recorded before the next are traced"
    assert max(count for count, _ in parts) == samples


def test_only_chosen_traces_signals_wait_for_the_rest_of_the_batch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given traces are compared by what reading them says, so all are read, a few at a time."""
    alive: list[int] = []
    score = ArithmeticTeacher.score

    def counted(self: ArithmeticTeacher, *arguments: Any) -> Any:
        alive.append(living())
        return score(self, *arguments)

    monkeypatch.setattr(ArithmeticTeacher, "score", counted)
    of_token = record_dtype(
        Wanted(top_k=8, layers=(1, 2), lens=(1, 2), lens_top_k=4, draws=5), 16, "float32"
    ).itemsize
    tokens = len("<think>given</think>yes") + 1 + len("no") + 1
    monkeypatch.setattr("pipeline.traces.settle.HELD_BYTES", 3 * tokens * of_token)
    tape = bench.run(given="cot", select="best-logprob", judge="numeric", batch_samples=6)
    assert bench.said("scored") == ["scored 6", "scored 6"]
    assert alive == [0, 0], "what was chosen is on the tape before the rest is read"
    for row in map(tape.__getitem__, NAMES[:-1]):
        (kept,), (lost,) = row.traces, row.rejected
        means = [one.logprob / (1 + len(one.text)) for one in (kept, lost)]
        assert means[0] > means[1]
        assert lost.reason == "not chosen"
