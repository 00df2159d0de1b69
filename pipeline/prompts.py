"""What the teachers and the student are asked, in words; the templates' hash goes on the tape."""

from __future__ import annotations

from collections.abc import Sequence

TEXTUAL_TEMPLATE = "Description of the audio: {description}\n{question}"
"""User turn of the textual teacher, which reads a description instead of hearing."""

CHOICES_TEMPLATE = "{question}\nChoices: {choices}"
"""A question with its permitted answers, as both the teachers and the student read it."""


def question_text(question: str, choices: Sequence[str]) -> str:
    """Return the question, with a line of choices if there are any."""
    if not choices:
        return question
    return CHOICES_TEMPLATE.format(question=question, choices=", ".join(choices))


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
        description=description, question="Question: " + question_text(question, choices)
    )
    return [{"role": "user", "content": content}]
