"""What the textual teacher is asked, in words; the template's hash goes on the tape."""

from __future__ import annotations

from collections.abc import Sequence

from cache_schema.questions import question_text

TEXTUAL_TEMPLATE = "Description of the audio: {description}\nQuestion: {question}"
"""User turn of the textual teacher, which reads a description instead of hearing."""


def textual_messages(
    description: str, question: str, choices: Sequence[str]
) -> list[dict[str, str]]:
    """Return the chat messages of the textual teacher for one sample.

    Args:
        description: the textualized audio.
        question: what is asked about it.
        choices: the permitted answers, empty for an open question.
    """
    content = TEXTUAL_TEMPLATE.format(
        description=description, question=question_text(question, choices)
    )
    return [{"role": "user", "content": content}]
