"""One training run from its flags to its report: checks first, cheapest first, then the loop."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers.utils.logging import disable_progress_bar

from audio_models.load import AudioLM, read_dtype, read_num_layers
from cache_schema import Tape, open_tape
from cache_schema.console import say
from cache_schema.fingerprint import fingerprint
from train.alignment.translation import load_translation
from train.assemble import build_run, make_accelerator, processes_on_cpu
from train.checkpoint import checkpoint_name, list_checkpoints, load_checkpoint, load_weights
from train.data import Example, require_audio, scan
from train.heldout import split
from train.loop import train_steps
from train.metrics import Reporter, cut_metrics
from train.microsize import choose_micro_tokens
from train.needs import resolve_needs, with_every_signal
from train.parts import Progress, Run
from train.recipe import TrainRecipe
from train.report import write_report
from train.rundir import RunDir, check_run_dir, mark_finished, open_run, refuse_other_start
from train.sharding import make_whole
from train.student import load_student, save_student
from train.terms import Term, check_signals, resolve_terms
from train.trackers import require_trackers, tracking


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What the command line says."""

    cache: str
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
    PartialState(cpu=processes_on_cpu()).wait_for_everyone()
    tape = open_tape(flags.cache)
    if before:
        refuse_other_start(directory, {"tape": tape.fingerprint, "student": flags.student})
    if before and before.get("finished"):
        say(f"{flags.out} is finished: {directory.student}; nothing to do")
        return
    signals = check_signals(recipe.terms, tape)
    require_audio(tape)
    terms = resolve_terms(recipe.terms, tape, read_num_layers(flags.student))
    accelerator = make_accelerator(recipe, flags.out)
    torch.manual_seed(recipe.loop.seed)
    lm = load_student(flags.student, recipe.student)
    translation = load_translation(lm, tape, recipe.data.teacher_tokenizer)
    examples, left_out = scan(tape, lm, recipe.data, signals, translation)
    examples, incomplete = with_every_signal(tape, examples, terms)
    left_out += incomplete
    rows = split(examples, recipe.eval.fraction) if recipe.eval.every else (examples, [])
    needs = resolve_needs(lm, tape, terms, examples, translation)
    main = accelerator.is_main_process
    if main:
        _say_plan(terms, examples, rows[1], left_out, lm)
        open_run(directory, recipe, _about(flags, tape, examples))
    run = build_run(directory, recipe, tape, lm, terms, rows, needs, accelerator)
    progress = continue_from(run, flags.resume)
    if not progress.micro_tokens:
        progress = replace(progress, micro_tokens=choose_micro_tokens(run))
    with _reporting(run, progress) if main else contextlib.nullcontext() as reporter:
        progress = train_steps(run, progress, reporter)
    if run.shards:
        make_whole(run.unwrapped, main)
    if main:
        finish(run, progress, flags.student)
        write_report(run, progress, len(examples), left_out)
        mark_finished(directory)
        say(f"done: {directory.student}, report: {directory.report}")
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


def continue_from(run: Run, resume: bool) -> Progress:
    """Load the last checkpoint, if there is one; return how far the run is."""
    accelerator = run.accelerator
    found = list_checkpoints(run.directory.checkpoints)
    progress = Progress(micro_tokens=run.recipe.loop.micro_tokens)
    word = "--resume: the run stopped before its first checkpoint, so it starts over" * resume
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
    accelerator.wait_for_everyone()
    return progress


def finish(run: Run, progress: Progress, student: str) -> None:
    """Save the student, of the last step or the best one."""
    if run.recipe.eval.save == "best" and progress.best_step != progress.done:
        best = run.directory.checkpoints / checkpoint_name(progress.best_step)
        load_weights(best, run.unwrapped)
    if progress.stopped:
        say(
            f"stopped after step {progress.done} of {run.total_steps}: no lower loss on held-out "
            f"rows in {progress.since_best} evaluations, lowest after step {progress.best_step}"
        )
    save_student(run.lm, run.directory.student, read_dtype(student))


def _about(flags: Flags, tape: Tape, examples: list[Example]) -> dict[str, Any]:
    rows = [f"{e.sample_id}\t{e.trace_index}\t{e.num_tokens}" for e in examples]
    return {
        "tape": tape.fingerprint,
        "student": flags.student,
        "rows": len(examples),
        "rows_digest": fingerprint({"rows": rows}),
    }


def _say_plan(
    terms: tuple[Term, ...],
    examples: list[Example],
    held_out: list[Example],
    left_out: Counter[str],
    lm: AudioLM,
) -> None:
    trained = sum(p.numel() for p in lm.model.parameters() if p.requires_grad)
    say(f"student: {lm.path} ({lm.family.name}), {trained:,} parameters trained")
    for term in terms:
        pairs = " ".join(f"{s}:{t}" for s, t in term.pairs)
        say(f"term {term.name}: weight {term.settings.weight:g}{f', layers {pairs}' * bool(pairs)}")
    dropped = "".join(f"; left out: {n} {reason}" for reason, n in sorted(left_out.items()))
    held = f", of which {len(held_out)} are held out" * bool(held_out)
    say(f"rows: {len(examples)}{held}{dropped}")
