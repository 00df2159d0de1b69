"""The models made on the spot: a textual teacher that reasons, a base audio model that hears."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from cache_schema.answers.questions import is_correct, parse_answer, question_text
from examples.quickstart import hearing, teacher, tokens
from examples.quickstart.audio_lm import make_audio_lm
from examples.quickstart.training import shuffled, train
from examples.quickstart.world import Voices
from examples.study.hearing_questions import HEARING, Heard, hearing_turn
from examples.study.questions import REASONING, write_trace
from examples.study.rows import (
    ALL_HEARING,
    Composition,
    Row,
    described,
    draw_numbers,
    draw_rows,
    speak,
)
from examples.study.sizes import Size
from examples.study.speech import Speech

HEARING_SHARES = (0.22, 0.22, 0.3, 0.06, 0.06, 0.06, 0.08)
"""How often the base model is asked each of ``ALL_HEARING`` while it learns."""

HEARING_BATCH, TEXT_BATCH = 32, 24


def prompt_of(row: Row, tokenizer: PreTrainedTokenizerFast) -> str:
    """Return what the textual teacher reads about a row, as stage one puts it."""
    return _prompt(row.as_json(), row.question, row.choices, tokenizer)


def _prompt(
    columns: Mapping[str, object],
    question: str,
    choices: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
) -> str:
    asked = teacher.messages_of(columns, question, choices)
    return str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))


def make_tokenizer(
    speech: Speech,
    compositions: Sequence[Composition],
    rng: np.random.Generator,
    merged_vocabulary: int = tokens.MERGED_VOCABULARY,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on what the models read and write."""
    kinds = [*REASONING, *HEARING]
    train_set, speakers = speech.sets["train"], speech.speakers
    texts = ["user\nassistant\n"]
    for row in draw_rows("text", kinds, compositions, train_set, speakers, 1500, rng):
        asked = teacher.messages_of(row.as_json(), row.question, row.choices)
        texts.append(asked[0]["content"])
        if row.kind in REASONING:
            texts.append(write_trace(row.kind, row.heard.numbers, row.choices, rng))
    for kind in ALL_HEARING:
        drawn = [_draw_heard(compositions, speech, rng)[0] for _ in range(100)]
        for heard in drawn:
            texts += _turn(kind, heard, speakers, rng)
    return tokens.make_tokenizer(texts, merged_vocabulary)


def make_teacher(
    speech: Speech,
    compositions: Sequence[Composition],
    tokenizer: PreTrainedTokenizerFast,
    size: Size,
    seed: int,
    say: Callable[[str], None],
) -> Qwen3ForCausalLM:
    """Train the textual teacher on training compositions, from text alone."""
    rng = np.random.default_rng([seed, 3])
    texts = _texts(speech, compositions, tokenizer, size.teacher_texts, rng)
    torch.manual_seed(seed)
    model = teacher.make_teacher(tokenizer, size.teacher_width, size.teacher_layers)
    say(
        f"a Qwen3 of {model.num_parameters() / 1e6:.1f} million parameters reads {len(texts)} texts"
    )
    teacher.train_on_texts(model, tokenizer, texts, rng, say, size.teacher_steps)
    return model


def _texts(
    speech: Speech,
    compositions: Sequence[Composition],
    tokenizer: PreTrainedTokenizerFast,
    count: int,
    rng: np.random.Generator,
) -> list[tuple[str, str]]:
    """Return (prompt, true trace) of reasoning questions over descriptions."""
    voices, speakers = speech.sets["train"], speech.speakers
    kinds = [*REASONING, "total", "total"]  # a table of sums takes longer to learn than a rule
    rows = draw_rows("text", kinds, compositions, voices, speakers, count, rng)
    return [
        (prompt_of(row, tokenizer), write_trace(row.kind, row.heard.numbers, row.choices, rng))
        for row in rows
    ]


def _read_hearing(
    speech: Speech,
    compositions: Sequence[Composition],
    tokenizer: PreTrainedTokenizerFast,
    count: int,
    rng: np.random.Generator,
) -> list[tuple[str, str]]:
    """Return (prompt, true trace) of hearing questions that a description answers.

    Without them a base model tells from the modality what is wanted of it (audio: listen, text:
    reason). Fine-tuning then turned that over as a whole: hearing 0.97 -> 0.11 in 50 steps.
    """
    kinds = [kind for kind in ALL_HEARING if kind != "noise"]  # which no description tells
    found = []
    for place in range(count):
        heard, language = _draw_heard(compositions, speech, rng)
        kind = kinds[place % len(kinds)]
        question, choices, _, trace = hearing_turn(kind, heard, speech.speakers, rng)
        columns = described(heard, language)
        found.append((_prompt(columns, question, choices, tokenizer), trace))
    return found


