"""The command ``train``: flags into a recipe, errors into a few lines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cache_schema.commands.console import REPORTED, report_error
from train.evaluate.command import EXAMPLE as EVALUATE_EXAMPLE
from train.evaluate.command import evaluate
from train.evaluate.compare_command import EXAMPLE as COMPARE_EXAMPLE
from train.evaluate.compare_command import compare
from train.recipe import load_train_recipe, shipped_recipes

app = typer.Typer(
    help="Stage two: train a student from a tape, without its teachers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SHIPPED = shipped_recipes()
"""Recipes that can be named."""

EXAMPLE = """Example:

    train student --cache ./cache --student Qwen/Qwen2.5-Omni-7B --out ./run
"""


@app.callback()
def main() -> None:
    """Stage two: train a student from a tape, without its teachers."""


@app.command(epilog=EXAMPLE)
def student(
    cache: Annotated[
        list[str],
        typer.Option(
            "--cache",
            help="The tape: a directory or an fsspec URL; task=LOCATION for a task of the recipe.",
        ),
    ],
    model: Annotated[str, typer.Option("--student", help="The student: a directory or a hub id.")],
    out: Annotated[Path, typer.Option("--out", help="The run to write or continue.")],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help=f"A TOML file, or {', '.join(SHIPPED)}; default: joint."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="One value of the recipe, as section.key=value."),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", help="Stop after this many steps.")
    ] = None,
    batch_tokens: Annotated[
        str | None,
        typer.Option(
            "--batch-tokens",
            metavar="N|auto",
            help="Tokens a step, over all processes; auto: the recipe's, in passes that fit.",
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Order of rows, new weights.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue only; fail if there is no run in --out.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Train a student from a tape; the same command continues a run that was stopped."""
    auto = batch_tokens == "auto"
    flags = {
        "loop.max_steps": max_steps,
        "loop.batch_tokens": None if auto else _number(batch_tokens),
        "loop.micro_tokens": 0 if auto else None,
        "optim.lr": lr,
        "loop.seed": seed,
    }
    given = [f"{key}={value!r}" for key, value in flags.items() if value is not None]
    try:
        resolved = load_train_recipe(recipe, [*(assignments or []), *given])
        from train.run import Flags, train_student  # torch is loaded once the flags are right

        train_student(Flags(caches=tuple(cache), student=model, out=out, resume=resume), resolved)
    except REPORTED as error:
        raise typer.Exit(report_error(error, debug)) from error


app.command("evaluate", epilog=EVALUATE_EXAMPLE)(evaluate)
app.command("compare", epilog=COMPARE_EXAMPLE)(compare)


def _number(text: str | None) -> int | None:
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    raise typer.BadParameter(
        f"expected a number or auto, got {text!r}", param_hint="--batch-tokens"
    )
