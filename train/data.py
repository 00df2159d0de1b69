"""Which rows are trained on, and in which order.

The order depends on (seed, epoch) alone, never on the number of processes: a step is a set of rows
within a budget of tokens; processes and micro-batches only divide it.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from audio_models.load import AudioLM
from audio_models.prompt import prompt_ids
from cache_schema import Tape, TapeRow
from cache_schema.errors import TapeError
from cache_schema.questions import question_text
from cache_schema.types import SAMPLE_RATE_HZ, IntArray, Trace
from train.alignment.translation import Translation
from train.settings import DataRecipe

MIN_POOL_STEPS, MAX_POOL_STEPS = 4, 50
POOL_SHARE = 1 / 8
"""How many steps' rows are sorted by length together: an eighth of the epoch, within bounds.

Sorting leaves little padding; sorting everything would leave steps of one length, so of one kind.
On log-normal lengths, 20 steps: 1.16 times the tokens are computed (all sorted 1.05, none 1.51);
80 steps: 1.09; from 400 on 1.02.
"""

AUDIO_TOKENS_PER_S = 25.0
"""Assumed where a family does not say; only the budget depends on it."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One trace of one sample, and about how many input positions it takes."""

    sample_id: str
    trace_index: int
    num_tokens: int


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


def scan(
    tape: Tape,
    lm: AudioLM,
    recipe: DataRecipe,
    signals: Sequence[str],
    translation: Translation | None = None,
) -> tuple[list[Example], Counter[str]]:
    """Return the rows to train on, in the tape's order, and how many were left out, by reason.

    Raises:
        TapeError: nothing is left.
    """
    examples: list[Example] = []
    left_out: Counter[str] = Counter()
    for row in tape:
        missing = [name for name in signals if name not in row]
        if not row.traces or missing:
            left_out[f"no {missing[0]}" if row.traces else "no trace"] += 1
            continue
        if row.num_audio_samples / SAMPLE_RATE_HZ > lm.max_audio_s:
            left_out[f"audio longer than {lm.max_audio_s:g} s"] += 1
            continue
        prompt, fault = _prompt_tokens(lm, row)
        if fault:
            left_out[fault] += 1
            continue
        for index, trace in enumerate(row.traces):
            ids = _own_ids(trace, translation)
            length = prompt + (0 if ids is None else len(ids))
            reason = usable(trace, ids, recipe, lm.audio_token_id)
            if not reason and length > recipe.max_tokens:
                reason = f"longer than {recipe.max_tokens} tokens"
            if reason:
                left_out[reason] += 1
            else:
                examples.append(
                    Example(sample_id=row.sample_id, trace_index=index, num_tokens=length)
                )
    if not examples:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise TapeError(f"{tape.location}: no row to train on ({reasons or 'the tape is empty'})")
    return examples, left_out


def _prompt_tokens(lm: AudioLM, row: TapeRow) -> tuple[int, str]:
    """Return the prompt's input positions, and why it cannot be used, if it cannot."""
    ids = prompt_ids(lm, question_text(row.question, row.choices))
    duration_s = row.num_audio_samples / SAMPLE_RATE_HZ
    if lm.family.tokens_of_frames is None:
        audio = round(duration_s * AUDIO_TOKENS_PER_S)
    else:
        hop = lm.processor.feature_extractor.hop_length
        audio = lm.family.tokens_of_frames(-(-round(duration_s * lm.sample_rate_hz) // hop))
    if audio < 1:
        return 0, "audio too short to be heard"
    if ids.count(lm.audio_token_id) != 1:
        return 0, "question holds the audio placeholder"
    return len(ids) - 1 + audio, ""


def plan_epoch(
    examples: Sequence[Example], batch_tokens: int, seed: int, epoch: int
) -> list[list[Example]]:
    """Return the steps of one epoch: rows of similar length, at most ``batch_tokens`` a step.

    Every row comes once; a row longer than the budget has a step of its own. Pools are sorted in
    alternating directions, so that rows of similar length meet where one pool ends and the next
    begins: only the last step of an epoch is cut short.
    """
    order = random.Random(f"{seed}/{epoch}")
    shuffled = list(examples)
    order.shuffle(shuffled)
    steps = sum(example.num_tokens for example in examples) / batch_tokens
    pool_steps = min(max(steps * POOL_SHARE, MIN_POOL_STEPS), MAX_POOL_STEPS)
    ordered: list[Example] = []
    for number, pool in enumerate(cut_to_budget(shuffled, int(pool_steps * batch_tokens))):
        pool.sort(key=lambda example: example.num_tokens, reverse=number % 2 == 1)
        ordered += pool
    planned = cut_to_budget(ordered, batch_tokens)
    order.shuffle(planned)
    return planned


def cut_to_budget(examples: Sequence[Example], budget: int) -> list[list[Example]]:
    """Cut a sequence into runs whose tokens stay within the budget."""
    runs: list[list[Example]] = []
    filled = 0
    for example in examples:
        if not runs or filled + example.num_tokens > budget:
            runs.append([])
            filled = 0
        runs[-1].append(example)
        filled += example.num_tokens
    return runs


def divide_step(
    step: Sequence[Example], rank: int, num_ranks: int, micro_tokens: int
) -> list[list[Example]]:
    """Return one process's micro-batches of a step, each within ``micro_tokens`` padded tokens.

    Rows are dealt in turn, longest first. A process that gets none returns no micro-batch.
    """
    ordered = sorted(step, key=lambda e: (-e.num_tokens, e.sample_id, e.trace_index))
    micro: list[list[Example]] = []
    for example in ordered[rank::num_ranks]:
        fits = micro and micro[-1][0].num_tokens * (len(micro[-1]) + 1) <= micro_tokens
        if fits:
            micro[-1].append(example)
        else:
            micro.append([example])
    return micro


def steps_of_run(
    examples: Sequence[Example], batch_tokens: int, seed: int, epochs: int, max_steps: int
) -> int:
    """Return the number of steps: that of the epochs, or ``max_steps`` if it is set."""
    if max_steps:
        return max_steps
    return sum(len(plan_epoch(examples, batch_tokens, seed, epoch)) for epoch in range(epochs))


def run_plan(examples: Sequence[Example], batch_tokens: int, seed: int) -> Iterator[list[Example]]:
    """Yield step after step, epoch after epoch, without end."""
    epoch = 0
    while True:
        yield from plan_epoch(examples, batch_tokens, seed, epoch)
        epoch += 1
