"""``report.md``: what was trained, from what, how far it came."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cache_schema import Tape
from cache_schema.codecs.files import write_atomic
from train.metrics import read_held_out, read_metrics
from train.parts import Progress, Run
from train.steps.planning import LeftOut, describe
from train.terms.resolve import Term

Line = dict[str, Any]
"""One line of ``metrics.jsonl``."""


_TERMS_HEAD = (
    "| term | weight | start | end | positions | gradient norm | layer pairs (student:teacher) |"
)


def write_report(run: Run, progress: Progress, left_out: LeftOut) -> None:
    """Write the report from the metrics and what the run was given."""
    directory, lm = run.directory, run.lm
    tapes = {task.tape.location: task.tape for stage in run.stages for task in stage.tasks}
    lines = read_metrics(directory.metrics)
    seconds = sum(line["step_s"] for line in lines)
    waited = sum(line["loader_wait_s"] for line in lines)
    tokens = sum(line["tokens"] for line in lines)
    speed = tokens / seconds
    early = f" of {run.total_steps}, stopped early" * progress.stopped
    text = [
        "# Training report",
        "",
        f"- student: `{lm.path}` ({lm.family.name}, {lm.num_layers} layers, width {lm.width})",
        *(line for tape in tapes.values() for line in _tape_lines(tape)),
        *(f"- {line}" for line in describe(run.stages, left_out)),
        f"- steps: {len(lines)}{early}; {tokens:,} tokens in {seconds:.1f} s, {speed:,.0f}/s",
        f"- micro-batches: at most {progress.micro_tokens} tokens with padding, at the end",
        f"- waiting for data: {waited / seconds:.1%} of the time",
        f"- result: `{directory.student}`, recipe: `{directory.recipe}`",
        f"- every step: `{directory.metrics}`",
        "",
        "## Terms",
        "",
        "Means over a tenth of the steps that have the term, at the start and at the end; values",
        "are unweighted. The gradient norm is the weighted term's, on one micro-batch, as it was",
        "last measured.",
        "",
        _TERMS_HEAD,
        "|---|---|---|---|---|---|---|",
        *(_term_row(term, lines) for term in run.unwrapped.terms),
        f"| loss | | {_mean(lines, _loss, True):.4f} | {_mean(lines, _loss, False):.4f} | | | |",
        "",
        *_unknown(run.unwrapped.terms, lines),
        *_held_out(run, progress),
    ]
    write_atomic(directory.report, "\n".join(text).encode())


def _tape_lines(tape: Tape) -> list[str]:
    return [
        f"- tape: `{tape.location}`, fingerprint `{tape.fingerprint}`",
        *(f"- {name} teacher: `{about.get('model')}`" for name, about in tape.sources.items()),
    ]


def _held_out(run: Run, progress: Progress) -> list[str]:
    """Return the section on held-out rows, a row an evaluation; empty without any."""
    lines = read_held_out(run.directory.metrics)
    if not lines:
        return []
    names = [term.name for term in run.unwrapped.terms]
    saved = progress.best_step if run.recipe.eval.save == "best" else progress.done
    return [
        "## Held-out rows",
        "",
        f"Lowest loss after step {progress.best_step}; the saved student is that of step {saved}.",
        "",
        f"| step | loss | {' | '.join(names)} |",
        "|---" * (len(names) + 2) + "|",
        *(
            f"| {line['step']} | {line['loss']:.4f} | "
            + " | ".join(_shown(line["terms"][name]) for name in names)
            + " |"
            for line in lines
        ),
        "",
    ]


def _shown(term: Mapping[str, float]) -> str:
    return f"{term['value']:.4f}" if term["count"] else ""


def _unknown(terms: Sequence[Term], lines: Sequence[Line]) -> list[str]:
    """Return a line for each term of whose teacher's mass some is on tokens the student lacks."""
    said = []
    for term in terms:
        each = [line["terms"][term.name] for line in lines]
        count = sum(one["count"] for one in each)
        mass = sum(one.get("unknown", 0.0) * one["count"] for one in each)
        where = "left out" if term.spec.signal == "sampled" else "in the tail"
        if mass > 0:
            said.append(
                f"- {term.name}: {mass / count:.2%} of what its teacher said, over {count:,} "
                f"positions, is of tokens the student lacks: {where}"
            )
    return [*said, *[""] * bool(said)]


def _term_row(term: Term, lines: Sequence[Line]) -> str:
    def value(line: Line) -> float:
        return float(line["terms"][term.name]["value"])

    pairs = " ".join(f"{student}:{teacher}" for student, teacher in term.pairs)
    # steps of other tasks and stages have no position of it, so no value
    own = [line for line in lines if line["terms"][term.name]["count"]]
    start, end = (f"{_mean(own, value, first):.4f}" if own else "" for first in (True, False))
    count = sum(line["terms"][term.name]["count"] for line in own)
    norms = [line["terms"][term.name].get("gradient_norm") for line in own]
    measured = [f"{norm:.3g}" for norm in norms if norm is not None]
    return (
        f"| {term.name} | {term.settings.weight:g} | {start} | {end} | {count:,} | "
        f"{measured[-1] if measured else ''} | {pairs} |"
    )


def _loss(line: Line) -> float:
    return float(line["loss"])


def _mean(lines: Sequence[Line], value: Callable[[Line], float], from_start: bool) -> float:
    share = max(1, len(lines) // 10)
    chosen = lines[:share] if from_start else lines[-share:]
    return sum(value(line) for line in chosen) / len(chosen)
