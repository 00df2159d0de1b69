"""A sample on its way through a batch, and what stays the same for a whole run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cache_schema import TapeRow
from cache_schema.types import IntArray
from pipeline.prompts import Prompt
from pipeline.step import seed_of
from pipeline.teachers.base import Sampling, TextTeacher, Wanted
from pipeline.textual_recipe import TextualRecipe
from pipeline.traces.candidate import Candidate, Question
from pipeline.traces.outcome import Failure

NO_DESCRIPTION = "empty description"
NO_ANSWER_TO_TELL = "no answer to tell"
PROMPT_TOO_LONG = "prompt too long"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What stays the same for a whole run.

    Attributes:
        recipe: of the teacher.
        seed: of the run; each sample has its own that follows from it.
        prompt: what the teacher is asked.
        teacher: asked and read.
        wanted: signals of every kept trace.
        token_bytes: memory that the signals of one token take.
    """

    recipe: TextualRecipe
    seed: int
    prompt: Prompt
    teacher: TextTeacher
    wanted: Wanted
    token_bytes: int

    @property
    def sampling(self) -> Sampling:
        """How traces are drawn."""
        return Sampling(
            num_traces=self.recipe.traces,
            max_new_tokens=self.recipe.max_new_tokens,
            temperature=self.recipe.temperature,
            top_p=self.recipe.top_p,
            top_k=self.recipe.sample_top_k,
            min_p=self.recipe.min_p,
            repetition_penalty=self.recipe.repetition_penalty,
        )


@dataclass(kw_only=True)
class Draft:
    """One sample of a batch.

    Attributes:
        row: the sample.
        question: what its traces are judged by.
        seed: its seed; trace j is drawn with ``seed + j``.
        first: traces the teacher wrote freely, or those given.
        label: traces it wrote with the right answer told.
        failure: why it cannot be recorded, if so.
        untold: why the answer was not told where it should have been.
    """

    row: TapeRow
    question: Question
    seed: int
    first: list[Candidate] = field(default_factory=list)
    label: list[Candidate] = field(default_factory=list)
    failure: Failure | None = None
    untold: str = ""


def drafts_of(task: Task, rows: Sequence[TapeRow]) -> list[Draft]:
    """Begin with a batch; a sample without a description has failed already."""
    drafts = []
    for row in rows:
        question = Question(
            form=task.prompt.form,
            judge=task.recipe.judge,
            answer=row.answer,
            choices=row.choices,
        )
        draft = Draft(row=row, question=question, seed=seed_of(task.seed, row.sample_id))
        if not (row.description or "").strip():
            draft.failure = Failure(
                reason=NO_DESCRIPTION, detail="there is nothing to read; see the textualize step"
            )
        drafts.append(draft)
    return drafts


def encode_prompt(task: Task, row: TapeRow, *, told: bool) -> IntArray:
    """Return the prompt of a sample, int64 [P], with the right answer told or not."""
    description = row.description or ""
    if told:
        messages = task.prompt.ask_why(description, row.question, row.choices, row.answer)
    else:
        messages = task.prompt.ask(description, row.question, row.choices)
    return task.teacher.encode(messages)
