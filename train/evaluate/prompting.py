"""What a model is asked, and what its response consists of."""

from __future__ import annotations

from cache_schema.answers.forms import opens_thinking, parse_trace
from cache_schema.answers.questions import question_text
from train.evaluate.types import Item, Response

ANY_FORM = "plain"
"""Thinking and response are found in it whether they are there or not, so in ``cota`` too."""


def prompt_text(item: Item, instruction: str = "") -> str:
    """Return the user turn's text: the question, its choices, and the instruction, a line each.

    The first two are as teachers and students read them while training.
    """
    asked = question_text(item.question, item.choices)
    return "\n".join(part for part in (asked, instruction) if part)


def take_apart(
    sample_id: str, text: str, num_tokens: int, finish: str, prompt: str = ""
) -> Response:
    """Return a response with its trace and its answer.

    An answer that reaches the end of a response cut at its limit may be half of one, and is none.

    Args:
        sample_id: whose.
        text: everything generated, without special tokens.
        num_tokens: tokens generated.
        finish: ``stop`` or ``length``.
        prompt: what the model continued, or its end: some chat templates open the thinking.
    """
    parsed = parse_trace(
        text, ANY_FORM, truncated=finish == "length", opened=opens_thinking(prompt)
    )
    return Response(
        sample_id=sample_id,
        text=text,
        trace=parsed.parts.get("think", ""),
        answer=parsed.answer,
        num_tokens=num_tokens,
        finish=finish,
    )


def failed(sample_id: str, error: str) -> Response:
    """Return what stands for a response that could not be made."""
    return Response(sample_id=sample_id, text="", num_tokens=0, finish="error", error=error)
