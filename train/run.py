"""One training run from its flags to its report: checks first, cheapest first, then the loop."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from transformers.utils.logging import disable_progress_bar

from audio_models.load import AudioLM, read_dtype, read_num_layers
from cache_schema import Tape, open_tape
from cache_schema.console import say
from cache_schema.fingerprint import fingerprint
from train.batch import Needs
from train.checkpoint import list_checkpoints, load_checkpoint
from train.data import Example, require_audio, scan, steps_of_run
from train.loop import Run, train_steps
from train.metrics import Reporter, cut_metrics
from train.needs import resolve_needs, with_every_signal
from train.objective import Objective
from train.recipe import TrainRecipe
from train.report import write_report
from train.rundir import RunDir, check_run_dir, mark_finished, open_run, refuse_other_start
from train.settings import OptimRecipe
from train.student import load_student, save_student
from train.terms import Term, check_signals, resolve_terms


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
    directory = RunDir(root=flags.out)
    before = check_run_dir(directory, recipe, flags.resume)
    # every process has looked before the first one writes
    PartialState(cpu=_processes_on_cpu()).wait_for_everyone()
    tape = open_tape(flags.cache)
    if before:
        refuse_other_start(directory, {"tape": tape.fingerprint, "student": flags.student})
    if before and before.get("finished"):
        say(f"{flags.out} is finished: {directory.student}; nothing to do")
        return
    signals = check_signals(recipe.terms, tape)
    require_audio(tape)
    terms = resolve_terms(recipe.terms, tape, read_num_layers(flags.student))
    accelerator = make_accelerator(recipe, terms)
    torch.manual_seed(recipe.loop.seed)
    lm = load_student(flags.student, recipe.student)
    examples, left_out = scan(tape, lm, recipe.data, signals)
    examples, incomplete = with_every_signal(tape, examples, terms)
    left_out += incomplete
    needs = resolve_needs(lm, tape, terms, examples)
    if accelerator.is_main_process:
        _say_plan(terms, examples, left_out, lm)
        open_run(directory, recipe, _about(flags, tape, examples))
    run = build_run(flags, recipe, tape, lm, terms, examples, needs, accelerator)
    done = continue_from(run, flags.resume, accelerator)
    reporter = Reporter(directory.metrics, run.total_steps, done, recipe.logging.every)
    main = accelerator.is_main_process
    with reporter if main else contextlib.nullcontext():
        train_steps(run, done, reporter if main else None)
    if main:
        save_student(lm, directory.student, read_dtype(flags.student))
        write_report(directory, tape, lm, terms, len(examples), left_out)
        mark_finished(directory)
        say(f"done: {directory.student}, report: {directory.report}")
    accelerator.wait_for_everyone()


def make_accelerator(recipe: TrainRecipe, terms: tuple[Term, ...]) -> Accelerator:
    """Return the accelerator: device, processes and precision."""
    wanted = recipe.student.autocast
    bfloat16 = wanted == "bfloat16" or (wanted == "auto" and torch.cuda.is_available())
    only_states = not any(term.over_output for term in terms)
    return Accelerator(
        cpu=_processes_on_cpu(),
        mixed_precision="bf16" if bfloat16 else "no",
        # without a term over the vocabulary the upper blocks and the unembedding get no gradient
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=only_states)],
    )


def _processes_on_cpu() -> bool:
    """Whether a launcher started this process on a machine without CUDA.

    Accelerate must be told: it would otherwise run every process as if it were alone.
    """
    return "LOCAL_RANK" in os.environ and not torch.cuda.is_available()


def build_run(
    flags: Flags,
    recipe: TrainRecipe,
    tape: Tape,
    lm: AudioLM,
    terms: tuple[Term, ...],
    examples: list[Example],
    needs: Needs,
    accelerator: Accelerator,
) -> Run:
    """Put student, projectors and optimizer together."""
    objective = Objective(
        lm.model,
        terms,
        lm.width,
        {name: about["width"] for name, about in tape.sources.items() if "width" in about},
        recipe.loop.vocab_chunk,
    )
    optimizer = torch.optim.AdamW(
        parameter_groups(objective, recipe.optim),
        lr=recipe.optim.lr,
        betas=(recipe.optim.betas[0], recipe.optim.betas[1]),
        eps=recipe.optim.eps,
    )
    prepared, optimizer = accelerator.prepare(objective, optimizer)
    loop = recipe.loop
    return Run(
        lm=lm,
        tape=tape,
        examples=examples,
        needs=needs,
        objective=prepared,
        optimizer=optimizer,
        accelerator=accelerator,
        recipe=recipe,
        directory=RunDir(root=flags.out),
        total_steps=steps_of_run(
            examples, loop.batch_tokens, loop.seed, loop.epochs, loop.max_steps
        ),
    )


def parameter_groups(objective: Objective, recipe: OptimRecipe) -> list[dict[str, Any]]:
    """Return optimizer groups: matrices, vectors (no decay) and projectors (their own rate)."""
    student = [p for p in objective.model.parameters() if p.requires_grad]
    groups: Mapping[str, Any] = {
        "matrices": ([p for p in student if p.ndim > 1], recipe.lr, recipe.weight_decay),
        "vectors": ([p for p in student if p.ndim <= 1], recipe.lr, 0.0),
        "projectors": (list(objective.projectors.parameters()), recipe.projector_lr, 0.0),
    }
    return [
        {"params": params, "lr": lr, "peak_lr": lr, "weight_decay": decay}
        for params, lr, decay in groups.values()
        if params
    ]


def continue_from(run: Run, resume: bool, accelerator: Accelerator) -> int:
    """Load the last checkpoint, if there is one; return the steps done."""
    found = list_checkpoints(run.directory.checkpoints)
    done = 0
    word = "--resume: the run stopped before its first checkpoint, so it starts over" * resume
    if found:
        done, path = found[-1]
        load_checkpoint(path, run.unwrapped, run.optimizer, accelerator.process_index)
        word = f"continuing after step {done} of {run.total_steps} ({path})"
    if accelerator.is_main_process:
        if word:
            say(word)
        cut_metrics(run.directory.metrics, done)
    accelerator.wait_for_everyone()
    return done


def _about(flags: Flags, tape: Tape, examples: list[Example]) -> dict[str, Any]:
    rows = [f"{e.sample_id}\t{e.trace_index}\t{e.num_tokens}" for e in examples]
    return {
        "tape": tape.fingerprint,
        "student": flags.student,
        "rows": len(examples),
        "rows_digest": fingerprint({"rows": rows}),
    }


def _say_plan(
    terms: tuple[Term, ...], examples: list[Example], left_out: Counter[str], lm: AudioLM
) -> None:
    trained = sum(p.numel() for p in lm.model.parameters() if p.requires_grad)
    say(f"student: {lm.path} ({lm.family.name}), {trained:,} parameters trained")
    for term in terms:
        pairs = " ".join(f"{s}:{t}" for s, t in term.pairs)
        say(f"term {term.name}: weight {term.settings.weight:g}{f', layers {pairs}' * bool(pairs)}")
    dropped = "".join(f"; left out: {n} {reason}" for reason, n in sorted(left_out.items()))
    say(f"rows: {len(examples)}{dropped}")
