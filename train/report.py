"""``report.md``: what was trained, from what, how far it came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from audio_models.load import AudioLM
from cache_schema import Tape
from cache_schema.codecs.files import write_atomic
from train.metrics import read_metrics
from train.rundir import RunDir
from train.terms import Term

Line = dict[str, Any]
"""One line of ``metrics.jsonl``."""


def write_report(
    run: RunDir,
    tape: Tape,
    lm: AudioLM,
    terms: Sequence[Term],
    num_examples: int,
    left_out: Counter[str],
) -> None:
    """Write the report from the metrics and what the run was given."""
    lines = read_metrics(run.metrics)
    seconds = sum(line["step_s"] for line in lines)
    waited = sum(line["loader_wait_s"] for line in lines)
    tokens = sum(line["tokens"] for line in lines)
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items())) or "none"
    text = [
        "# Training report",
        "",
        f"- student: `{lm.path}` ({lm.family.name}, {lm.num_layers} layers, width {lm.width})",
        f"- tape: `{tape.location}`, fingerprint `{tape.fingerprint}`",
        *(f"- {name} teacher: `{about.get('model')}`" for name, about in tape.sources.items()),
        f"- rows: {num_examples} used; left out: {dropped}",
        f"- steps: {len(lines)}; {tokens:,} tokens in {seconds:.1f} s, {tokens / seconds:,.0f}/s",
        f"- waiting for data: {waited / seconds:.1%} of the time",
        f"- result: `{run.student}`, recipe: `{run.recipe}`, every step: `{run.metrics}`",
        "",
        "## Terms",
        "",
        "Means over a tenth of the steps, at the start and at the end; values are unweighted.",
        "",
        "| term | weight | start | end | layer pairs (student:teacher) |",
        "|---|---|---|---|---|",
        *(_term_row(term, lines) for term in terms),
        f"| loss | | {_mean(lines, _loss, True):.4f} | {_mean(lines, _loss, False):.4f} | |",
        "",
    ]
    write_atomic(run.report, "\n".join(text).encode())


def _term_row(term: Term, lines: Sequence[Line]) -> str:
    def value(line: Line) -> float:
        return float(line["terms"][term.name]["value"])

    pairs = " ".join(f"{student}:{teacher}" for student, teacher in term.pairs)
    start, end = _mean(lines, value, True), _mean(lines, value, False)
    return f"| {term.name} | {term.settings.weight:g} | {start:.4f} | {end:.4f} | {pairs} |"


def _loss(line: Line) -> float:
    return float(line["loss"])


def _mean(lines: Sequence[Line], value: Callable[[Line], float], from_start: bool) -> float:
    share = max(1, len(lines) // 10)
    chosen = lines[:share] if from_start else lines[-share:]
    return sum(value(line) for line in chosen) / len(chosen)
