"""The command ``attach``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cache_schema.commands.recipes import load_recipe, toml_value
from pipeline.pages import page_of
from pipeline.tapes.cli import AsJson, Debug, LocalTape, print_values, samples

if TYPE_CHECKING:
    from pipeline.share.attach import Attached
    from pipeline.share.owned import Owned

_SHOWN = 5


def attach_command(
    cache: LocalTape,
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            help="The owner's recordings: a folder of files, or a data set as extract-teachers "
            "takes it.",
        ),
    ],
    split: Annotated[str | None, typer.Option("--split", help="Split to read.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="How the data set is read: dataset.columns.audio=NAME, ..."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by reports_errors
) -> None:
    """Attach recordings to a tape that was made, or shared, without them.

    They are found by the sha256 of their samples, whatever their names, folders and lossless forms;
    another recording, or one coded anew with loss, is not taken. They are kept beside the tape's
    shards in CACHE/attached, which push, pull, slice and merge leave out.

    Exit status: 0 every sample has its recording, 1 some have none; the same command continues.

    Example: pipeline attach ./cache --dataset /data/recordings
    """
    from pipeline.recipe import ExtractRecipe
    from pipeline.share.attach import attach
    from pipeline.share.owned import open_owned

    fields = {"dataset.path": dataset, "dataset.split": split or "", "tape.out": str(Path(cache))}
    told = [f"{name}={toml_value(value, name)}" for name, value in fields.items()]

    def open_one(made: Mapping[str, Any]) -> Owned:
        return open_owned(load_recipe(ExtractRecipe, None, [*told, *(set_ or [])]).dataset, made)

    done = attach(cache, open_one, samples)
    print_values(_values(cache, dataset, done), _page, as_json)
    raise typer.Exit(1 if done.missing else 0)


def _values(cache: str, dataset: str, done: Attached) -> dict[str, Any]:
    return {
        "tape": cache,
        "dataset": dataset,
        "samples": done.samples,
        "attached_before": done.earlier,
        "attached_now": done.now,
        "looked_at": done.looked_at,
        "left_aside": done.aside,
        "missing": done.missing,
        **{
            kind: {"count": done.counts[kind], "shown": done.shown.get(kind, [])}
            for kind in ("other", "unreadable")
        },
    }


def _page(values: dict[str, Any]) -> str:
    if not values["samples"]:
        return f"{values['tape']}: holds every recording itself; nothing to attach"
    here = values["attached_before"] + values["attached_now"]
    looked = f"{values['looked_at']} of {values['dataset']} looked at"
    if values["left_aside"]:
        looked += f", {values['left_aside']} other files left aside"
    count = f"{here} of {values['samples']} recordings are attached"
    lines = [f"{values['tape']}: {count} ({values['attached_now']} now; {looked})"]
    if missing := values["missing"]:
        lines.append(f"{len(missing)} samples have none: {_some(missing, len(missing))}")
    told = {"other": "are no recordings that it refers to", "unreadable": "cannot be read"}
    for kind, what in told.items():
        if count := values[kind]["count"]:
            lines.append(f"{count} {what}: {_some(values[kind]['shown'], count)}")
    return page_of(lines)


def _some(names: list[str], count: int) -> str:
    more = f", and {count - _SHOWN} more" if count > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
