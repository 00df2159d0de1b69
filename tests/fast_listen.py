"""The textualize step with a tiny Whisper, in a process that dies where it is told to."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas  # noqa: F401, ICN001 - imported before anything is forked, as Arrow would
import torch
import transformers.models.whisper.modeling_whisper  # noqa: F401 - as pandas

import pipeline.listen.record
import pipeline.textualize  # noqa: F401 - as pandas
from cache_schema.types import FloatArray
from pipeline.extract import run_step
from pipeline.listen.asr import WhisperListener
from pipeline.listen.base import Hearing
from pipeline.recipe import DatasetRecipe, ExtractRecipe, TapeRecipe
from pipeline.textualize_recipe import ListenRecipe, TextualizeRecipe

SHARD_SAMPLES = 2


def textualize(dataset: str, out: str, whisper: str, diary: str, fatal: int) -> int:
    """Listen and describe; die, as by ``kill -9``, at the fatal-th touch of the tape's files.

    Args:
        dataset: JSONL, ingested already.
        out: the tape.
        whisper: model directory.
        diary: gets a byte for each recording that is heard.
        fatal: 0 to live.

    Returns:
        How often the tape's files were opened, made, renamed, linked or removed.
    """
    torch.set_num_threads(1)
    touched = 0

    def touch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal touched
        if event.startswith(("open", "os.", "mmap")) and any(
            isinstance(argument, str | os.PathLike) and str(argument).startswith(out)
            for argument in arguments
        ):
            touched += 1
            if touched == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    hear = WhisperListener.hear

    def noted(self: WhisperListener, audios: Sequence[FloatArray]) -> list[Hearing]:
        with Path(diary).open("ab", buffering=0) as file:
            file.write(b"." * len(audios))
        return hear(self, audios)

    WhisperListener.hear = noted  # type: ignore[method-assign]
    sys.addaudithook(touch)
    listener = ListenRecipe(model=whisper, batch_size=1, device="cpu")
    run_step(
        "textualize",
        ExtractRecipe(
            dataset=DatasetRecipe(path=dataset),
            textualize=TextualizeRecipe(listen={"transcript": listener}),
            tape=TapeRecipe(out=out, shard_samples=SHARD_SAMPLES),
        ),
    )
    return touched
