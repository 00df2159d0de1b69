"""Which rows a tape has to train on."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from audio_models.features import hop_length
from audio_models.inputs import holds_placeholder
from audio_models.load import AudioLM
from audio_models.prompt import prompt_ids, text_prompt_ids
from cache_schema import Tape, TapeRow
from cache_schema.errors import TapeError
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import SAMPLE_RATE_HZ, IntArray, Trace
from train.alignment.translation import Translation
from train.batch.reading import prompt_text
from train.settings import DataRecipe

AUDIO_TOKENS_PER_S = 25.0
"""Assumed where a family does not say; only the size of steps and batches depends on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One trace of one sample, or its recording alone, and how long a row it makes.

    There are as many as the tapes have rows; with slots each takes 107 bytes, not 155.

    Attributes:
        sample_id: which sample.
        trace_index: which of its traces; ``AUDIO_ROW`` for none.
        num_tokens: about how many input positions it takes.
        task: number of its task.
    """

    sample_id: str
    trace_index: int
    num_tokens: int
    task: int = 0


def require_audio(tape: Tape) -> None:
    """Read one recording, so that a tape without audio is refused before anything is loaded.

    Raises:
        MissingSignalError: the tape keeps references to audio only.
    """
    for row in itertools.islice(tape, 1):
        assert row.audio.ndim == 1


def _own_ids(trace: Trace, translation: Translation | None) -> IntArray | None:
    """Return a trace in the student's ids, ``None`` if it cannot be translated."""
    if translation is None:
        return trace.token_ids
    translated = translation.trace(trace)
    return None if translated is None else translated.target_ids


def usable(trace: Trace, ids: IntArray | None, recipe: DataRecipe, audio_token_id: int) -> str:
    """Return why a trace is not used, or an empty string; ``ids`` are the student's."""
    if ids is None:
        return "trace whose tokens are not its text"
    if len(ids) == 0:
        return "empty trace"
    if audio_token_id in ids:
        return "trace with an audio placeholder"
    if trace.origin not in recipe.origins:
        return f"trace of origin {trace.origin}"
    if trace.correct is False and not recipe.wrong_traces:
        return "wrong answer"
    if trace.finish_reason == "length" and not recipe.truncated_traces:
        return "truncated trace"
    return ""


_TAKEN_BY = {
    "wrong answer": "--set data.wrong_traces=true",
    "truncated trace": "--set data.truncated_traces=true",
}
"""Reason a row is left out -> the setting that takes it."""


def scan(
    tape: Tape,
    lm: AudioLM,
    recipe: DataRecipe,
    signals: Sequence[str],
    translation: Translation | None = None,
    reads: str = "audio",
    with_traces: bool = True,
) -> tuple[list[Example], Counter[str]]:
    """Return the rows to train on, in the tape's order, and how many were left out, by reason.

    Args:
        tape: where they are.
        lm: the student.
        recipe: which traces are wanted.
        signals: what every sample must have.
        translation: how traces become the student's tokens, if they must.
        reads: what the student reads, the ``audio`` or the ``description``.
        with_traces: a row for each trace; otherwise one for each sample, without a response.

    Raises:
        TapeError: nothing is left.
    """
    examples: list[Example] = []
    left_out: Counter[str] = Counter()
    for row in tape:
        length, fault = 0, _missing(row, signals, with_traces)
        if not fault:
            length, fault = _prompt_tokens(lm, row, reads)
        if fault:
            left_out[fault] += 1
            continue
        candidates = [(AUDIO_ROW, length, "")]
        if with_traces:
            candidates = [
                (index, *_trace_tokens(lm, trace, recipe, translation, length))
                for index, trace in enumerate(row.traces)
            ]
        for index, num_tokens, reason in candidates:
            if not reason and num_tokens > recipe.max_tokens:
                reason = f"longer than {recipe.max_tokens} tokens"
            if reason:
                left_out[reason] += 1
            else:
                examples.append(
                    Example(sample_id=row.sample_id, trace_index=index, num_tokens=num_tokens)
                )
    if not examples:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        hints = [f"; {how} takes them too" for reason, how in _TAKEN_BY.items() if left_out[reason]]
        raise TapeError(
            f"{tape.location}: no row to train on ({reasons or 'the tape is empty'})"
            + "".join(hints)
        )
    return examples, left_out


def _missing(row: TapeRow, signals: Sequence[str], with_traces: bool) -> str:
    """Return what a sample lacks, if anything."""
    if with_traces and not row.traces:
        return "no trace"
    return next((f"no {name}" for name in signals if name not in row), "")


def _trace_tokens(
    lm: AudioLM, trace: Trace, recipe: DataRecipe, translation: Translation | None, prompt: int
) -> tuple[int, str]:
    """Return the input positions of a row with this trace, and why it is not used, if so."""
    ids = _own_ids(trace, translation)
    return prompt + (0 if ids is None else len(ids)), usable(trace, ids, recipe, lm.audio_token_id)


def _prompt_tokens(lm: AudioLM, row: TapeRow, reads: str) -> tuple[int, str]:
    """Return the prompt's input positions, and why it cannot be used, if it cannot."""
    if reads == "description":
        if not row.description:
            return 0, "no description"
        text = prompt_text(row, reads)
        fault = "description or question holds the audio placeholder"
        return len(text_prompt_ids(lm, text)), fault * holds_placeholder(lm, text)
    duration_s = row.num_audio_samples / SAMPLE_RATE_HZ
    if duration_s > lm.max_audio_s:
        return 0, f"audio longer than {lm.max_audio_s:g} s"
    ids = prompt_ids(lm, prompt_text(row, reads))
    audio = audio_tokens(lm, duration_s)
    if audio < 1:
        return 0, "audio too short to be heard"
    if ids.count(lm.audio_token_id) != 1:
        return 0, "question holds the audio placeholder"
    return len(ids) - 1 + audio, ""


def audio_tokens(lm: AudioLM, duration_s: float) -> int:
    """Return about how many audio positions a recording of so many seconds takes."""
    if lm.family.tokens_of_frames is None:
        return round(duration_s * AUDIO_TOKENS_PER_S)
    samples = round(duration_s * lm.sample_rate_hz)
    return lm.family.tokens_of_frames(-(-samples // hop_length(lm)))
