"""Traces the teacher writes: freely, and with the right answer told.

Label-conditioned rationales (STaR, arXiv 2203.14465; arXiv 2506.06820) have ``origin`` ``label``.
Their ``prompt_token_ids`` are the prompt as the engine saw it, the answer included, and so all
their signals (log-probabilities, top-k, lens, states) are conditioned on the answer too. A student
that is never told the answer learns from them what a teacher says who knows it.
"""

from __future__ import annotations

from collections.abc import Sequence

from cache_schema.answers.forms import opens_thinking
from pipeline.teachers.base import Generated, TokenSignals
from pipeline.traces.candidate import judged
from pipeline.traces.draft import (
    NO_ANSWER_TO_TELL,
    PROMPT_TOO_LONG,
    Draft,
    Task,
    encode_prompt,
)
from pipeline.traces.outcome import Failure
from pipeline.traces.select import is_right

_PROMPT_END = 16
"""Tokens at a prompt's end that hold ``<thinking>`` and a line end, even letter by letter."""


def ask(task: Task, drafts: Sequence[Draft]) -> None:
    """Let the teacher write the traces of a batch, as the recipe's ``rationales`` say.

    Raises:
        EngineDiedError: the engine failed; the drafts may be half full and are to be thrown away.
    """
    if task.recipe.rationales != "all":
        _draw(task, [draft for draft in drafts if draft.failure is None], told=False)
    if task.recipe.rationales != "none":
        _draw(task, [draft for draft in drafts if _wants_answer(task, draft)], told=True)


def _wants_answer(task: Task, draft: Draft) -> bool:
    """Whether a sample is to be told its answer; notes it where there is none to tell."""
    if draft.failure is not None or any(map(is_right, draft.first)):
        return False
    if draft.row.answer:
        return True
    _cannot_tell(task, draft, NO_ANSWER_TO_TELL, "the sample has no right answer (column 'answer')")
    return False


def _cannot_tell(task: Task, draft: Draft, reason: str, detail: str) -> None:
    """Note that the answer is not told: a failure where nothing else was asked."""
    draft.untold = reason
    if task.recipe.rationales == "all":
        draft.failure = Failure(reason=reason, detail=detail)


def _draw(task: Task, drafts: Sequence[Draft], *, told: bool) -> None:
    """Draw traces for those samples whose prompt leaves room for a whole one."""
    asked, prompts = [], []
    for draft in drafts:
        prompt = encode_prompt(task, draft.row, told=told)
        if len(prompt) + task.recipe.max_new_tokens <= task.teacher.max_model_len:
            asked.append(draft)
            prompts.append(prompt)
            continue
        detail = (
            f"{len(prompt)} prompt + {task.recipe.max_new_tokens} new tokens, the model takes "
            f"{task.teacher.max_model_len}; lower --max-new-tokens or shorten the description"
        )
        if told:
            _cannot_tell(task, draft, PROMPT_TOO_LONG, detail)
        else:
            draft.failure = Failure(reason=PROMPT_TOO_LONG, detail=detail)
    if not asked:
        return
    seeds = [draft.seed for draft in asked]
    found: Sequence[Sequence[tuple[Generated, TokenSignals | None]]]
    if task.recipe.select == "all":  # all are kept: their signals come in the same pass
        found = task.teacher.trace(prompts, seeds, task.sampling, task.wanted)
    else:
        drawn = task.teacher.generate(prompts, seeds, task.sampling)
        found = [[(generated, None) for generated in many] for many in drawn]
    for draft, prompt, many in zip(asked, prompts, found, strict=True):
        opened = opens_thinking(task.teacher.decode(prompt[-_PROMPT_END:]))
        for index, (generated, signals) in enumerate(many):
            candidate = judged(
                task.teacher.decode(generated.token_ids),
                draft.question,
                token_ids=generated.token_ids,
                prompt_token_ids=prompt,
                finish_reason=generated.finish_reason,
                origin="label" if told else "free",
                draw=index,
                seed=draft.seed + index,
                logprob=generated.logprob,
                opened=opened,
            )
            if signals is not None:
                candidate = candidate.with_signals(signals)
            (draft.label if told else draft.first).append(candidate)
