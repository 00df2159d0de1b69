"""What the student reads of a sample: its question, beside the audio or behind the description."""

from __future__ import annotations

from cache_schema import TapeRow
from cache_schema.answers.questions import question_text


def prompt_text(row: TapeRow, reads: str) -> str:
    """Return what stands in the user's turn beside the audio, or instead of it.

    The question with its choices; behind the description, where the student reads that.
    """
    question = question_text(row.question, row.choices)
    if reads == "audio":
        return question
    return "\n\n".join(part for part in (row.description or "", question) if part)
