"""The textual teacher: a tiny Qwen3 that learns from text to reason, and never hears anything.

It reads what stage one will give it (a description made from the row's columns, the question, the
choices) and learns to write the true trace. It sees training compositions alone; on held-out ones
it has to compose what it learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from examples.quickstart.tokens import PAD, TURN_END
from examples.quickstart.training import shuffled, train
from examples.quickstart.world import Row
from pipeline.prompts import load_prompt
from pipeline.textualize import describe

WIDTH = 128
NUM_LAYERS = 4
NUM_STEPS = 180
BATCH = 32
LR_SCALE = 0.5
MAX_TRACE_TOKENS = 80
PROMPT = "plain.v1"
"""What stage one must ask: the teacher is trained on these words and knows no others."""

_ASKED = load_prompt(PROMPT)
_IGNORED = -100


def make_teacher(
    tokenizer: PreTrainedTokenizerFast, width: int = WIDTH, num_layers: int = NUM_LAYERS
) -> Qwen3ForCausalLM:
    """Return an untrained teacher, about 0.9 million parameters (seed torch before)."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.08,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(TURN_END),
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = config.pad_token_id
    return model


def teacher_messages(row: Row) -> list[dict[str, str]]:
    """Return what the teacher reads about a row, exactly as stage one puts it."""
    return messages_of(row.as_json(), row.question, row.choices)


def messages_of(
    values: Mapping[str, object], question: str, choices: Sequence[str]
) -> list[dict[str, str]]:
    """Return what a teacher reads, given a row's columns, as stage one puts it."""
    return _ASKED.ask(describe(values), question, choices)


def tokenizer_texts(rows: Sequence[Row]) -> list[str]:
    """Return texts to train the tokenizer on."""
    return [
        text
        for row in rows
        for text in (teacher_messages(row)[0]["content"], "user\nassistant\n", row.solution.trace)
    ]


def teacher_prompt(row: Row, tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the prompt of a row in the teacher's chat form."""
    messages = teacher_messages(row)
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def train_teacher(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Row],
    rng: np.random.Generator,
    say: Callable[[str], None],
    num_steps: int = NUM_STEPS,
) -> None:
    """Learn to write the true traces of the rows."""
    texts = [(teacher_prompt(row, tokenizer), row.solution.trace) for row in rows]
    train_on_texts(model, tokenizer, texts, rng, say, num_steps)


def train_on_texts(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts_and_traces: Sequence[tuple[str, str]],
    rng: np.random.Generator,
    say: Callable[[str], None],
    num_steps: int,
) -> None:
    """Learn to write traces behind prompts; only the trace's tokens are scored."""
    texts = [
        (tokenizer(prompt).input_ids, tokenizer(trace + TURN_END).input_ids)
        for prompt, trace in prompts_and_traces
    ]
    batches = shuffled(len(texts), BATCH, rng)

    def loss_of_step(_: int) -> Tensor:
        return text_loss(model, tokenizer.pad_token_id, [texts[place] for place in next(batches)])

    train(model.named_parameters(), loss_of_step, num_steps, say, lr_scale=LR_SCALE)


def text_loss(
    model: PreTrainedModel, pad_id: int, texts: Sequence[tuple[list[int], list[int]]]
) -> Tensor:
    """Mean cross-entropy on traces, given (prompt's ids, trace's ids) of each."""
    ids_BT = pad_sequence(
        [torch.tensor(prompt + trace) for prompt, trace in texts],
        batch_first=True,
        padding_value=pad_id,
    )
    labels_BT = pad_sequence(
        [torch.tensor([_IGNORED] * len(prompt) + trace) for prompt, trace in texts],
        batch_first=True,
        padding_value=_IGNORED,
    )
    # Padding is on the right, where causal attention never looks from a scored position.
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
    return F.cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=_IGNORED
    )


def answer_by_reading(folder: Path, rows: Sequence[Row], batch_size: int = 50) -> list[str]:
    """Return a saved teacher's greedy trace for every row, reading the true transcript."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen3ForCausalLM.from_pretrained(folder)
    return write_traces(model, tokenizer, [teacher_prompt(r, tokenizer) for r in rows], batch_size)


@torch.no_grad()
def write_traces(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    batch_size: int = 50,
    max_new_tokens: int = MAX_TRACE_TOKENS,
) -> list[str]:
    """Return the greedy trace behind every prompt."""
    traces = []
    for start in range(0, len(prompts), batch_size):
        encoded = tokenizer(prompts[start : start + batch_size], return_tensors="pt", padding=True)
        output_BT = model.generate(**encoded, max_new_tokens=max_new_tokens, do_sample=False)
        traces += tokenizer.batch_decode(
            output_BT[:, encoded.input_ids.shape[1] :], skip_special_tokens=True
        )
    return traces
