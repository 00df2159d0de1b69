"""Step four, the acoustic teacher: states at audio positions, top-k on the response, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from audio_models.inputs import Request
from audio_models.load import AudioLM, load_audio_lm
from cache_schema import Tape, TapeRow
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
from cache_schema.types import AUDIO_SOURCE, TEXT_SOURCE, IntArray
from cache_schema.writer import TapeWriter
from pipeline.progress import Counter
from pipeline.recipe import ExtractRecipe
from pipeline.step import (
    Failures,
    Pending,
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
        QuarantineError: too many samples failed.
    """
    tape = open_for(recipe)
    teacher = recipe.acoustic.teacher
    shape = text_shape(load_config(teacher))
    tokenizer = load_tokenizer(teacher)
    layers = parse_layers(recipe.acoustic.layers, shape.num_layers)
    about = describe_model(teacher, tokenizer)
    responses = Responses(tape, tokenizer, about["tokenizer_digest"])
    info = group_info(recipe, about, shape, layers, responses.origin)
    todo = responses.ready(pending(tape, info, recipe), tape, bool(layers))
    if not todo:
        say("acoustic: every sample is recorded")
        return
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
        raise UsageError("--acoustic-layers none leaves nothing to record: there are no responses")
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


class Responses:
    """The responses the acoustic teacher is read on: the textual traces, else the answers.

    ``origin`` says which: ``trace ids`` (same tokenizer), ``trace text``, ``answers`` or ``none``.
    """

    def __init__(self, tape: Tape, tokenizer: Any, tokenizer_digest: str) -> None:
        self._tokenizer = tokenizer
        textual = tape.sources.get(TEXT_SOURCE)
        if textual is not None and "trace" in textual["signals"]:  # an encoder writes none
            same = textual.get("tokenizer_digest") == tokenizer_digest
            self.origin = "trace ids" if same else "trace text"
        else:
            self.origin = "answers" if any(row.answer for row in tape) else "none"

    def ready(self, rows: Pending, tape: Tape, with_states: bool) -> Pending:
        """Leave out rows whose traces are still to come, and rows that leave nothing to record."""
        if not self.origin.startswith("trace"):
            return rows
        traced = tape.recorded_mask(TEXT_SOURCE)
        settled = traced | tape.quarantined_mask("descriptions", TEXT_SOURCE)
        waiting = len(rows) - len(rows.among(settled))
        if waiting:
            say(f"acoustic: {waiting} samples wait for their traces (run the textual step)")
        # Without states, a sample none of whose traces was kept leaves nothing to record.
        return rows.among(settled if with_states else tape.recorded_mask(TEXT_SOURCE, "trace"))

    def of(self, row: TapeRow) -> list[IntArray]:
        """Return the responses of one sample in this teacher's ids; at least one, maybe empty."""
        if self.origin == "trace ids":
            return [trace.token_ids for trace in row.traces] or [self._encode("")]
        if self.origin == "trace text":
            return [self._encode(trace.text) for trace in row.traces] or [self._encode("")]
        return [self._encode(row.answer if self.origin == "answers" else "")]

    def _encode(self, text: str) -> IntArray:
        if not text:
            return np.empty(0, dtype=np.int64)
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        stop = self._tokenizer.eos_token_id
        ends = [] if stop is None else [stop]
        return np.asarray([*ids, *ends], dtype=np.int64)


def by_length(rows: Sequence[TapeRow], batch_size: int) -> Iterator[list[TapeRow]]:
    """Cut the samples into batches of similar length, window by window of the dataset's order."""
    window = batch_size * WINDOW_BATCHES
    for start in range(0, len(rows), window):
        ordered = sorted(rows[start : start + window], key=lambda row: row.num_audio_samples)
        for first in range(0, len(ordered), batch_size):
            yield ordered[first : first + batch_size]


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
        for row, signals in self.read(rows):
            try:
                self.writer.add(*rows_of(row.sample_id, signals))
            except RowError as error:
                self.failures.add(row.sample_id, row.row_index, "signals", str(error))

    def read(self, rows: Sequence[TapeRow]) -> list[tuple[TapeRow, list[AcousticSignals]]]:
        """Read a batch, halved where memory runs out or one recording spoils it."""
        responses = [self.responses.of(row) for row in rows]
        requests = [
            Request(
                audio=row.audio,
                text=question_text(row.question, row.choices),
                response_ids=response_ids,
            )
            for row, many in zip(rows, responses, strict=True)
            for response_ids in many
        ]
        try:
            signals = iter(read_batch(self.lm, requests, self.layers, self.top_k))
        except torch.cuda.OutOfMemoryError:
            if len(rows) == 1:
                raise
            torch.cuda.empty_cache()
            say(f"acoustic: out of memory with {len(rows)} samples a batch, halving")
        except AudioError as error:
            if len(rows) == 1:
                self.failures.add(rows[0].sample_id, rows[0].row_index, "audio", str(error))
                return []
        else:
            pairs = zip(rows, responses, strict=True)
            return [(row, [next(signals) for _ in many]) for row, many in pairs]
        middle = len(rows) // 2
        return self.read(rows[:middle]) + self.read(rows[middle:])


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
