"""Step four, the acoustic teacher: what a model that hears has to say of every recording."""

from __future__ import annotations

from cache_schema.commands.console import say
from cache_schema.commands.progress import Counter
from pipeline.cluster.work import job_of, parts
from pipeline.hearing.batches import Capacity
from pipeline.hearing.group import Plan
from pipeline.hearing.plan import plan
from pipeline.hearing.recorder import Recorder
from pipeline.listen.recordings import Recordings
from pipeline.recipe import ExtractRecipe
from pipeline.responses import ORIGINS, check_origin
from pipeline.step import Pending, open_for, pending, writer_for


def run(recipe: ExtractRecipe) -> None:
    """Run the acoustic teacher over this worker's samples.

    Raises:
        ModelError: the teacher cannot be used.
        ProvenanceError: the tape has signals of another teacher under its name.
        TapeError: the textual teacher that the recipe names has yet to run.
        QuarantineError: too many samples failed.
    """
    tape = open_for(recipe)
    planned = plan(recipe, tape)
    left = pending(tape, planned.info, recipe)
    todo = _ready(recipe, planned, left)
    title = recipe.acoustic.name
    if not todo:
        say(f"{title}: nothing else to record" if left else f"{title}: every sample is recorded")
        return
    if planned.responses is not None:
        say(f"{title}: read on {ORIGINS[planned.responses.origin]}")
    capacity = Capacity.of(recipe.acoustic.batch_size)
    recordings = Recordings(tape, recipe.dataset)
    teacher = planned.load()
    job = job_of(
        recipe,
        title,
        planned.info.group,
        lambda now: _ready(recipe, planned, pending(now, planned.info, recipe), quiet=True),
    )
    with writer_for(recipe, planned.info) as writer:
        for part in parts(job, tape, todo, writer):
            with Counter(title, len(part.left)) as progress, part:
                recorder = Recorder(
                    title=title,
                    teacher=teacher,
                    recordings=recordings,
                    responses=planned.responses,
                    seed=recipe.seed,
                    capacity=capacity,
                    writer=writer,
                    failures=part.failures,
                    progress=progress,
                )
                recorder.record(part.left)
    say(f"{title}: {capacity.told()} on {teacher.device}")


def _ready(recipe: ExtractRecipe, planned: Plan, left: Pending, *, quiet: bool = False) -> Pending:
    """Leave out samples that wait for what the teacher is read on."""
    responses = planned.responses
    if responses is None:
        return left
    tape = left.tape
    if left and responses.wanted:
        check_origin(recipe, tape)
    return responses.ready(left, tape, planned.with_states, quiet=quiet)
