"""Step four, the acoustic teacher: states at audio positions, top-k on the response, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from audio_models.forward import Forward, forward_with_states
from audio_models.inputs import AudioBatch, Request, build_inputs
from audio_models.load import AudioLM, load_audio_lm
from cache_schema import Tape, TapeRow
from cache_schema.errors import AudioError, UsageError
from cache_schema.layers import parse_layers
from cache_schema.manifest import GroupInfo
from cache_schema.questions import question_text
from cache_schema.shard import is_finite
from cache_schema.signals import AUDIO_ROW, Row, hidden_row, topk_row
from cache_schema.types import AUDIO_SOURCE, TEXT_SOURCE, IntArray, TopK
from cache_schema.writer import TapeWriter
from pipeline.progress import say
from pipeline.recipe import ExtractRecipe
from pipeline.step import Failures, counter, kept_logits, notes, open_for, pending, writer_for
from pipeline.teachers.describe import (
    TextShape,
    describe_model,
    load_config,
    load_tokenizer,
    resolve_dtype,
    text_shape,
)

WINDOW_BATCHES = 16
"""Batches sorted by length together: little padding, and shards stay near the dataset's order."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One forward row: a sample with one of its responses (int64 [R]; empty if it has none)."""

    row: TapeRow
    trace_index: int
    response_ids: IntArray


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
    todo = pending(tape, info, recipe)
    if not todo:
        say("acoustic: every sample is recorded")
        return
    lm = load_audio_lm(teacher, info.identity["dtype"], recipe.acoustic.device)
    top_k = info.signals.get("topk", {"k": 1})["k"]
    failures = Failures("acoustic", recipe.failures.max_fraction)
    with writer_for(recipe, info) as writer, counter("acoustic", len(todo)) as progress:
        for rows in windows(todo, recipe.acoustic.batch_size):
            for batch in batches(rows, recipe.acoustic.batch_size):
                record_batch(lm, layers, top_k, batch, responses, writer, failures)
                progress.advance(len(batch))
        writer.seal()
        failures.settle(writer, len(todo))


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
        }
    if origin != "none":
        signals["topk"] = {"k": kept_logits("acoustic", recipe.acoustic.top_k, shape.vocab_size)}
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
        if textual is not None:
            same = textual.get("tokenizer_digest") == tokenizer_digest
            self.origin = "trace ids" if same else "trace text"
        else:
            self.origin = "answers" if any(row.answer for row in tape) else "none"

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


def windows(rows: Sequence[TapeRow], batch_size: int) -> Iterator[list[TapeRow]]:
    """Cut the samples into windows that are sorted by length within."""
    size = batch_size * WINDOW_BATCHES
    for start in range(0, len(rows), size):
        yield sorted(rows[start : start + size], key=lambda row: row.num_audio_samples)


def batches(rows: Sequence[TapeRow], batch_size: int) -> Iterator[list[TapeRow]]:
    """Cut sorted samples into batches."""
    for start in range(0, len(rows), batch_size):
        yield list(rows[start : start + batch_size])


def record_batch(
    lm: AudioLM,
    layers: Sequence[int],
    top_k: int,
    rows: Sequence[TapeRow],
    responses: Responses,
    writer: TapeWriter,
    failures: Failures,
) -> None:
    """Record a batch, halved when memory runs out or to single out a recording it cannot hear."""
    items = [
        Item(row=row, trace_index=index, response_ids=ids)
        for row in rows
        for index, ids in enumerate(responses.of(row))
    ]
    try:
        outputs = list(read_batch(lm, layers, top_k, items))
    except torch.cuda.OutOfMemoryError:
        if len(rows) == 1:
            raise
        torch.cuda.empty_cache()
        say(f"acoustic: out of memory with {len(rows)} samples a batch, halving")
        _record_halves(lm, layers, top_k, rows, responses, writer, failures)
        return
    except AudioError as error:
        if len(rows) == 1:
            failures.add(rows[0].sample_id, rows[0].row_index, "audio", str(error))
            return
        _record_halves(lm, layers, top_k, rows, responses, writer, failures)
        return
    for row in rows:
        record_sample(
            row, [output for output in outputs if output.item.row is row], writer, failures
        )


def _record_halves(
    lm: AudioLM,
    layers: Sequence[int],
    top_k: int,
    rows: Sequence[TapeRow],
    responses: Responses,
    writer: TapeWriter,
    failures: Failures,
) -> None:
    middle = len(rows) // 2
    for half in (rows[:middle], rows[middle:]):
        record_batch(lm, layers, top_k, half, responses, writer, failures)


@dataclass(frozen=True, kw_only=True)
class Output:
    """What the teacher said of one item: states at audio positions, top-k on the response."""

    item: Item
    states: Mapping[int, NDArray[Any]]
    times_s: NDArray[np.float32]
    topk: TopK


@torch.no_grad()
def read_batch(
    lm: AudioLM, layers: Sequence[int], top_k: int, items: Sequence[Item]
) -> Iterator[Output]:
    """Run one forward pass over the items, audio and response together."""
    requests = [
        Request(
            audio=item.row.audio,
            text=question_text(item.row.question, item.row.choices),
            response_ids=item.response_ids,
        )
        for item in items
    ]
    batch = build_inputs(lm, requests).to(lm.device)
    forward = forward_with_states(lm.model, batch.inputs, layers, batch.predict_positions)
    logprobs_NV = forward.logits_NV.float().log_softmax(dim=-1)
    kept_Nk, ids_Nk = logprobs_NV.topk(top_k, dim=-1)
    tail_N = (1.0 - kept_Nk.double().exp().sum(dim=-1)).clamp(0.0, 1.0).float()
    counts = [len(item.response_ids) for item in items]
    parts = [tensor.cpu().split(counts) for tensor in (ids_Nk, kept_Nk, tail_N)]
    for index, item in enumerate(items):
        ids, kept, tail = (part[index].numpy() for part in parts)
        yield Output(
            item=item,
            states=_audio_states(forward, batch, index),
            times_s=batch.audio_times_s[index],
            topk=TopK(target_ids=item.response_ids, token_ids=ids, logprobs=kept, tail=tail),
        )


def _audio_states(forward: Forward, batch: AudioBatch, index: int) -> dict[int, NDArray[Any]]:
    positions = batch.audio_positions[index]
    states = {}
    for layer, states_BTD in forward.states.items():
        rows = states_BTD[index, positions.to(states_BTD.device)].cpu()
        bits = rows.view(torch.uint16) if rows.dtype == torch.bfloat16 else rows
        states[layer] = bits.numpy()
    return states


def record_sample(
    row: TapeRow, outputs: Sequence[Output], writer: TapeWriter, failures: Failures
) -> None:
    """Put one sample on the tape: states once (they do not see the response), top-k a response."""
    first = outputs[0]
    finite = all(np.isfinite(output.topk.logprobs).all() for output in outputs)
    if not (finite and is_finite(first.states)):
        failures.add(row.sample_id, row.row_index, "non-finite", "logits or states")
        return
    topk: list[Row] = [
        topk_row(row.sample_id, output.item.trace_index, output.topk)
        for output in outputs
        if len(output.topk.target_ids)
    ]
    place = hidden_row(row.sample_id, AUDIO_ROW, "audio", (0, 0), None, first.times_s)
    writer.add({"topk": topk}, [(place, first.states)] if first.states else [])
