"""Tapes of a textual teacher with a tokenizer of its own, and batches of a student with another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_tape import NUM_SAMPLES, TEACHER_WIDTH, sample
from transformers import PreTrainedTokenizerFast

from audio_models.load import AudioLM
from cache_schema import Tape, open_tape
from cache_schema.fingerprint import tokenizer_digest
from cache_schema.maker import GroupInfo
from cache_schema.rows.values import (
    hidden_row,
    lens_row,
    sample_rows,
    sampled_row,
    topk_row,
    trace_row,
)
from cache_schema.shard import Storage
from cache_schema.types import Lens, Sampled, TopK, Trace
from cache_schema.writer import TapeWriter
from train.alignment.translation import Translation
from train.batch.build import Share, TrainBatch, load_batches
from train.data import scan
from train.objective import Objective
from train.settings import DataRecipe
from train.steps.ring import HostBuffer, Readers
from train.terms.needs import resolve_needs
from train.terms.recipe import TermsRecipe
from train.terms.resolve import resolve_terms

NAMES = tuple(f"s{n}" for n in range(NUM_SAMPLES))
DRAWS = 6
TERMS = {
    "ce": {"weight": 1.0},
    "text_kl": {"weight": 1.0},
    "text_jsd": {"weight": 1.0},
    "text_sampled": {"weight": 1.0},
    "text_lens": {"weight": 1.0, "layers": "2:4"},
    "text_hidden": {"weight": 1.0, "layers": "2:4", "projector": "linear"},
}


def drawn_of(topk: TopK) -> Sampled:
    """The kept tokens, drawn in turn."""
    num_tokens = len(topk.target_ids)
    ids = np.sort(topk.token_ids[:, :3], axis=1)
    return Sampled(
        target_ids=topk.target_ids,
        token_ids=ids.reshape(-1),
        counts=np.full(3 * num_tokens, DRAWS // 3),
        offsets=np.arange(num_tokens + 1) * 3,
        num_draws=DRAWS,
    )


def topk_of(targets: np.ndarray, seed: int, tokenizer: PreTrainedTokenizerFast) -> TopK:
    """Five words each, none of them special but for the one that ends the turn."""
    logits = torch.randn(
        len(targets), len(tokenizer), generator=torch.Generator().manual_seed(seed)
    )
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = sorted(special - {tokenizer.eos_token_id})
    logits[:, special] = -20.0
    logits[torch.arange(len(targets)), torch.from_numpy(targets)] += 6.0
    kept, ids = logits.log_softmax(-1).topk(5)
    tail = (1 - kept.exp().sum(-1)).clamp(min=0)
    return TopK(target_ids=targets, token_ids=ids.numpy(), logprobs=kept.numpy(), tail=tail.numpy())


def signals_of(
    traces: list[Trace], seed: int, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    (one,) = traces
    rng = np.random.default_rng(seed)
    topk = topk_of(one.token_ids, seed, tokenizer)
    states = rng.standard_normal((len(one.token_ids), TEACHER_WIDTH)).astype(np.float32)
    return {"trace": one, "topk": topk, "sampled": drawn_of(topk), "states": states}


def write(
    root: Path, tokenizer: PreTrainedTokenizerFast, signals: dict[str, dict[str, Any]]
) -> Tape:
    """A tape of a textual teacher with this tokenizer; its lens is its top-k."""
    info = GroupInfo(
        group="textual",
        kind="textual",
        signals={
            "trace": {},
            "topk": {"k": 5},
            "sampled": {"num_draws": DRAWS},
            "lens": {"layers": [4], "k": 5},
            "hidden": {"layers": [4], "width": TEACHER_WIDTH},
        },
        identity={
            "tokenizer_digest": tokenizer_digest(tokenizer),
            "num_layers": 4,
            "width": TEACHER_WIDTH,
            "stop_ids": [tokenizer.eos_token_id],
        },
        notes={"model": "some-teacher"},
    )
    with TapeWriter(root, GroupInfo(group="samples", kind="samples")) as writer:
        for name in signals:
            item = sample(int(name[1:]))
            assert item.audio is not None
            writer.add(sample_rows(item, "0", len(item.audio)))
    with TapeWriter(root, info, storage=Storage(states_dtype="float32")) as writer:
        for name, each in signals.items():
            topk: TopK = each["topk"]
            lens = Lens(
                target_ids=topk.target_ids,
                layers=(4,),
                token_ids=topk.token_ids[:, None],
                logprobs=topk.logprobs[:, None],
                tail=topk.tail[:, None],
            )
            rows = {
                "trace": [trace_row(name, 0, each["trace"])],
                "topk": [topk_row(name, 0, topk)],
                "lens": [lens_row(name, 0, lens)],
                "sampled": [sampled_row(name, 0, each["sampled"])],
            }
            place = hidden_row(name, 0, "token", (0, 0), topk.target_ids, None)
            writer.add(rows, [(place, {4: each["states"]})])
    return open_tape(root)


def renumbered(
    signals: dict[str, dict[str, Any]], old: PreTrainedTokenizerFast, new: PreTrainedTokenizerFast
) -> dict[str, dict[str, Any]]:
    """The same signals in the ids of a tokenizer with the same words under other numbers."""
    ids = np.array(new.convert_tokens_to_ids(old.convert_ids_to_tokens(list(range(len(old))))))
    found = {}
    for name, each in signals.items():
        topk: TopK = each["topk"]
        targets = ids[topk.target_ids]
        moved = replace(topk, target_ids=targets, token_ids=ids[topk.token_ids])
        found[name] = {
            **each,
            "trace": replace(each["trace"], token_ids=targets),
            "topk": moved,
            "sampled": drawn_of(moved),
        }
    return found


def batch_of(
    tape: Tape, lm: AudioLM, translation: Translation | None, sections: dict[str, Any]
) -> tuple[Objective, TrainBatch]:
    terms = resolve_terms(TermsRecipe.from_values(sections, "recipe.terms"), tape, 2)
    examples, left_out = scan(tape, lm, DataRecipe(), (), translation)
    assert not left_out
    needs = resolve_needs(lm, tape, terms, examples, translation)
    torch.manual_seed(0)
    objective = Objective(lm.model, terms, lm.width, 16)
    buffer = HostBuffer()
    with Readers() as readers:
        share = Share(tape=tape, needs=needs, rows=[(name, 0) for name in NAMES[:4]])
        (batch,) = load_batches(lm, [share], buffer, readers)
        buffer.wait()
    return objective, batch
