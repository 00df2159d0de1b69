"""Which samples the page shows, and what it says of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cache_schema.errors import TeachertapeError
from cache_schema.reader import Tape
from cache_schema.row import TapeRow
from cache_schema.types import FloatArray
from train.evaluate.report.reading import Evaluation
from train.evaluate.report.sound import Clip, clips_within
from train.evaluate.report.words import clipped, percent, seconds
from train.evaluate.types import Response, Verdict

NUM_CARDS = 12
AUDIO_BYTES = 5_000_000
"""What all recordings may take of the page; the rest of it stays far below as much again."""

TEXT_LETTERS = 20_000
"""Longer texts are cut: a model that never stops would fill the page."""

KINDS = ("right", "wrong", "failed")
"""A failed response ended in an error, at the limit of tokens, or without an answer."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One sample on the page.

    Attributes:
        sample_id: its key.
        kind: one of ``KINDS``.
        clip: its recording; ``None`` if it cannot be played.
        sound: what has to be said of the recording: its length, that it is cut, why it is missing.
        lines: (name, text) in order.
        folded: (name, text) the reader has to open.
    """

    sample_id: str
    kind: str
    clip: Clip | None
    sound: str
    lines: Sequence[tuple[str, str]]
    folded: Sequence[tuple[str, str]]


def kind_of(response: Response, verdict: Verdict | None, higher_is_better: bool) -> str:
    """Return which of ``KINDS`` a response is; a transcript is right if no word is wrong."""
    if response.finish != "stop" or not response.answer.strip():
        return "failed"
    if verdict is None or not verdict.counted:
        return "failed"
    return "right" if verdict.value == (1.0 if higher_is_better else 0.0) else "wrong"


def choose(kinds: dict[str, str], number: int = NUM_CARDS) -> list[str]:
    """Return samples of every kind, as even as there are, spread over the data.

    Args:
        kinds: sample id -> its kind, in the order of the data.
        number: how many at most.
    """
    of_kind = {kind: [one for one, its in kinds.items() if its == kind] for kind in KINDS}
    take = dict.fromkeys(KINDS, 0)
    for _ in range(min(number, len(kinds))):
        open_kinds = [kind for kind in KINDS if take[kind] < len(of_kind[kind])]
        take[min(open_kinds, key=lambda kind: take[kind])] += 1
    return [
        of_kind[kind][int(place)]
        for kind in KINDS
        for place in np.linspace(0, len(of_kind[kind]) - 1, take[kind]).round()
    ]


def cards(evaluation: Evaluation, kinds: dict[str, str]) -> list[Card]:
    """Return the samples to show.

    Args:
        evaluation: whose.
        kinds: sample id -> its kind, in the order of the data.
    """
    chosen = choose(kinds)
    rows = {one: _row(evaluation.tape, one) for one in chosen}
    heard = {one: _audio(row) for one, row in rows.items()}
    there = {one: audio for one, audio in heard.items() if not isinstance(audio, str)}
    clips = dict(zip(there, clips_within(list(there.values()), AUDIO_BYTES), strict=True))
    made = []
    for one in chosen:
        audio = heard[one]
        clip = clips.get(one)
        sound = audio if isinstance(audio, str) else _said_of(clip) if clip else ""
        made.append(
            Card(
                sample_id=one,
                kind=kinds[one],
                clip=clip,
                sound=sound,
                lines=_lines(evaluation, one, rows[one]),
                folded=_folded(evaluation.responses[one]),
            )
        )
    return made


def _row(tape: Tape | None, sample_id: str) -> TapeRow | None:
    return tape[sample_id] if tape is not None and sample_id in tape else None


def _audio(row: TapeRow | None) -> FloatArray | str:
    """Return the recording, or in words why there is none."""
    if row is None:
        return "No recording: the evaluation's data does not hold this sample."
    try:
        audio = row.audio
    except TeachertapeError as error:
        return f"No recording: {error}"
    return audio if len(audio) else "No recording: it is empty."


def _said_of(clip: Clip) -> str:
    if clip.is_cut:
        return f"The first {seconds(clip.shown_s)} of {seconds(clip.duration_s)}."
    return seconds(clip.duration_s)


def _lines(evaluation: Evaluation, sample_id: str, row: TapeRow | None) -> list[tuple[str, str]]:
    response = evaluation.responses[sample_id]
    verdicts = {
        rule: evaluation.verdicts[rule][sample_id]
        for rule in evaluation.rules
        if sample_id in evaluation.verdicts[rule]
    }
    better = evaluation.higher_is_better
    expected = next((one.expected for one in verdicts.values() if one.expected), "")
    lines = []
    if row is not None:
        lines += [("Question", row.question), ("Choices", " · ".join(row.choices))]
        expected = row.answer or expected
    lines += [("Expected", expected), ("Answer", response.answer or "(none found)")]
    judged = [f"{rule}: {_judged(one, better)}" for rule, one in verdicts.items()]
    lines.append(("Judged", "\n".join(judged)))
    ended = {"stop": "by itself", "length": "cut at its limit", "error": "failed"}
    lines.append(
        ("Ended", f"{ended.get(response.finish, response.finish)}, {response.num_tokens} tokens")
    )
    lines.append(("Error", response.error))
    return [(name, clipped(text, TEXT_LETTERS)) for name, text in lines if text]


def _judged(verdict: Verdict, higher_is_better: bool) -> str:
    if not verdict.counted:
        return "not counted"
    if not higher_is_better:
        return f"{percent(verdict.value, 0)} of {verdict.weight:g} words wrong"
    said = {1.0: "right", 0.0: "wrong"}.get(verdict.value, f"{percent(verdict.value, 0)} right")
    return f"{said}, understood as \u201c{verdict.predicted}\u201d" if verdict.predicted else said


def _folded(response: Response) -> list[tuple[str, str]]:
    """Return the trace, or all of the text where the trace and the answer are not all there is."""
    folded = [("Trace", response.trace)] if response.trace else []
    if response.text.strip() and (not response.trace or not response.answer):
        folded.append(("Everything it said", response.text))
    return [(name, clipped(text, TEXT_LETTERS)) for name, text in folded]
