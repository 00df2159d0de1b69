"""The command ``pipeline``: flags into a recipe, errors into a few lines."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cache_schema.commands.console import REPORTED, report_error
from cache_schema.commands.recipes import load_recipe, toml_value
from pipeline.recipe import ExtractRecipe
from pipeline.share.cli import SHARE_COMMANDS
from pipeline.tapes.cli import TAPE_COMMANDS, Debug

app = typer.Typer(
    help="Stage one: record what teachers say about a dataset, once, on a tape.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

EXAMPLE = """Example:

    pipeline extract-teachers --dataset clips.jsonl --text-teacher Qwen/Qwen3-8B --acoustic-teacher Qwen/Qwen2.5-Omni-7B --out ./cache
"""  # noqa: E501 - a line to paste

FLAG_FIELDS = {
    "dataset": "dataset.path",
    "split": "dataset.split",
    "limit": "dataset.limit",
    "audio": "dataset.audio",
    "text_teacher": "textual.teacher",
    "engine": "textual.engine",
    "text_layers": "textual.layers",
    "traces": "textual.traces",
    "max_new_tokens": "textual.max_new_tokens",
    "temperature": "textual.temperature",
    "acoustic_teacher": "acoustic.teacher",
    "acoustic_layers": "acoustic.layers",
    "out": "tape.out",
    "profile": "tape.profile",
    "seed": "seed",
    "worker": "worker",
    "cluster": "cluster.kind",
}
"""Flag -> the recipe field it sets."""


@app.callback()
def main() -> None:
    """Stage one: record what teachers say about a dataset, once, on a tape."""


def reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Print a named error in a few lines instead of a traceback, unless ``--debug``."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except REPORTED as error:
            raise typer.Exit(report_error(error, bool(kwargs.get("debug")))) from error

    return wrapped


def _option(name: str, help_text: str) -> Any:
    return typer.Option(name, help=help_text, show_default=False)


def _extract(recipe: ExtractRecipe, only: str | None, debug: bool) -> None:
    from pipeline.extract import run_all, run_step

    if recipe.cluster.kind == "ray":
        from pipeline.cluster.on_ray import run_on_ray

        run_on_ray(recipe, only, debug)
    elif only is None:
        run_all(recipe, debug)
    else:
        run_step(only, recipe)


def _extraction(
    step: str | None, act: Callable[[ExtractRecipe, str | None, bool], None] = _extract
) -> Callable[..., None]:
    """Return the command that runs one step, or all of them; or does something else with them."""

    @reports_errors
    def command(
        dataset: Annotated[
            str | None,
            _option(
                "--dataset",
                "Hub id, directory, or .jsonl/.json/.csv/.parquet of rows with audio and question; "
                "id, choices, answer, transcript and more are used if there. Not needed to add "
                "teachers to a tape.",
            ),
        ] = None,
        text_teacher: Annotated[
            str | None, _option("--text-teacher", "Textual teacher: directory or hub id.")
        ] = None,
        acoustic_teacher: Annotated[
            str | None,
            _option(
                "--acoustic-teacher",
                "Acoustic teacher: directory or hub id of an audio language model, an encoder or a "
                "classifier, or torchaudio:PIPELINE.",
            ),
        ] = None,
        out: Annotated[str | None, _option("--out", "The tape to write or continue.")] = None,
        split: Annotated[str | None, _option("--split", "Split to read.")] = None,
        limit: Annotated[int | None, _option("--limit", "Only the first rows.")] = None,
        only: Annotated[
            str | None, _option("--only", "One step: ingest, textualize, textual or acoustic.")
        ] = step,
        text_layers: Annotated[
            str | None,
            _option(
                "--text-layers",
                "top | all | none | every:N | proportional:N | 0,4,8; 0 is the embeddings, N after "
                "block N (default proportional:4)",
            ),
        ] = None,
        acoustic_layers: Annotated[
            str | None, _option("--acoustic-layers", "The same, for the acoustic teacher.")
        ] = None,
        top_k: Annotated[
            int | None,
            _option("--top-k", "Logits kept a token, both teachers; 0: none (default 64)"),
        ] = None,
        traces: Annotated[int | None, _option("--traces", "Traces a sample (default 1)")] = None,
        max_new_tokens: Annotated[
            int | None, _option("--max-new-tokens", "Longest trace (default 512)")
        ] = None,
        temperature: Annotated[
            float | None, _option("--temperature", "0 is greedy (default 0)")
        ] = None,
        seed: Annotated[int | None, _option("--seed", "Seed of everything (default 0)")] = None,
        engine: Annotated[
            str | None,
            _option(
                "--engine",
                "vllm | transformers | encoder: a BERT, states of the description only "
                "(default vllm)",
            ),
        ] = None,
        audio: Annotated[
            str | None,
            _option("--audio", "store the recordings, or a reference (hash) (default store)"),
        ] = None,
        profile: Annotated[
            str | None,
            _option(
                "--profile",
                "hot: read at memory speed | archive: lossless, smaller | lossy2x: 8-bit states, "
                "compact top-k, the error measured (default hot)",
            ),
        ] = None,
        worker: Annotated[
            str | None,
            _option(
                "--worker",
                "I/N: this is worker I of N (default 0/1) | auto: any number of workers share out "
                "what is left, and may come and go",
            ),
        ] = None,
        cluster: Annotated[
            str | None,
            _option("--cluster", "ray: one worker a GPU of a Ray cluster, or of this machine"),
        ] = None,
        recipe: Annotated[Path | None, _option("--recipe", "TOML file with any field.")] = None,
        set_: Annotated[
            list[str] | None,
            _option(
                "--set",
                "One recipe field: section.key=value; repeatable. A wrong key lists its section's.",
            ),
        ] = None,
        debug: Debug = False,
    ) -> None:
        flags = {name: value for name, value in locals().items() if name in FLAG_FIELDS}
        if top_k is not None:
            flags["top_k"] = top_k
        resolved = load_recipe(ExtractRecipe, recipe, [*_overrides(flags), *(set_ or [])])
        act(resolved, only, debug)

    return command


def _overrides(flags: dict[str, Any]) -> list[str]:
    top_k = flags.pop("top_k", None)
    fields = {FLAG_FIELDS[name]: value for name, value in flags.items() if value is not None}
    if top_k is not None:
        fields |= {"textual.top_k": top_k, "acoustic.top_k": top_k}
    return [f"{name}={toml_value(value, name)}" for name, value in fields.items()]


app.command(
    "extract-teachers",
    help="Ingest a dataset and record its teachers' signals.\n\n" + EXAMPLE,
)(_extraction(None))
app.command(
    "ingest",
    help="Only the first step: rows and audio become samples.\n\n"
    "Example: pipeline ingest --dataset clips.jsonl --out ./cache",
)(_extraction("ingest"))
app.command(
    "textualize",
    help="Only the second step: samples get the descriptions a textual teacher reads, from columns "
    "and from what models hear.\n\n"
    "Example, after 'pipeline ingest --dataset recordings.jsonl --out ./cache': "
    "pipeline textualize --out ./cache "
    "--set textualize.listen.transcript.model=openai/whisper-small "
    "--set textualize.listen.emotion.model=superb/wav2vec2-base-superb-er "
    "--set textualize.template='{speaker} says, {emotion}: {transcript}'",
)(_extraction("textualize"))


def _estimation() -> Callable[..., None]:
    """Return the command ``estimate``: the flags of ``extract-teachers`` and two more."""

    def command(
        measure: Annotated[
            int, typer.Option("--measure", min=1, help="Rows to measure, spread over the dataset.")
        ] = 16,
        workers: Annotated[
            int | None,
            typer.Option(
                "--workers", min=1, help="Project on so many workers (default: on 8 and on 64)."
            ),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
        **flags: Any,
    ) -> None:
        def act(recipe: ExtractRecipe, only: str | None, debug: bool) -> None:
            from pipeline.costs.page import page
            from pipeline.estimate import estimate

            values = estimate(recipe, only, measure, debug, workers)
            typer.echo(json.dumps(values, indent=2) if as_json else page(values))

        _extraction(None, act)(**flags)

    own = list(inspect.signature(command, eval_str=True).parameters.values())[:-1]
    shared = inspect.signature(_extraction(None), eval_str=True).parameters.values()
    command.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
    return command


app.command(
    "estimate",
    help="Say what extract-teachers would cost: bytes, hours and memory, from a few rows measured "
    "by the real steps in a temporary folder (TMPDIR). Nothing is kept.\n\n"
    "Example: pipeline estimate --dataset clips.jsonl --text-teacher Qwen/Qwen3-8B "
    "--acoustic-teacher Qwen/Qwen2.5-Omni-7B --out ./cache --measure 32",
)(_estimation())


for name, tape_command in {**TAPE_COMMANDS, **SHARE_COMMANDS}.items():
    app.command(name)(reports_errors(tape_command))


@app.command("doctor")
@reports_errors
def doctor_command(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what is known to break.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    debug: Debug = False,  # noqa: ARG001 - read by reports_errors
) -> None:
    """Probe every part of the installation and name the command that mends what is broken.

    Example: pipeline doctor --repair
    """
    from pipeline import doctor

    arguments = [*(["--repair"] if repair else []), *(["--json"] if as_json else [])]
    raise typer.Exit(doctor.main(arguments))