def teacher_answers(folder: Path, rows: Sequence[Row], longest: int) -> list[bool]:
    """Return whether a saved teacher answers each row right, greedily, from the true transcript."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen3ForCausalLM.from_pretrained(folder)
    prompts = [prompt_of(row, tokenizer) for row in rows]
    traces = teacher.write_traces(model, tokenizer, prompts, max_new_tokens=longest)
    return [
        bool(is_correct(parse_answer(trace), row.answer, row.choices))
        for trace, row in zip(traces, rows, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Clips to learn hearing from, and what is true of each."""

    prepared: list[hearing.HeardClip]
    truths: list[Heard]


def _draw_heard(
    compositions: Sequence[Composition], speech: Speech, rng: np.random.Generator
) -> tuple[Heard, str]:
    voices = speech.sets["train"].voices
    speaker, language = voices[int(rng.integers(len(voices)))]
    numbers = draw_numbers(compositions, "", rng)
    return Heard(numbers=numbers, speaker=speaker, noisy=bool(rng.random() < 0.5)), language


def make_base(
    speech: Speech,
    compositions: Sequence[Composition],
    tokenizer: PreTrainedTokenizerFast,
    size: Size,
    seed: int,
    out: Path,
    say: Callable[[str], None],
) -> None:
    """Train the base audio language model; save it.

    It hears, and it reasons over what it reads, less well than the teacher, but it has never
    reasoned over what it hears: the gap between modalities that the method is to close.
    """
    rng = np.random.default_rng([seed, 4])
    voices = Voices(speech.sets["train"])
    drawn = [_draw_heard(compositions, speech, rng) for _ in range(size.hearing_clips)]
    spoken = [speak(heard, language, voices, True, rng) for heard, language in drawn]
    processor = tokens.make_processor(tokenizer)
    clips = Clips(
        prepared=hearing.prepare_clips(spoken, processor), truths=[heard for heard, _ in drawn]
    )
    torch.manual_seed(seed)
    model = make_audio_lm(tokenizer, size.student_layers)
    say(f"a Qwen2.5-Omni thinker of {model.num_parameters() / 1e6:.1f} million parameters")
    say(f"its audio tower learns which number is spoken when, from {len(spoken)} clips")
    hearing.train_tower(model, clips.prepared, rng, say, size.tower_steps)
    say("the whole model learns to answer what it hears, and in turn to reason over text")
    batches = shuffled(len(spoken), HEARING_BATCH, rng)
    texts = [
        (tokenizer(prompt).input_ids, tokenizer(trace + tokens.TURN_END).input_ids)
        for prompt, trace in [
            *_texts(speech, compositions, tokenizer, size.base_texts, rng),
            *_read_hearing(speech, compositions, tokenizer, size.base_texts // 2, rng),
        ]
    ]
    read = shuffled(len(texts), TEXT_BATCH, rng)

    def loss_of_step(step: int) -> Tensor:
        if step % 2:
            pad = tokenizer.pad_token_id
            return teacher.text_loss(model, pad, [texts[place] for place in next(read)])
        chosen = next(batches)
        kinds = rng.choice(ALL_HEARING, size=len(chosen), p=HEARING_SHARES).tolist()
        turns = [
            _turn(kind, clips.truths[place], speech.speakers, rng)
            for kind, place in zip(kinds, chosen, strict=True)
        ]
        return hearing.response_loss(
            model, processor, [clips.prepared[place] for place in chosen], turns
        )

    parameters = hearing.heard_parameters(model)
    train(parameters, loss_of_step, size.hearing_steps, say, lr_scale=hearing.LM_LR_SCALE)
    model.save_pretrained(out)
    processor.save_pretrained(out)


def _turn(
    kind: str, heard: Heard, speakers: Sequence[str], rng: np.random.Generator
) -> tuple[str, str]:
    question, choices, _, trace = hearing_turn(kind, heard, speakers, rng)
    return question_text(question, choices), trace
