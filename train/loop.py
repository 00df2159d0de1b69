"""The training loop, on one screen: ``train_steps``.

A step is a set of rows within ``batch_tokens``. Each process runs its share in micro-batches; every
term is summed, divided once by its count over all processes, weighted, and backpropagated. What
does not fit the memory starts the step again in smaller micro-batches (``train.gradients``).

Shapes: M terms.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace

from accelerate.utils import gather_object
from torch import Tensor

from cache_schema.errors import TeachertapeError
from train.batch.states import damaged_states
from train.checkpoint import rng_state, save_checkpoint, whole_state
from train.freezing import train_parts
from train.gradient_norms import norms_due
from train.gradients import StepSums, clip_gradients, step_gradients
from train.heldout import HeldOut, evaluate
from train.heldout_answers import answer_held_out
from train.memory import named_shortage
from train.metrics import HeldOutMetrics, Reporter, StepMetrics, TermValue
from train.parts import Progress, Run
from train.schedule import set_learning_rate
from train.steps.loads import Feed
from train.steps.stages import PlannedStep
from train.terms.counts import OF_TOKENS


class NonFiniteLossError(TeachertapeError):
    """The loss or its gradient became NaN or infinite."""


def train_steps(run: Run, progress: Progress, reporter: Reporter | None) -> Progress:
    """Train from where ``progress`` is to the end, writing metrics and checkpoints.

    Args:
        run: what to train.
        progress: what is done already.
        reporter: records metrics; ``None`` on all but the first process.

    Raises:
        NonFiniteLossError: naming the step, its rows and every term.
        StudentMemoryError: a single row does not fit the memory.
    """
    if progress.stopped:
        return progress
    recipe, accelerator = run.recipe, run.accelerator
    with contextlib.closing(Feed(run, progress.done, progress.micro_tokens)) as feed:
        for step in range(progress.done + 1, run.total_steps + 1):
            began_s = time.perf_counter()
            stage = run.stage_of(step)
            parameters = train_parts(run, stage)
            feed.advance()
            lr = set_learning_rate(run.optimizer, recipe.optim, step - stage.first, stage.steps)
            measure = norms_due(run, stage, step)
            # of the first process's share; the others take part where they hold parts of it
            measure = measure and (accelerator.is_main_process or run.shards is not None)
            sums = step_gradients(run, feed, step, measure)
            loss = float((sums.values_M * run.weights_M).sum())
            limit = recipe.optim.clip_norm or math.inf
            norm = clip_gradients(run, parameters, limit)
            _require_finite(run, step, loss, norm, sums.values_M)
            with named_shortage(f"step {step}, in the optimizer"):
                run.optimizer.step()
            run.optimizer.zero_grad()
            spent_s = time.perf_counter() - began_s
            if reporter is not None:
                reporter.step(
                    StepMetrics(
                        step=step,
                        loss=loss,
                        terms=_terms(run, sums, sums.norms),
                        lr=lr,
                        grad_norm=norm,
                        tokens=sums.tokens,
                        tokens_per_s=sums.tokens / spent_s,
                        step_s=spent_s,
                        loader_wait_s=feed.waited_s,
                        micro_tokens=feed.micro_tokens,
                    )
                )
            progress = replace(progress, done=step, micro_tokens=feed.micro_tokens)
            last = step == run.total_steps
            if recipe.eval.every and (last or _due(recipe.eval.every, step)):
                progress = _judge(run, progress, reporter)
                feed.go_on_with(progress.micro_tokens)
            keep = recipe.eval.save == "best" and progress.best_step == step
            if last or keep or progress.stopped or _due(recipe.checkpoints.every, step):
                checkpoint(run, progress)
            if progress.stopped:
                break
    return progress


def checkpoint(run: Run, progress: Progress) -> None:
    """Write a checkpoint on the first process, while the others wait."""
    rng_states = gather_object([rng_state()])
    tensors, moments = whole_state(run.unwrapped, run.optimizer, run.accelerator.is_main_process)
    if run.accelerator.is_main_process:
        save_checkpoint(
            run.directory.checkpoints,
            progress.done,
            tensors,
            moments,
            {"total_steps": run.total_steps, "progress": progress.to_json()},
            rng_states,
            run.recipe.checkpoints.keep,
            progress.best_step if run.recipe.eval.save == "best" else 0,
        )
    run.accelerator.wait_for_everyone()


def _judge(run: Run, progress: Progress, reporter: Reporter | None) -> Progress:
    """Evaluate on the held-out rows; note the best, and whether to stop."""
    found = evaluate(run, progress.micro_tokens, progress.done)
    _require_finite_held_out(run, progress.done, found)
    # losses of other terms or rows do not compare: the last stage alone has a best
    last = run.stage_of(progress.done) == run.stages[-1]
    best = last and (progress.best_loss is None or found.loss < progress.best_loss)
    answers = None
    if run.recipe.eval.generate:
        answers = answer_held_out(run, found.micro_tokens, progress.done)
    if reporter is not None:
        reporter.held_out(
            HeldOutMetrics(
                step=progress.done,
                loss=found.loss,
                terms=_terms(run, found, [None] * len(found.values_M)),
                tokens=found.tokens,
                eval_s=found.spent_s,
                best=best,
                accuracy=answers.accuracy if answers else None,
                no_answer=answers.no_answer if answers else None,
                generate_s=answers.spent_s if answers else None,
            )
        )
    since = progress.since_best + 1 if last and not best else 0
    patience = run.recipe.eval.patience
    return replace(
        progress,
        micro_tokens=found.micro_tokens,
        best_loss=found.loss if best else progress.best_loss,
        best_step=progress.done if best else progress.best_step,
        since_best=since,
        stopped=patience > 0 and since >= patience and progress.done < run.total_steps,
    )


def _terms(
    run: Run, found: StepSums | HeldOut, norms: Sequence[float | None]
) -> dict[str, TermValue]:
    columns = (found.values_M.tolist(), found.counts_M.tolist(), found.unknown_M.tolist(), norms)
    return {
        term.name: TermValue(
            value=value,
            weight=term.settings.weight,
            count=int(count),
            unknown=unknown if term.spec.signal in OF_TOKENS else None,
            gradient_norm=norm,
        )
        for term, value, count, unknown, norm in zip(run.unwrapped.terms, *columns, strict=True)
    }


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _require_finite(run: Run, step: int, loss: float, norm: float, values_M: Tensor) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    planned = next(run.steps_from(step - 1))
    what = f"step {step}: loss {loss:g}, gradient norm {norm:g}"
    raise NonFiniteLossError(_where_not_finite(run, what, values_M, planned))


def _require_finite_held_out(run: Run, step: int, found: HeldOut) -> None:
    if not math.isfinite(found.loss):
        what = f"held out after step {step}: loss {found.loss:g}"
        stage = run.stage_of(step)
        planned = PlannedStep(stage=stage, rows=stage.held_out)
        raise NonFiniteLossError(_where_not_finite(run, what, found.values_M, planned))


def _where_not_finite(run: Run, what: str, values_M: Tensor, planned: PlannedStep) -> str:
    terms = ", ".join(
        f"{term.name} {value:g}"
        for term, value in zip(run.unwrapped.terms, values_M.tolist(), strict=True)
    )
    rows = planned.rows
    shown = ", ".join(example.sample_id for example in rows[:8]) + ", ..." * (len(rows) > 8)
    damaged = [
        line
        for number, task in enumerate(planned.stage.tasks)
        for line in damaged_states(
            task.tape,
            [(e.sample_id, e.trace_index) for e in rows if e.task == number],
            task.needs.states,
        )
    ]
    advice = "try a lower --lr, or leave the term out."
    if damaged:
        more = f" (and {len(damaged) - 1} more)" * (len(damaged) > 1)
        advice = f"but the tape is not: {damaged[0]}{more}. Record it again, or leave the term out."
    return f"{what} ({terms}), on rows {shown}. The last checkpoint is good; {advice}"
