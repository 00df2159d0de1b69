"""Step three, the textual teacher: traces, judged, with top-k and states of their tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache_schema import TapeRow
from cache_schema.console import say
from cache_schema.errors import TapeError
from cache_schema.layers import parse_layers
from cache_schema.maker import (
    GroupInfo,
)
from cache_schema.prepare import RowError
from cache_schema.questions import is_correct, parse_answer
from cache_schema.rows import Row, hidden_row, topk_row, trace_row
from cache_schema.types import TEXT_SOURCE, IntArray, TopK, Trace
from cache_schema.writer import TapeWriter
from pipeline.progress import Counter
from pipeline.prompts import TEXTUAL_TEMPLATE, textual_messages
from pipeline.recipe import ExtractRecipe, TextualRecipe
from pipeline.step import (
    Failures,
    failures_of,
    kept_logits,
    notes,
    open_for,
    pending,
    seed_of,
    writer_for,
)
from pipeline.teachers.base import Generated, Sampling, TextTeacher, TokenSignals

NOTE_KEYS = ("model", "engine_version")
"""What a teacher says of itself that may differ between runs."""


@dataclass(frozen=True, kw_only=True)
class Prompted:
    """A sample with its prompt, int64 [P]."""

    row: TapeRow
    prompt: IntArray


def run(recipe: ExtractRecipe) -> None:
    """Run the textual teacher over this worker's described samples.

    Raises:
        ModelError: the teacher cannot be used.
        ProvenanceError: the tape has signals of another textual teacher.
        TapeError: there are no descriptions to read.
        QuarantineError: too many samples failed.
    """
    tape = open_for(recipe)
    if "descriptions" not in tape.groups:
        raise TapeError(f"{recipe.tape.out}: no descriptions yet; run the textualize step first")
    described = tape.recorded("descriptions")
    teacher = load_teacher(recipe.textual, recipe.seed)
    about = teacher.describe()
    layers = parse_layers(recipe.textual.layers, about["num_layers"])
    info = group_info(recipe, about, layers, tape.groups["descriptions"].fingerprint)
    todo = [row for row in pending(tape, info, recipe) if row.sample_id in described]
    if not todo:
        say("textual: every described sample is recorded")
        return
    top_k = info.signals["topk"]["k"]
    failures = failures_of("textual", TEXT_SOURCE, tape, recipe)
    size = recipe.textual.batch_samples
    try:
        with writer_for(recipe, info) as writer, Counter("textual", len(todo)) as progress:
            for start in range(0, len(todo), size):
                batch = todo[start : start + size]
                record_batch(recipe, teacher, layers, top_k, batch, writer, failures)
                progress.advance(len(batch))
            writer.seal()
            failures.settle(writer)
    finally:
        teacher.close()


def load_teacher(recipe: TextualRecipe, seed: int) -> TextTeacher:
    """Return the teacher the recipe names; only here is an engine imported, none is started."""
    if recipe.engine == "vllm":
        from pipeline.teachers.vllm_text import VllmTextTeacher

        return VllmTextTeacher(
            model=recipe.teacher,
            dtype=recipe.dtype,
            max_model_len=recipe.max_model_len,
            seed=seed,
            gpu_memory_utilization=recipe.vllm.get("gpu_memory_utilization", 0.9),
        )
    from pipeline.teachers.hf_text import HfTextTeacher

    return HfTextTeacher(model=recipe.teacher, dtype=recipe.dtype)


def group_info(
    recipe: ExtractRecipe,
    about: Mapping[str, Any],
    layers: Sequence[int],
    descriptions: str,
) -> GroupInfo:
    """Return who makes the textual signals."""
    textual = recipe.textual
    signals: dict[str, dict[str, Any]] = {
        "trace": {},
        "topk": {
            "k": kept_logits("textual", textual.top_k, about["vocab_size"]),
            "codec": recipe.tape.topk_codec,
        },
    }
    if layers:
        signals["hidden"] = {
            "layers": list(layers),
            "width": about["width"],
            "dtype": recipe.tape.states_dtype,
            "profile": recipe.tape.profile,
        }
    return GroupInfo(
        group=TEXT_SOURCE,
        kind=TEXT_SOURCE,
        signals=signals,
        identity={
            **{key: value for key, value in about.items() if key not in NOTE_KEYS},
            "prompt_digest": hashlib.sha256(TEXTUAL_TEMPLATE.encode()).hexdigest(),
            "descriptions": descriptions,
            "traces": textual.traces,
            "max_new_tokens": textual.max_new_tokens,
            "temperature": textual.temperature,
            "top_p": textual.top_p,
            "seed": recipe.seed,
        },
        notes=notes({key: about[key] for key in NOTE_KEYS}),
    )


def record_batch(
    recipe: ExtractRecipe,
    teacher: TextTeacher,
    layers: Sequence[int],
    top_k: int,
    rows: Sequence[TapeRow],
    writer: TapeWriter,
    failures: Failures,
) -> None:
    """Generate, judge and record a batch of samples."""
    prompted = encode_prompts(teacher, rows, recipe.textual.max_new_tokens, failures)
    if not prompted:
        return
    sampling = Sampling(
        num_traces=recipe.textual.traces,
        max_new_tokens=recipe.textual.max_new_tokens,
        temperature=recipe.textual.temperature,
        top_p=recipe.textual.top_p,
    )
    prompts = [item.prompt for item in prompted]
    seeds = [seed_of(recipe.seed, item.row.sample_id) for item in prompted]
    traced = teacher.trace(prompts, seeds, sampling, top_k, layers)
    for item, pairs in zip(prompted, traced, strict=True):
        record_sample(teacher, item, pairs, writer, failures)


def encode_prompts(
    teacher: TextTeacher, rows: Sequence[TapeRow], max_new_tokens: int, failures: Failures
) -> list[Prompted]:
    """Render the prompts; one that leaves no room for a whole trace is a failure."""
    prompted = []
    for row in rows:
        messages = textual_messages(row.description or "", row.question, row.choices)
        prompt = teacher.encode(messages)
        if len(prompt) + max_new_tokens > teacher.max_model_len:
            failures.add(
                row.sample_id,
                row.row_index,
                "prompt too long",
                f"{len(prompt)} prompt + {max_new_tokens} new tokens, the model takes "
                f"{teacher.max_model_len}; lower --max-new-tokens or shorten the description",
            )
            continue
        prompted.append(Prompted(row=row, prompt=prompt))
    return prompted


def record_sample(
    teacher: TextTeacher,
    item: Prompted,
    pairs: Sequence[tuple[Generated, TokenSignals]],
    writer: TapeWriter,
    failures: Failures,
) -> None:
    """Put one sample's traces with their signals on the tape, or count it as failed."""
    row = item.row
    rows: dict[str, list[Row]] = {"trace": [], "topk": []}
    hidden = []
    for index, (generated, signals) in enumerate(pairs):
        text = teacher.decode(generated.token_ids)
        answer = parse_answer(text)
        trace = Trace(
            text=text,
            token_ids=generated.token_ids,
            prompt_token_ids=item.prompt,
            finish_reason=generated.finish_reason,
            answer=answer,
            correct=is_correct(answer, row.answer, row.choices),
            logprob=float(signals.target_logprobs.sum(dtype=np.float64)),
        )
        topk = TopK(
            target_ids=signals.target_ids,
            token_ids=signals.topk_ids,
            logprobs=signals.topk_logprobs,
            tail=signals.tail,
        )
        rows["trace"].append(trace_row(row.sample_id, index, trace))
        rows["topk"].append(topk_row(row.sample_id, index, topk))
        if signals.states:
            place = hidden_row(row.sample_id, index, "token", (0, 0), signals.target_ids, None)
            hidden.append((place, signals.states))
    try:
        writer.add(rows, hidden)
    except RowError as error:
        failures.add(row.sample_id, row.row_index, "signals", str(error))
