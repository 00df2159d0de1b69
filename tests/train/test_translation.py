"""A student with another tokenizer than the textual teacher's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_alignment import byte_level, sentencepiece
from tiny_audio_lm import build_tokenizer
from tiny_tape import MakeTape, sample, trace
from two_tokenizers import DRAWS, NAMES, TERMS, batch_of, renumbered, signals_of, write
from typer.testing import CliRunner

from audio_models.load import AudioLM, load_audio_lm
from cache_schema import Tape, open_tape
from cache_schema.errors import TokenizerMismatchError
from cache_schema.types import TopK, Trace
from train.alignment.translation import Translated, Translation, load_translation
from train.alignment.words import map_vocabulary
from train.cli import app
from train.losses.asked import Asked, see
from train.losses.vocabulary import NO_TOKEN
from train.metrics import read_metrics


def test_the_same_words_under_other_numbers_are_the_same_losses(
    tmp_path: Path, student_dir: Path
) -> None:
    lm = load_audio_lm(str(student_dir), "float32", "cpu")
    other = build_tokenizer(first_byte=77)
    other.save_pretrained(tmp_path / "teacher")
    own = {
        name: signals_of([trace(lm, sample(int(name[1:])))], number, lm.tokenizer)
        for number, name in enumerate(NAMES)
    }
    one = write(tmp_path / "one", lm.tokenizer, own)
    two = write(tmp_path / "two", other, renumbered(own, lm.tokenizer, other))
    translation = load_translation(lm, two, str(tmp_path / "teacher"))
    assert translation is not None
    objective, plain = batch_of(one, lm, None, TERMS)
    _, moved = batch_of(two, lm, translation, TERMS)
    torch.testing.assert_close(objective.counts(moved), objective.counts(plain))
    np.testing.assert_array_equal(moved.target_ids, plain.target_ids)
    torch.testing.assert_close(objective(moved), objective(plain), rtol=1e-4, atol=1e-4)


def test_ids_that_all_end_the_teachers_turn_are_one_token_of_the_student() -> None:
    """Named twice, a token would be in the student's sum over its vocabulary twice."""
    teacher, student = [b"a", b"b", None, None, None], [b"a", None, b"b"]
    translation = Translation(
        teacher=teacher,
        student=student,
        ids=map_vocabulary(teacher, student, {2: 1, 3: 1}),
        tokenizer=None,
        stop_id=1,
    )
    topk = TopK(
        target_ids=np.array([0, 3]),
        token_ids=np.array([[0, 1, 4], [2, 0, 3]]),
        logprobs=np.log(np.array([[0.5, 0.25, 0.125], [0.5, 0.125, 0.25]], dtype=np.float32)),
        tail=np.array([0.125, 0.125], dtype=np.float32),
    )
    where = Translated(target_ids=np.array([0, 1]), theirs=np.arange(2), ours=np.arange(2))
    found = translation.topk(topk, where)
    assert found.token_ids.tolist() == [[0, 2, NO_TOKEN], [1, 0, NO_TOKEN]]
    np.testing.assert_allclose(
        np.exp(found.logprobs), [[0.5, 0.25, 0.0], [0.75, 0.125, 0.0]], rtol=1e-6
    )
    assert found.tail.tolist() == [0.25, 0.125]
    logits = torch.randn(2, 3)
    seen = see(logits, Asked(buckets={"textual": torch.from_numpy(found.token_ids)}))
    torch.testing.assert_close(seen.log_total_N, logits.logsumexp(-1))


