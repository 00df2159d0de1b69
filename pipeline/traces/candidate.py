"""A trace that may be kept: what was said, and what is thought of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cache_schema.answers.forms import parse_trace
from cache_schema.answers.questions import is_correct
from cache_schema.types import IntArray
from pipeline.teachers.base import TokenSignals

STOPPED, TRUNCATED = "stop", "length"
"""Reasons why a trace ended: by itself, or cut at the longest it may be."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a trace is judged by.

    Attributes:
        form: what the trace should look like, one of ``cache_schema.answers.forms.FORMS``.
        judge: how an answer is compared, one of ``cache_schema.answers.questions.JUDGES``.
        answer: the right answer, empty if unknown.
        choices: the permitted answers, empty for an open question.
    """

    form: str
    judge: str
    answer: str
    choices: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trace that may be kept.

    Attributes:
        text: the decoded trace.
        token_ids: int64 [T].
        prompt_token_ids: int64 [P], the prompt as the engine saw it.
        finish_reason: ``STOPPED`` or ``TRUNCATED``.
        answer: as parsed, empty if there is none.
        correct: the verdict, ``None`` where nothing can be compared.
        in_form: whether every part of the prompt's form is there.
        origin: ``free``, ``label`` or ``given``.
        draw: which of the traces of its origin it is, from 0.
        seed: of its sampling and of its signals' draws.
        signals: of its tokens, ``None`` if they were not asked for.
        logprob: natural log-probability at temperature 1, summed over the tokens; NaN of a given
            trace that was not read yet.
    """

    text: str
    token_ids: IntArray
    prompt_token_ids: IntArray
    finish_reason: str
    answer: str
    correct: bool | None
    in_form: bool
    origin: str
    draw: int
    seed: int
    signals: TokenSignals | None = None
    logprob: float = math.nan

    @property
    def complete(self) -> bool:
        """Whether it ended by itself and has an answer."""
        return self.finish_reason == STOPPED and bool(self.answer)

    @property
    def mean_logprob(self) -> float:
        """Log-probability a token; minus infinity if it was not measured, or is not a number."""
        mean = self.logprob / len(self.token_ids) if len(self.token_ids) else math.nan
        return -math.inf if math.isnan(mean) else mean

    def with_signals(self, signals: TokenSignals) -> Candidate:
        """Return it with the signals of its tokens."""
        logprob = float(signals.target_logprobs.sum(dtype=np.float64))
        return replace(self, signals=signals, logprob=logprob)


def judged(
    text: str,
    question: Question,
    *,
    token_ids: IntArray,
    prompt_token_ids: IntArray,
    finish_reason: str,
    origin: str,
    draw: int,
    seed: int,
    logprob: float = math.nan,
    opened: bool = False,
) -> Candidate:
    """Parse and judge a trace; an answer that a cut may have halved is none.

    ``opened`` says that the prompt left the thinking open: what does not end it is no answer.
    """
    truncated = finish_reason == TRUNCATED
    parsed = parse_trace(text, question.form, truncated=truncated, opened=opened)
    return Candidate(
        text=text,
        token_ids=token_ids,
        prompt_token_ids=prompt_token_ids,
        finish_reason=finish_reason,
        answer=parsed.answer,
        correct=is_correct(parsed.answer, question.answer, question.choices, question.judge),
        in_form=parsed.complete,
        origin=origin,
        draw=draw,
        seed=seed,
        logprob=logprob,
    )
