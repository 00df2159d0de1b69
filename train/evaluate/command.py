"""The command ``train evaluate``: flags into settings, errors into a few lines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cache_schema.commands.console import REPORTED, report_error

EXAMPLE = """Example:

    train evaluate --model ./run/student --data mmau-test-mini.json --benchmark mmau --out ./mmau
"""


def evaluate(
    data: Annotated[
        str,
        typer.Option(
            "--data", help="A tape, a dataset as for pipeline ingest, or a benchmark's files."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The evaluation to write or continue.")],
    model: Annotated[
        str, typer.Option("--model", help="The model: a directory or a hub id.", show_default=False)
    ] = "",
    benchmark: Annotated[
        str,
        typer.Option(
            "--benchmark",
            help="own | mmau | mmar | mmsu | mmau_pro | big_bench_audio | air_bench | ser | meld | "
            "iemocap | asr",
        ),
    ] = "own",
    limit: Annotated[int, typer.Option("--limit", help="Only the first rows; 0: all.")] = 0,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="A finished evaluation to compare with.")
    ] = None,
    instruction: Annotated[
        str, typer.Option("--instruction", help="A line below every question.", show_default=False)
    ] = "",
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", help="Longest response.")
    ] = 1024,
    temperature: Annotated[float, typer.Option("--temperature", help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Where it is not greedy.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Where it is not greedy.")] = 0,
    batch_tokens: Annotated[
        int,
        typer.Option(
            "--batch-tokens",
            help="Tokens of a batch, responses included; no score depends on it.",
        ),
    ] = 16_384,
    dtype: Annotated[
        str, typer.Option("--dtype", help="auto (as saved) | float32 | bfloat16 | float16")
    ] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto | cuda | cuda:1 | cpu")] = "auto",
    endpoint: Annotated[
        str,
        typer.Option(
            "--endpoint",
            help="An OpenAI-compatible server that answers instead, http://HOST:PORT/v1; its key "
            "in ENDPOINT_API_KEY.",
            show_default=False,
        ),
    ] = "",
    endpoint_model: Annotated[
        str, typer.Option("--endpoint-model", help="The model's name there.", show_default=False)
    ] = "",
    concurrency: Annotated[
        int, typer.Option("--concurrency", help="Requests to the server at a time.")
    ] = 8,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Ask a model a benchmark's questions, judge its answers, write scores and a report.

    The same command continues an evaluation that was stopped.
    """
    try:
        # torch is loaded once typer is done with the flags
        from audio_models.generate import Decoding
        from train.evaluate.run import evaluate as run
        from train.evaluate.settings import Settings, endpoint_of

        settings = Settings(
            model=model,
            data=data,
            out=out,
            benchmark=benchmark,
            limit=limit,
            decoding=Decoding(
                max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
            ),
            instruction=instruction,
            batch_tokens=batch_tokens,
            dtype=dtype,
            device=device,
            endpoint=endpoint_of(endpoint, endpoint_model, concurrency),
            baseline=baseline,
        )
        typer.echo(run(settings))
    except REPORTED as error:
        raise typer.Exit(report_error(error, debug)) from error