def test_no_need_to_translate_is_said(
    make_tape: MakeTape, student: AudioLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student.tokenizer.save_pretrained(tmp_path / "teacher")
    assert load_translation(student, open_tape(make_tape()), str(tmp_path / "teacher")) is None
    assert "is not needed" in capsys.readouterr().err


def test_another_tokenizer_than_the_tapes_is_refused(
    make_tape: MakeTape, student: AudioLM, tmp_path: Path
) -> None:
    byte_level().save_pretrained(tmp_path / "other")
    tape = open_tape(make_tape(digest="of another"))
    with pytest.raises(TokenizerMismatchError, match="not the tokenizer"):
        load_translation(student, tape, str(tmp_path / "other"))
    with pytest.raises(TokenizerMismatchError, match="no usable tokenizer"):
        load_translation(student, tape, str(tmp_path / "nowhere"))


@pytest.fixture(params=["byte-level", "sentencepiece"])
def merged(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tape, Path]:
    """A tape of a teacher whose tokens are several of the student's, which are bytes."""
    teacher = {"byte-level": byte_level, "sentencepiece": sentencepiece}[request.param]()
    teacher.save_pretrained(tmp_path / "teacher")
    signals = {}
    for number, name in enumerate(NAMES):
        text = f"the sum of three and {number} is larger than the first, so the answer is odd"
        ids = [*teacher(text, add_special_tokens=False)["input_ids"], teacher.eos_token_id]
        one = Trace(
            text=text,
            token_ids=np.asarray(ids),
            prompt_token_ids=np.zeros(2, np.int64),
            finish_reason="stop",
            answer="odd",
            correct=True,
            logprob=-1.0,
        )
        signals[name] = signals_of([one], number, teacher)
    return write(tmp_path / "tape", teacher, signals), tmp_path / "teacher"


def test_what_the_teacher_said_is_compared_where_both_begin_a_token(
    merged: tuple[Tape, Path], student_dir: Path
) -> None:
    tape, teacher = merged
    lm = load_audio_lm(str(student_dir), "float32", "cpu")
    translation = load_translation(lm, tape, str(teacher))
    assert translation is not None
    objective, batch = batch_of(tape, lm, translation, TERMS)
    rows = [tape[name] for name in NAMES[:4]]
    said = sum(len(row.traces[0].token_ids) for row in rows)
    own = [len(row.traces[0].text.encode()) + 1 for row in rows]
    assert len(batch.target_ids) == sum(own), "the student's tokens are bytes, and a stop"
    counts = dict(zip(TERMS, objective.counts(batch).tolist(), strict=True))
    assert counts.pop("ce") == sum(own)
    assert set(counts.values()) == {said}, "every token of the teacher begins at a byte"
    topk = batch.topk["textual"]
    mass = topk.logprobs.exp().sum(-1) + topk.tail
    torch.testing.assert_close(mass, torch.ones_like(mass), atol=2e-3, rtol=0)
    silent = (topk.token_ids == NO_TOKEN).all(1) & (topk.tail == 1)
    assert int((~silent).sum()) <= said
    first = 0
    for row, length in zip(rows, own, strict=True):
        translated = translation.trace(row.traces[0])
        assert translated is not None
        recorded = row["textual/topk"]
        for t, j in zip(translated.theirs, translated.ours, strict=True):
            known = {
                int(translation.ids[i]): p
                for i, p in zip(recorded.token_ids[t], recorded.logprobs[t], strict=True)
                if translation.ids[i] != NO_TOKEN
            }
            place = first + int(j)
            kept = topk.token_ids[place] != NO_TOKEN
            found = zip(
                topk.token_ids[place][kept].tolist(),
                topk.logprobs[place][kept].tolist(),
                strict=True,
            )
            assert dict(found) == pytest.approx(known)
        first += length
    values = objective(batch)
    assert torch.isfinite(values).all()
    values.sum().backward()


def test_what_the_student_lacks_words_for_is_counted(
    merged: tuple[Tape, Path], student_dir: Path, tmp_path: Path
) -> None:
    tape, teacher = merged
    lm = load_audio_lm(str(student_dir), "float32", "cpu")
    translation = load_translation(lm, tape, str(teacher))
    assert translation is not None
    lost = dict.fromkeys(("text_kl", "text_sampled"), 0.0)
    said = 0
    for name in NAMES:
        topk, drawn = tape[name]["textual/topk"], tape[name]["textual/sampled"]
        lacking = translation.ids[topk.token_ids] == NO_TOKEN
        lost["text_kl"] += float(np.exp(topk.logprobs[lacking]).sum())
        lacking = translation.ids[drawn.token_ids] == NO_TOKEN
        lost["text_sampled"] += float(drawn.counts[lacking].sum()) / DRAWS
        said += len(topk.target_ids)
    arguments = ["student", "--cache", tape.location, "--student", str(student_dir)]
    arguments += ["--out", str(tmp_path / "run"), "--recipe", "sft", "--max-steps", "1"]
    sets = [f"terms.{name}.weight=1" for name in lost]
    sets += [f"data.teacher_tokenizer={teacher}", "terms.text_lens.weight=1"]
    sets += ["terms.text_lens.layers=2:4", "loop.batch_tokens=100000", "loop.micro_tokens=400"]
    done = CliRunner().invoke(app, [*arguments, *(item for one in sets for item in ("--set", one))])
    assert done.exit_code == 0, done.output
    (line,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert "unknown" not in line["terms"]["ce"]
    report = (tmp_path / "run" / "report.md").read_text()
    for name, mass in lost.items():
        term = line["terms"][name]
        assert term["count"] == said
        assert term["unknown"] == pytest.approx(mass / said, abs=1e-6)
        assert 0.05 < term["unknown"] < 1
        where = {"text_kl": "in the tail", "text_sampled": "left out"}[name]
        assert f"- {name}: {mass / said:.2%} of what its teacher said, over {said:,}" in report
        assert f"is of tokens the student lacks: {where}" in report
    # its lens is its top-k
    assert line["terms"]["text_lens"]["unknown"] == line["terms"]["text_kl"]["unknown"]


def test_a_student_learns_from_a_teacher_with_another_tokenizer(
    merged: tuple[Tape, Path], student_dir: Path, tmp_path: Path
) -> None:
    tape, teacher = merged
    flags = ["student", "--cache", tape.location, "--student", str(student_dir)]
    flags += ["--out", str(tmp_path / "run"), "--recipe", "cross_modal_speech", "--lr", "0.01"]
    refused = CliRunner().invoke(app, [*flags, "--max-steps", "12"])
    assert refused.exit_code == 1
    assert "--set data.teacher_tokenizer=M" in refused.output
    flags += ["--max-steps", "12", "--set", f"data.teacher_tokenizer={teacher}"]
    done = CliRunner().invoke(app, flags)
    assert done.exit_code == 0, done.output
    assert "tokens are translated" in done.output
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    for term in ("ce", "text_kl"):
        values = [json.loads(line)["terms"][term]["value"] for line in lines]
        assert np.mean(values[-3:]) < 0.9 * np.mean(values[:3]), term
