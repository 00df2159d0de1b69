"""Step three, the textual teacher: traces asked for, judged, chosen, and recorded with signals."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from cache_schema import Tape, TapeRow
from cache_schema.commands.console import say
from cache_schema.commands.progress import Counter
from cache_schema.errors import ModelError, QuarantineError, TapeError
from cache_schema.prepare import RowError
from cache_schema.types import TEXT_SOURCE
from cache_schema.writer import TapeWriter
from pipeline.cluster.work import job_of, parts
from pipeline.prompts import load_prompt
from pipeline.recipe import ExtractRecipe
from pipeline.step import Failures, Pending, open_for, pending, writer_for
from pipeline.teachers.base import TextTeacher, Wanted
from pipeline.teachers.records import record_dtype
from pipeline.textual_recipe import TextualRecipe
from pipeline.traces.draft import Task
from pipeline.traces.group import group_info, wanted_signals
from pipeline.traces.outcome import Outcome, record
from pipeline.traces.settle import collect
from pipeline.traces.survive import Survivor
from pipeline.traces.tally import Tally


def run(recipe: ExtractRecipe) -> None:
    """Run the textual teacher over this worker's described samples.

    Raises:
        ModelError: the teacher cannot be used, or its engine died too often.
        ProvenanceError: the tape has signals of another textual teacher.
        TapeError: there are no descriptions to read.
        QuarantineError: too many samples failed.
        UsageError: the prompt or the layers do not exist.
    """
    if recipe.textual.engine == "encoder":
        from pipeline import encode_text

        encode_text.run(recipe)
        return
    prompt = load_prompt(recipe.textual.prompt)
    tape = open_for(recipe)
    if "descriptions" not in tape.groups:
        raise TapeError(f"{recipe.tape.out}: no descriptions yet; run the textualize step first")
    teacher = load_teacher(recipe.textual, recipe.seed)
    about = teacher.describe()
    wanted = wanted_signals(recipe.textual, about)
    info = group_info(recipe, about, wanted, prompt, tape.groups["descriptions"].fingerprint)

    def left_on(tape: Tape) -> Pending:
        return pending(tape, info, recipe).among(tape.recorded_mask("descriptions"))

    todo = left_on(tape)
    if not todo:
        say("textual: every described sample is recorded")
        return
    job = job_of(recipe, "textual", TEXT_SOURCE, left_on)
    task = Task(
        recipe=recipe.textual,
        seed=recipe.seed,
        prompt=prompt,
        teacher=teacher,
        wanted=wanted,
        token_bytes=record_dtype(wanted, about["width"], about["dtype"]).itemsize,
    )
    try:
        with writer_for(recipe, info) as writer:
            for part in parts(job, tape, todo, writer):
                with part:
                    tally = record_all(task, part.left, writer, part.failures)
                    writer.seal()
                    say(f"textual: {tally.line(prompt.form)}")
    finally:
        teacher.close()


def load_teacher(recipe: TextualRecipe, seed: int) -> TextTeacher:
    """Return the teacher the recipe names; only here is an engine imported, none is started."""
    if recipe.engine == "vllm":
        from pipeline.teachers.vllm_text import VllmTextTeacher

        return VllmTextTeacher(recipe, seed)
    if recipe.engine == "transformers":
        from pipeline.teachers.hf_text import HfTextTeacher

        return HfTextTeacher(recipe)
    raise AssertionError(f"no code starts engine {recipe.engine!r}")


def record_all(
    task: Task, todo: Sequence[TapeRow], writer: TapeWriter, failures: Failures
) -> Tally:
    """Record the samples batch by batch; return the counts of what came of them.

    Raises:
        ModelError: the engine is broken; samples that failed before are quarantined, if few enough,
            so that the next run does not meet them again.
        QuarantineError: too many samples failed.
    """
    tally, size = Tally(), task.recipe.batch_samples
    survivor = Survivor(task)
    try:
        with Counter("textual", len(todo)) as progress:
            for start in range(0, len(todo), size):
                for outcomes in survivor.each(
                    todo[start : start + size], lambda part: collect(task, part)
                ):
                    count = len(outcomes)
                    while outcomes:  # let go one by one: two batches of signals may not fit
                        record_one(outcomes.pop(0), task.wanted, writer, failures, tally)
                    progress.advance(count)
    except ModelError:  # raised between two samples
        if survivor.proven:
            with contextlib.suppress(QuarantineError):  # too many: the engine's error says more
                failures.settle(writer)
        raise
    return tally


def record_one(
    outcome: Outcome, wanted: Wanted, writer: TapeWriter, failures: Failures, tally: Tally
) -> None:
    """Put one sample on the tape, or count it as failed."""
    row, failure = outcome.row, outcome.failure
    if failure is not None:
        failures.add(row.sample_id, row.row_index, failure.reason, failure.detail)
        return
    try:
        record(outcome, wanted, writer)
    except RowError as error:
        failures.add(row.sample_id, row.row_index, "signals", str(error))
        return
    tally.add(outcome)
