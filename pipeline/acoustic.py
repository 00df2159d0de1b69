"""Step four, the acoustic teacher: states at audio positions, top-k on the response, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from numpy.typing import NDArray

from audio_models.inputs import Request
from audio_models.load import AudioLM, load_audio_lm
from cache_schema import TapeRow
from cache_schema.console import say
from cache_schema.errors import AudioError, UsageError
from cache_schema.layers import parse_layers
from cache_schema.maker import (
    GroupInfo,
)
from cache_schema.prepare import RowError
from cache_schema.questions import question_text
from cache_schema.rows import Row, hidden_row, topk_row
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import AUDIO_SOURCE, SAMPLE_RATE_HZ
from cache_schema.writer import TapeWriter
from pipeline.progress import Counter
from pipeline.recipe import ExtractRecipe
from pipeline.responses import ORIGINS, Responses, check_origin
from pipeline.step import (
    Failures,
    failures_of,
    kept_logits,
    notes,
    open_for,
    pending,
    writer_for,
)
from pipeline.teachers.describe import (
    TextShape,
    describe_model,
    load_config,
    load_tokenizer,
    resolve_dtype,
    text_shape,
)
from pipeline.teachers.hf_acoustic import AcousticSignals, read_batch

WINDOW_BATCHES = 16
"""Batches sorted by length together: little padding, and shards stay near the dataset's order."""


def run(recipe: ExtractRecipe) -> None:
    """Run the acoustic teacher over this worker's samples.

    Raises:
        ModelError: the teacher cannot be used.
        ProvenanceError: the tape has signals of another acoustic teacher.
        TapeError: the textual teacher that the recipe names has yet to run.
        QuarantineError: too many samples failed.
    """
    tape = open_for(recipe)
    teacher = recipe.acoustic.teacher
    shape = text_shape(load_config(teacher))
    tokenizer = load_tokenizer(teacher)
    layers = parse_layers(recipe.acoustic.layers, shape.num_layers)
    about = describe_model(teacher, tokenizer)
    keeps_topk = recipe.acoustic.top_k > 0  # nothing else is read on the responses
    responses = Responses(tape, tokenizer, about["tokenizer_digest"], wanted=keeps_topk)
    info = group_info(recipe, about, shape, layers, responses.origin)
    left = pending(tape, info, recipe)
    if left and keeps_topk:
        check_origin(recipe, tape)
    todo = responses.ready(left, tape, bool(layers))
    if not todo:
        say("acoustic: nothing else to record" if left else "acoustic: every sample is recorded")
        return
    say(f"acoustic: read on {ORIGINS[responses.origin]}")
    lm = load_audio_lm(teacher, info.identity["dtype"], recipe.acoustic.device)
    top_k = info.signals.get("topk", {"k": 1})["k"]
    failures = failures_of("acoustic", AUDIO_SOURCE, tape, recipe)
    with writer_for(recipe, info) as writer, Counter("acoustic", len(todo)) as progress:
        recorder = Recorder(
            lm=lm,
            layers=layers,
            top_k=top_k,
            responses=responses,
            writer=writer,
            failures=failures,
        )
        for batch in by_length(todo, recipe.acoustic.batch_size):
            recorder.record(batch)
            progress.advance(len(batch))
        writer.seal()
        failures.settle(writer)


def group_info(
    recipe: ExtractRecipe,
    about: Mapping[str, Any],
    shape: TextShape,
    layers: Sequence[int],
    origin: str,
) -> GroupInfo:
    """Return who makes the acoustic signals; ``origin`` says where the responses come from."""
    if not layers and origin == "none":
        raise UsageError(
            "--acoustic-layers none leaves nothing to record: "
            + ("there are no responses" if recipe.acoustic.top_k else "top-k is 0 as well")
        )
    signals: dict[str, dict[str, Any]] = {}
    if layers:
        signals["hidden"] = {
            "layers": list(layers),
            "width": shape.width,
            "dtype": recipe.tape.states_dtype,
            "profile": recipe.tape.profile,
        }
    if origin != "none":
        signals["topk"] = {
            "k": kept_logits("acoustic", recipe.acoustic.top_k, shape.vocab_size),
            "codec": recipe.tape.topk_codec,
        }
    return GroupInfo(
        group=AUDIO_SOURCE,
        kind=AUDIO_SOURCE,
        signals=signals,
        identity={
            **{key: value for key, value in about.items() if key != "model"},
            "engine": "transformers",
            "dtype": resolve_dtype(recipe.acoustic.dtype, shape),
            "num_layers": shape.num_layers,
            "width": shape.width,
            "vocab_size": shape.vocab_size,
            "responses": origin,
        },
        notes=notes({"model": recipe.acoustic.teacher, "engine_version": version("transformers")}),
    )


