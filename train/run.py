"""One training run from its flags to its report: checks first, cheapest first, then the loop."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers.utils.logging import disable_progress_bar

from audio_models.digest import model_digest
from audio_models.load import AudioLM, read_dtype, read_num_layers
from audio_models.tower import tower_shape
from cache_schema import Tape
from cache_schema.commands.console import say
from train.assemble import build_run, is_on_cpu, make_accelerator, require_alike
from train.checkpoint import checkpoint_name, list_checkpoints, load_checkpoint, load_weights
from train.heldout_answers import check_answers
from train.loop import train_steps
from train.metrics import Reporter, cut_metrics
from train.parts import Progress, Run
from train.recipe import TrainRecipe
from train.report import write_report
from train.rundir import RunDir, check_run_dir, mark_finished, open_run, refuse_other_start
from train.sharding import make_whole
from train.steps.microsize import choose_micro_tokens
from train.steps.planning import LeftOut, Planner, about_rows, describe
from train.steps.stages import Stage
from train.student import load_student, save_student
from train.tapes import check_tapes, locate, open_tapes, resolve_all
from train.terms.resolve import Term
from train.trackers import require_trackers, tracking

PATIENCE = timedelta(hours=4)
"""How long processes wait for one that writes a checkpoint or reads a large tape: for 10 minutes by
default, which tens of billions of parameters exceed on a slow disk."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What the command line says."""

    caches: tuple[str, ...]
    student: str
    out: Path
    resume: bool = False


def train_student(flags: Flags, recipe: TrainRecipe) -> None:
    """Train a student from a tape, or continue; a finished run says so and does nothing.

    Raises:
        TeachertapeError: a named error of the tape, the student, the recipe or the folder.
    """
    if not sys.stderr.isatty():
        disable_progress_bar()
    require_trackers(recipe.logging.trackers)
    directory = RunDir(root=flags.out)
    before = check_run_dir(directory, recipe, flags.resume)
    # every process has looked before the first one writes
    PartialState(cpu=is_on_cpu(), timeout=PATIENCE).wait_for_everyone()
    tapes = open_tapes(locate(flags.caches, recipe))
    if before:
        refuse_other_start(directory, _started_from(flags, tapes))
    if before and before.get("finished"):
        say(f"{flags.out} is finished: {directory.student}; nothing to do")
        return
    check_tapes(recipe, tapes)
    terms = resolve_all(recipe, tapes, read_num_layers(flags.student))
    if any(term.spec.at == "tower" for term in terms):
        tower_shape(flags.student)  # of a family whose audio tower is known
    accelerator = make_accelerator(recipe, flags.out)
    torch.manual_seed(recipe.loop.seed)
    lm = load_student(flags.student, recipe.student)
    planner = Planner(recipe, tapes, terms, lm)
    stages = planner.stages()
    require_alike(accelerator, about_rows(stages), "the tape grew meanwhile, or is another there")
    run = build_run(directory, recipe, lm, terms, stages, accelerator)
    check_answers(run)
    main = accelerator.is_main_process
    if main:
        _say_plan(terms, stages, planner.left_out, lm)
        # what is frozen comes from the student again when the run goes on
        about = {"student_digest": model_digest(flags.student), **about_rows(stages)}
        open_run(directory, recipe, {**_started_from(flags, tapes), **about})
    progress = continue_from(run, flags.resume or bool(before))
    if accelerator.process_index and not progress.done:
        torch.manual_seed(recipe.loop.seed + accelerator.process_index)  # dropout of its own
    if not progress.micro_tokens:
        progress = replace(progress, micro_tokens=choose_micro_tokens(run))
    with _reporting(run, progress) if main else contextlib.nullcontext() as reporter:
        progress = train_steps(run, progress, reporter)
    if run.shards:
        make_whole(run.unwrapped, main)
    if main:
        finish(run, progress, flags.student)
        write_report(run, progress, planner.left_out)
        mark_finished(directory)
        say(f"done: {directory.student}, report: {directory.report}")
        say(f"next: train evaluate --model {directory.student} --data D --out DIR")
    accelerator.wait_for_everyone()


@contextlib.contextmanager
def _reporting(run: Run, progress: Progress) -> Iterator[Reporter]:
    """Open metrics, progress and trackers, on the first process."""
    directory, recipe = run.directory, run.recipe
    with (
        tracking(run.accelerator, recipe, directory, progress.done) as track,
        Reporter(
            directory.metrics, run.total_steps, progress.done, recipe.logging.every, track
        ) as reporter,
    ):
        yield reporter


def continue_from(run: Run, begun: bool) -> Progress:
    """Load the last checkpoint, if there is one; return how far the run is.

    Args:
        run: the run.
        begun: whether it was begun before, so that having no checkpoint is worth a word.
    """
    accelerator = run.accelerator
    found = list_checkpoints(run.directory.checkpoints)
    progress = Progress(micro_tokens=run.recipe.loop.micro_tokens)
    word = "the run stopped before its first checkpoint, so it starts over" * begun
    if found:
        done, path = found[-1]
        state = load_checkpoint(path, run.unwrapped, run.optimizer, accelerator.process_index)
        # a checkpoint of before progress was kept says the step alone
        before = Progress(**{**progress.to_json(), "done": done, **state.get("progress", {})})
        # a smaller size may be asked for; one that did not fit is not tried again
        asked = progress.micro_tokens or before.micro_tokens
        progress = replace(before, micro_tokens=min(asked, before.micro_tokens or asked))
        word = f"continuing after step {done} of {run.total_steps} ({path})"
    if accelerator.is_main_process:
        if word:
            say(word)
        cut_metrics(run.directory.metrics, progress.done)
    require_alike(
        accelerator,
        {"checkpoint": found[-1][0] if found else "none", **progress.to_json()},
        f"they see different folders at {run.directory.root}: it has to be shared by all",
    )
    accelerator.wait_for_everyone()
    return progress


def finish(run: Run, progress: Progress, student: str) -> None:
    """Save the student and the heads on its audio tower, of the last step or the best one."""
    if run.recipe.eval.save == "best" and progress.best_step != progress.done:
        best = run.directory.checkpoints / checkpoint_name(progress.best_step)
        load_weights(best, run.unwrapped)
    if progress.stopped:
        say(
            f"stopped after step {progress.done} of {run.total_steps}: no lower loss on held-out "
            f"rows in {progress.since_best} evaluations, lowest after step {progress.best_step}"
        )
    projectors = dict(run.unwrapped.projectors.items())
    save_student(run.lm, run.directory.student, read_dtype(student), projectors)


def _started_from(flags: Flags, tapes: Mapping[str, Tape]) -> dict[str, Any]:
    """Return what a run may not change: its student, and its tape or those of its tasks."""
    fingerprints = {name: tape.fingerprint for name, tape in tapes.items()}
    alone = fingerprints.get("")
    return {"tape": alone or fingerprints, "student": flags.student}


def _say_plan(
    terms: tuple[Term, ...], stages: tuple[Stage, ...], left_out: LeftOut, lm: AudioLM
) -> None:
    trained = sum(p.numel() for p in lm.model.parameters() if p.requires_grad)
    say(f"student: {lm.path} ({lm.family.name}), {trained:,} parameters trained")
    for term in terms:
        pairs = " ".join(f"{s}:{t}" for s, t in term.pairs)
        say(f"term {term.name}: weight {term.settings.weight:g}{f', layers {pairs}' * bool(pairs)}")
    for line in describe(stages, left_out):
        say(line)
