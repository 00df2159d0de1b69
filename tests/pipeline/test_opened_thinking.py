"""A chat template that opens the thinking: what the teacher never ends is no answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cache_schema.types import IntArray
from pipeline.teachers.base import Generated
from pipeline.textual_recipe import TextualRecipe
from pipeline.traces.ask import ask
from pipeline.traces.candidate import Question
from pipeline.traces.draft import Draft


class Teacher:
    """Says one text to every prompt; its tokens are bytes."""

    max_model_len = 4096

    def __init__(self, prompt: str, text: str) -> None:
        self.prompt, self.text = prompt, text

    def encode(self, _: Any) -> IntArray:
        return np.frombuffer(self.prompt.encode(), np.uint8).astype(np.int64)

    def decode(self, token_ids: IntArray) -> str:
        return token_ids.astype(np.uint8).tobytes().decode()

    def generate(self, prompts: list[IntArray], *_: Any) -> list[list[Generated]]:
        ids = np.frombuffer(self.text.encode(), np.uint8).astype(np.int64)
        one = Generated(token_ids=ids, finish_reason="stop", logprob=-1.0)
        return [[one] for _ in prompts]


@pytest.mark.parametrize(
    ("prompt", "text", "answer", "correct"),
    [
        ("Even?<think>\n", "yes", "", False),
        ("Even?<think>\n", "hm</think>yes", "yes", True),
        ("Even?<think>\n\n</think>\n\n", "yes", "yes", True),
        ("Even?", "yes", "yes", True),
    ],
)
def test_the_end_of_the_prompt_decides(prompt: str, text: str, answer: str, correct: bool) -> None:
    task: Any = SimpleNamespace(
        recipe=TextualRecipe(select="first-correct"), teacher=Teacher(prompt, text),
        prompt=SimpleNamespace(ask=lambda *_: []), sampling=None,
    )  # fmt: skip
    row: Any = SimpleNamespace(description="d", question="Even?", choices=("yes", "no"))
    question = Question(form="think", judge="auto", answer="yes", choices=("yes", "no"))
    draft = Draft(row=row, question=question, seed=0)
    ask(task, [draft])
    assert [(one.answer, one.correct) for one in draft.first] == [(answer, correct)]