def by_length(rows: Sequence[TapeRow], batch_size: int) -> Iterator[list[TapeRow]]:
    """Cut the samples into batches of similar length, window by window of the dataset's order."""
    window = batch_size * WINDOW_BATCHES
    for start in range(0, len(rows), window):
        ordered = sorted(rows[start : start + window], key=lambda row: row.num_audio_samples)
        for first in range(0, len(ordered), batch_size):
            yield ordered[first : first + batch_size]


@dataclass(frozen=True, kw_only=True)
class Unread:
    """Why one request could not be read."""

    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """Reads batches with the teacher and puts them on the tape."""

    lm: AudioLM
    layers: Sequence[int]
    top_k: int
    responses: Responses
    writer: TapeWriter
    failures: Failures

    def record(self, rows: Sequence[TapeRow]) -> None:
        """Record a batch; what cannot be read or is not finite counts as failed."""
        responses = [self.responses.of(row) for row in rows]
        requests = [
            Request(audio=audio, text=text, response_ids=response_ids)
            for row, many in zip(rows, responses, strict=True)
            for audio, text in [(row.audio, question_text(row.question, row.choices))]
            for response_ids in many
        ]
        read = iter(self.read(requests))
        for row, many in zip(rows, responses, strict=True):
            self._record_one(row, [next(read) for _ in many])

    def _record_one(self, row: TapeRow, read: Sequence[AcousticSignals | Unread]) -> None:
        unread = [one for one in read if isinstance(one, Unread)]
        if unread:
            self.failures.add(row.sample_id, row.row_index, unread[0].reason, unread[0].detail)
            return
        signals = [one for one in read if not isinstance(one, Unread)]
        try:
            self.writer.add(*rows_of(row.sample_id, signals))
        except RowError as error:
            self.failures.add(row.sample_id, row.row_index, "signals", str(error))

    def read(self, requests: Sequence[Request]) -> list[AcousticSignals | Unread]:
        """Read requests together, halved where memory runs out or one recording spoils them."""
        try:
            return [*read_batch(self.lm, requests, self.layers, self.top_k)]
        except (torch.OutOfMemoryError, MemoryError):
            unread = Unread(reason="out of memory", detail=_size_of(requests[0]))
        except AudioError as error:
            unread = Unread(reason="audio", detail=str(error))
        if unread.reason == "out of memory":  # the pass's tensors live as long as its error
            torch.cuda.empty_cache()
        if len(requests) == 1:
            return [unread]
        if unread.reason == "out of memory":
            say(f"acoustic: out of memory with {len(requests)} responses a batch, halving")
        middle = len(requests) // 2
        return self.read(requests[:middle]) + self.read(requests[middle:])


def _size_of(request: Request) -> str:
    tokens = 0 if request.response_ids is None else len(request.response_ids)
    seconds = len(request.audio) / SAMPLE_RATE_HZ
    return f"{seconds:.1f} s of audio and {tokens} response tokens do not fit, read alone"


def rows_of(
    sample_id: str, signals: Sequence[AcousticSignals]
) -> tuple[dict[str, list[Row]], list[tuple[Row, Mapping[int, NDArray[Any]]]]]:
    """Return a sample's rows: states once (they do not see the response), top-k a response."""
    topk = [
        topk_row(sample_id, index, one.topk)
        for index, one in enumerate(signals)
        if len(one.topk.target_ids)
    ]
    first = signals[0]
    place = hidden_row(sample_id, AUDIO_ROW, "audio", (0, 0), None, first.times_s)
    return {"topk": topk}, [(place, first.states)] if first.states else []
