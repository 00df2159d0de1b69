"""Commands about tapes that are there: inspect, verify, merge, diff."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cache_schema import open_tape
from cache_schema.commands.progress import Counter
from cache_schema.errors import UsageError
from pipeline.replay.options import (
    ReplayAcoustic,
    ReplayCount,
    ReplayRecipe,
    ReplaySeed,
    ReplaySet,
    ReplaySources,
    ReplayText,
)
from pipeline.signing.options import Key, NewKey

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
TapePath = Annotated[str, typer.Argument(help="The tape: a directory or an fsspec URL.")]
LocalTape = Annotated[str, typer.Argument(help="The tape: a directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable.")]

_MB = 1_000_000


def inspect_command(
    cache: TapePath,
    sample_id: Annotated[str | None, typer.Argument(help="One sample, whole.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by reports_errors
) -> None:
    """Show what a tape holds, or one sample of it.

    Example: pipeline inspect ./cache a-17
    """
    from pipeline.tapes.inspect import tape_page, tape_values
    from pipeline.tapes.inspect_sample import sample_page, sample_values

    tape = open_tape(cache)
    if sample_id is None:
        values = tape_values(tape)
        print_values(values, tape_page, as_json)
    else:
        print_values(sample_values(tape[sample_id]), sample_page, as_json)


def verify_command(
    cache: LocalTape,
    deep: Annotated[
        bool, typer.Option("--deep", help="Decode every row, recording and state as well.")
    ] = False,
    signed: Annotated[
        bool, typer.Option("--signed", help="It must be as it was sealed, by the seal's own key.")
    ] = False,
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", help="--signed, and by the owner of this key (PEM, OpenSSH)."),
    ] = None,
    grown: Annotated[
        bool, typer.Option("--grown", help="Accept what was added since it was sealed.")
    ] = False,
    replay: ReplayCount = None,
    source: ReplaySources = None,
    text_teacher: ReplayText = None,
    acoustic_teacher: ReplayAcoustic = None,
    recipe: ReplayRecipe = None,
    set_: ReplaySet = None,
    seed: ReplaySeed = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by reports_errors
) -> None:
    """Check every file, seal and checksum of a tape, and that they fit together.

    --replay N also runs N random samples through their teachers again and compares what comes out
    with what is recorded, up to the rounding of the teacher's dtype; the teachers are loaded, so it
    takes what recording N samples takes. Another teacher than the tape's is refused by name.

    Exit status: 0 the tape is sound, 1 problems were found; all are told at once.

    Example: pipeline verify ./cache --deep

    Example: pipeline verify ./cache --replay 8 --text-teacher ./qwen3-8b --source textual
    """
    from cache_schema.validate.tape import validate
    from pipeline.tapes.pages import verify_page, verify_values

    if replay is None and any(
        (source, text_teacher, acoustic_teacher, recipe, set_, seed is not None)
    ):
        raise UsageError(
            "--source, --text-teacher, --acoustic-teacher, --recipe, --set and --seed go with "
            "--replay N"
        )
    if grown and not (signed or public_key):
        raise UsageError("--grown goes with --signed or --public-key")
    asked = ""
    if public_key is not None:
        from pipeline.signing.keys import public_key as read_key

        asked = read_key(public_key)
    findings = validate(cache, megabytes, deep=deep)
    checked = []
    if signed or asked:
        from pipeline.signing.check import check_signed, values_of

        checked = values_of(check_signed(cache, findings, megabytes, asked, grown=grown))
    values = {**verify_values(cache, findings, deep), "signed": checked}
    if replay is not None:
        from pipeline.replay.cli import replayed

        flags = (text_teacher, acoustic_teacher or [], recipe, set_ or [], source or [])
        values = replayed(values, replay, seed, *flags)
    print_values(values, verify_page, as_json)
    raise typer.Exit(0 if values["sound"] else 1)


def seal_command(
    cache: Annotated[str | None, typer.Argument(help="The tape: a directory.")] = None,
    key: Key = None,
    generate_key: NewKey = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by reports_errors
) -> None:
    """List the sha256 of every committed file in the tape, and sign the list with a key.

    Whoever has the public key finds out with verify --public-key whether the tape is still what was
    sealed. A tape may go on afterwards; what is added is told apart.

    Example: pipeline seal ./cache --key key.pem
    """
    from pipeline.signing.cli import seal_page, seal_values

    print_values(seal_values(cache, key, generate_key, megabytes), seal_page, as_json)


def merge_command(
    caches: Annotated[list[str], typer.Argument(help="The tapes to unite, two or more.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder for the united tape.")],
    licence: Annotated[
        str | None,
        typer.Option("--licence", help="Of the result; needed where the tapes' differ."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by reports_errors
) -> None:
    """Unite tapes: other signals of the same samples, other samples of the same makers.

    Shards are taken whole, by hard link where the disk allows it. What several tapes recorded
    counts once, the first tape's. Conflicts are named before anything is written; a merge that was
    stopped is continued by the same command.

    Example: pipeline merge ./cache-0 ./cache-1 --out ./cache
    """
    from cache_schema.merge.tapes import merge
    from pipeline.tapes.pages import merge_page, merge_values

    print_values(merge_values(out, merge(caches, out, megabytes, licence)), merge_page, as_json)


def diff_command(
    a: TapePath,
    b: TapePath,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by reports_errors
) -> None:
    """Say what differs between two tapes, by value: makers, samples, signals, failures.

    Exit status: 0 they hold the same, 1 they differ. Notes (versions, dates) do not count.

    Example: pipeline diff ./cache ./cache-again
    """
    from cache_schema.compare.tapes import compare
    from pipeline.tapes.pages import diff_page

    difference = compare(open_tape(a), open_tape(b), samples)
    values = {"a": a, "b": b, "equal": difference.equal, **asdict(difference)}
    print_values(values, diff_page, as_json)
    raise typer.Exit(0 if difference.equal else 1)


def print_values(
    values: dict[str, Any], page: Callable[[dict[str, Any]], str], as_json: bool
) -> None:
    """Print values as JSON, or as a page for people."""
    if not as_json:
        typer.echo(page(values))
        return
    typer.echo(json.dumps(_strict(values), indent=2, ensure_ascii=False, allow_nan=False))


def _strict(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN as null, an infinity as text."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return value


@contextmanager
def megabytes(title: str, num_bytes: int) -> Iterator[Callable[[int], None]]:
    """Draw progress in megabytes."""
    done = told = 0
    with Counter(title, -(-num_bytes // _MB), "MB") as counter:

        def count(more: int) -> None:
            nonlocal done, told
            done += more
            now = -(-done // _MB)
            counter.advance(now - told)
            told = now

        yield count


@contextmanager
def samples(title: str, num_samples: int) -> Iterator[Callable[[int], None]]:
    """Draw progress in samples."""
    with Counter(title, num_samples) as counter:
        yield counter.advance


TAPE_COMMANDS: dict[str, Callable[..., None]] = {
    "inspect": inspect_command,
    "verify": verify_command,
    "seal": seal_command,
    "merge": merge_command,
    "diff": diff_command,
}
