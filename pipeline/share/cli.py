"""Commands that share tapes: push, pull, slice, attach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cache_schema.commands.console import say
from cache_schema.parts.part import Selection, parse_layers
from pipeline.share.attach_cli import attach_command
from pipeline.share.push import JOBS
from pipeline.tapes.cli import Debug, megabytes
from pipeline.units import size_text

if TYPE_CHECKING:
    from pipeline.share.filters import Filter

Signals = Annotated[
    str | None,
    typer.Option("--signals", help="Only these: source/signal, or a source; separated by commas."),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers", help="Only these layers of states: 0,4,8, or textual=0,4,8; repeatable."
    ),
]
NoAudio = Annotated[bool, typer.Option("--no-audio", help="Leave the recordings out.")]
Samples = Annotated[
    Path | None,
    typer.Option("--samples", help="Only these: a file of ids, one a line; or a .json list."),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Only the first so many samples.")
]
Fields = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        help="Only samples with this in their metadata: KEY=VALUE, A.B=VALUE, answer=VALUE; "
        "repeatable, all must fit.",
    ),
]
Jobs = Annotated[int, typer.Option("--jobs", min=1, help="Files that travel at one time.")]
Check = Annotated[
    bool,
    typer.Option("--check", help="Compare the content of files that are there, not their size."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would travel, and end.")]


def push_command(
    cache: Annotated[str, typer.Argument(help="The tape: a directory.")],
    url: Annotated[str, typer.Argument(help="Where to: s3://, gs://, ssh://, hf://datasets/...")],
    jobs: Jobs = JOBS,
    check: Check = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Begin though another push says it is at work.")
    ] = False,
    dry_run: DryRun = False,
    debug: Debug = False,  # noqa: ARG001 - read by reports_errors
) -> None:
    """Send a tape to a URL: what is missing there, each file compared on arrival.

    Lines of the manifest come last, so that what is there is a tape of whole shards at any moment.
    A push that was stopped is continued by the same command. Of a tape that was pulled, what was
    added to it travels, also where the tape there has grown or only a part of it is here.

    Example: pipeline push ./cache s3://bucket/cache
    """
    from pipeline.share.open_store import open_store
    from pipeline.share.push import push
    from pipeline.share.push_plan import plan_push

    plan = plan_push(cache, open_store(url), check=check)
    _tell("push", plan.files, plan.bytes, plan.kept)
    for damaged in plan.damaged if dry_run else ():
        typer.echo(f"differs there: {damaged}")
    if not dry_run:
        push(plan, megabytes, jobs=jobs, take_over=take_over)
        typer.echo(f"{cache} is at {url}")


def pull_command(
    url: Annotated[str, typer.Argument(help="The tape: an fsspec URL, or a directory.")],
    cache: Annotated[Path, typer.Argument(help="A new folder, or an earlier pull of this tape.")],
    signals: Signals = None,
    layers: Layers = None,
    no_audio: NoAudio = False,
    samples: Samples = None,
    limit: Limit = None,
    fields: Fields = None,
    jobs: Jobs = JOBS,
    check: Check = False,
    dry_run: DryRun = False,
    debug: Debug = False,  # noqa: ARG001 - read by reports_errors
) -> None:
    """Bring a tape here, whole or in part: what is missing, each file compared on arrival.

    A part is a tape. More signals can be pulled into the same folder later; what is here stays, and
    so do sources that were added here. Of some samples only, shards are cut and written anew, as by
    slice. A pull that was stopped is continued by the same command.

    Example: pipeline pull s3://bucket/cache ./cache --signals textual/trace,textual/topk
    """
    from pipeline.share.filters import parse_filter
    from pipeline.share.pull import pull
    from pipeline.share.pull_plan import plan_pull

    wanted = parse_filter(samples, fields or (), limit)
    if not wanted.takes_all:
        _slice(url, cache, selection(signals, layers, no_audio), wanted, dry_run)
        return
    plan = plan_pull(url, cache, selection(signals, layers, no_audio), check=check)
    _tell("pull", plan.files, plan.bytes, plan.kept)
    for damaged in plan.damaged if dry_run else ():
        typer.echo(f"differs here: {damaged}")
    if not dry_run:
        pull(plan, cache, megabytes, jobs)
        typer.echo(f"{url} is at {cache}")


def slice_command(
    cache: Annotated[str, typer.Argument(help="The tape: a directory or an fsspec URL.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder for the slice.")],
    signals: Signals = None,
    layers: Layers = None,
    no_audio: NoAudio = False,
    samples: Samples = None,
    limit: Limit = None,
    fields: Fields = None,
    dry_run: DryRun = False,
    debug: Debug = False,  # noqa: ARG001 - read by reports_errors
) -> None:
    """Make a tape of some samples, or some signals, of a tape.

    Shards that stay whole are linked where the disk allows it; of others the rows that stay are
    written anew, values and stored states as they are. One that was stopped is continued by the
    same command; pipeline merge unites slices.

    Example: pipeline slice ./cache --out ./ann --filter speaker=ann --signals textual
    """
    from pipeline.share.filters import parse_filter

    wanted = parse_filter(samples, fields or (), limit)
    _slice(cache, out, selection(signals, layers, no_audio), wanted, dry_run)


def _slice(location: str, out: Path, chosen: Selection, wanted: Filter, dry_run: bool) -> None:
    from pipeline.share.slices import plan_slice, write_slice

    plan = plan_slice(location, chosen, wanted)
    count = len(plan.tape) if plan.ids is None else len(plan.ids)
    shards = sum(map(len, plan.shards.values()))
    say(f"slice: {count} of {len(plan.tape)} samples, in {shards} shards")
    if not dry_run:
        write_slice(plan, out, megabytes)
        typer.echo(f"{count} samples of {location} are at {out}")


def selection(signals: str | None, layers: list[str] | None, no_audio: bool) -> Selection:
    """Return what flags ask for."""
    names = None if signals is None else tuple(name.strip() for name in signals.split(","))
    return Selection(signals=names, layers=parse_layers(layers or []), audio=not no_audio)


def _tell(verb: str, files: int, num_bytes: int, kept: int) -> None:
    say(f"{verb}: {files} files travel, {size_text(num_bytes)}; {size_text(kept)} are there")


SHARE_COMMANDS: dict[str, Callable[..., None]] = {
    "push": push_command,
    "pull": pull_command,
    "slice": slice_command,
    "attach": attach_command,
}
