"""Traces that stand in a column of the dataset: the teacher only reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cache_schema.errors import nearest
from pipeline.traces.candidate import STOPPED, judged
from pipeline.traces.draft import Draft, Task, encode_prompt
from pipeline.traces.outcome import Failure

MISSING, TOO_LONG = "no given trace", "given trace too long"


def take_given(task: Task, drafts: Sequence[Draft]) -> None:
    """Take the traces of the recipe's column, as the teacher's tokenizer writes them.

    A sample whose column lacks a text, or holds one that does not fit into the model, has failed.
    """
    for draft in drafts:
        if draft.failure is None:
            draft.failure = _take(task, draft)


def _take(task: Task, draft: Draft) -> Failure | None:
    column, metadata = task.recipe.given, draft.row.metadata
    texts = _texts(metadata.get(column))
    if not texts:
        has = "is no text and no list of texts, or is empty"
        if column not in metadata:
            has = f"is missing{nearest(column, metadata)} (it has: {', '.join(sorted(metadata))})"
        return Failure(reason=MISSING, detail=f"column {column!r} {has}")
    prompt = encode_prompt(task, draft.row, told=False)
    for index, text in enumerate(texts):
        target = task.teacher.encode_trace(text)
        if len(prompt) + len(target) > task.teacher.max_model_len:
            return Failure(
                reason=TOO_LONG,
                detail=f"text {index} of {column!r}: {len(prompt)} prompt + {len(target)} trace "
                f"tokens, the model takes {task.teacher.max_model_len}",
            )
        candidate = judged(
            # The text as the ids say it: students compare the two.
            task.teacher.decode(target),
            draft.question,
            token_ids=target,
            prompt_token_ids=prompt,
            finish_reason=STOPPED,
            origin="given",
            draw=index,
            seed=draft.seed + index,
        )
        draft.first.append(candidate)
    return None


def _texts(value: Any) -> list[str]:
    """Return the traces a column holds; none if anything of it is not a text, or is blank."""
    values = value if isinstance(value, list) else [value]
    if all(isinstance(text, str) and text.strip() for text in values):
        return values
    return []
