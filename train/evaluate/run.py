"""One evaluation from its flags to its report: checks first, cheapest first, then responses."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from audio_models.load import load_audio_lm
from cache_schema import TapeRow, open_tape
from cache_schema.commands.console import say
from cache_schema.commands.progress import Counter
from cache_schema.errors import UsageError, nearest
from train.evaluate.benchmarks import BENCHMARKS
from train.evaluate.data import Asked, ask, is_tape, known_rows, prepare
from train.evaluate.directory import (
    EvaluationDir,
    identity_of,
    note,
    now,
    open_evaluation,
    read_about,
    versions,
    write_about,
)
from train.evaluate.generate import Generator
from train.evaluate.outcome import judge, table
from train.evaluate.prompting import failed
from train.evaluate.responses import ResponseLog, rewrite
from train.evaluate.same_items import check_same_items
from train.evaluate.scores import judge_all
from train.evaluate.settings import Settings
from train.evaluate.submission import write_submission
from train.evaluate.types import Benchmark, Item, Response

_SHOWN = 5


def evaluate(settings: Settings) -> str:
    """Evaluate a model, or continue; return the table of its scores.

    A finished evaluation says so and does nothing; with a baseline its report is written anew.

    Raises:
        TeachertapeError: a named error of the model, the data, a flag or the folder.
    """
    if not sys.stderr.isatty():
        disable_progress_bar()
    benchmark = find_benchmark(settings.benchmark)
    if settings.baseline is not None:
        _require_finished(settings.baseline, benchmark)
    place = EvaluationDir(root=settings.out)
    about = open_evaluation(place, identity_of(settings, benchmark))
    if about["finished"]:
        say(f"{settings.out} is finished; nothing to do")
        if settings.baseline is not None:
            report(settings)
        return table(place.scores)
    tape = prepare(settings.data, benchmark, settings.limit, place.rows, place.data)
    known = known_rows(settings.data, benchmark, place.rows)
    asked = ask(open_tape(tape), benchmark, settings.limit, known)
    found = {
        "data_digest": asked.digest(),
        "items": len(asked.items),
        "unreadable": len(asked.unreadable),
        "duplicates": asked.duplicates,
    }
    about = note(place, about, found)
    if asked.duplicates:
        say(f"{asked.duplicates} rows are left out: earlier ones are the same in all they ask")
    if settings.baseline is not None:
        _require_same_items(settings.baseline, benchmark, asked)
    spent_s = time.perf_counter()
    responses = respond(settings, asked, place)
    spent_s = time.perf_counter() - spent_s
    say_failures(responses)
    rewrite(place.responses, responses)
    judge(place, benchmark, asked.items, responses)
    if not is_tape(settings.data):
        write_submission(Path(settings.data), benchmark, responses, place.root)
    about = {**about, "versions": versions(), "last_generation_s": round(spent_s, 1)}
    write_about(place, about)
    report(settings)
    write_about(place, {**about, "finished": now()})
    return table(place.scores)


def find_benchmark(name: str) -> Benchmark:
    """Return a benchmark by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in BENCHMARKS:
        raise UsageError(
            f"--benchmark {name!r}: expected one of {', '.join(BENCHMARKS)}"
            f"{nearest(name, BENCHMARKS)}"
        )
    return BENCHMARKS[name]


def _require_finished(baseline: Path, benchmark: Benchmark) -> None:
    place = EvaluationDir(root=baseline)
    about = read_about(place) if place.about.is_file() else {}
    if not about.get("finished"):
        raise UsageError(
            f"--baseline {baseline}: no finished evaluation there; make or finish it first"
        )
    if about.get("benchmark") != benchmark.name:
        raise UsageError(
            f"--baseline {baseline} is of benchmark {about.get('benchmark')}, and this is "
            f"{benchmark.name}; compare evaluations of one benchmark"
        )


def _require_same_items(baseline: Path, benchmark: Benchmark, asked: Asked) -> None:
    """Compare the right answers before hours are spent on responses."""
    from train.evaluate.report.reading import read_evaluation  # plots only where they are drawn

    ours = judge_all(benchmark, asked.items, ())["strict"]
    theirs = read_evaluation(baseline).verdicts.get("strict", {}).values()
    check_same_items(ours, theirs, ("the data", f"--baseline {baseline}"))


def respond(settings: Settings, asked: Asked, place: EvaluationDir) -> list[Response]:
    """Return a response to every item, in the data's order; what is in the folder is not redone.

    A response that failed is tried again when an evaluation is continued.
    """
    with ResponseLog(place.responses) as log:
        done = {name for name, response in log.done.items() if response.finish != "error"}
        todo = [(item, row) for item, row in asked.answerable if item.sample_id not in done]
        if done:
            say(f"{len(done)} of {len(asked.items)} are answered already")
        if todo:
            with Counter("evaluate", len(todo)) as progress:
                for responses in answers(settings, todo):
                    log.add(responses)
                    progress.advance(len(responses))
        return [
            log.done[item.sample_id]
            if item.sample_id in log.done
            else failed(item.sample_id, asked.unreadable[item.sample_id])
            for item in asked.items
        ]


def answers(settings: Settings, todo: Sequence[tuple[Item, TapeRow]]) -> Iterator[list[Response]]:
    """Yield the responses to items as they are made, by a model here or an endpoint."""
    if settings.endpoint is not None:
        from train.evaluate.endpoint import Caller  # httpx only where it is used

        return Caller(settings.endpoint, settings.decoding, settings.instruction).answer(todo)
    lm = load_audio_lm(settings.model, settings.dtype, settings.device)
    say(f"{settings.model} ({lm.family.name}, {str(lm.model.dtype)[6:]}) on {lm.device}")
    generator = Generator(lm, settings.decoding, settings.instruction, settings.batch_tokens)
    return generator.answer(todo)


def report(settings: Settings) -> None:
    """Write the report, with the loss curves of the run the model comes from, if it is one's."""
    from train.evaluate.report import write_report  # plots only where they are drawn

    run = Path(settings.model).parent
    of_run = bool(settings.model) and (run / "metrics.jsonl").is_file()
    written = write_report(settings.out, settings.baseline, {run.name: run} if of_run else None)
    say(f"report: {written}")


def say_failures(responses: Sequence[Response]) -> None:
    """Name samples without a response: they are wrong in ``strict``."""
    lost = [response for response in responses if response.finish == "error"]
    if lost:
        more = f"\n  ... and {len(lost) - _SHOWN} more" * (len(lost) > _SHOWN)
        lines = [f"  {response.sample_id}: {response.error}" for response in lost[:_SHOWN]]
        say(f"{len(lost)} of {len(responses)} have no response:\n" + "\n".join(lines) + more)
