"""Questions beside the table, answered from further tapes of the same seed.

How many kept log-probabilities are enough, or are drawn tokens? With all of the vocabulary kept,
training is what it is with the teacher in memory (equal to 1e-9: ``tests/benchmarks/
offline_gap.py``), so that row is "online". What do lossy states cost? A teacher that writes in
other tokens than the student's? And do the logits add something where the teacher is not sure?
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from cache_schema import open_tape
from examples.quickstart import tokens
from examples.study import models, rows, seed
from examples.study.seed import Seed
from examples.study.stage_one import about, both_teachers, extract_words, train_teacher
from examples.study.stage_two import train_and_measure
from examples.study.variants import Variant, variants

OTHER_VOCABULARY = 380
"""Merged tokens of the other teacher's tokenizer; the student's has 480."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One row beside the table.

    Attributes:
        name: of its folders.
        title: in its table.
        like: the variant of the table that it is compared with, and otherwise trained as.
        flags: of ``pipeline extract-teachers``, where its tape differs from the study's.
        recipe: that it is trained with, if not ``like``'s.
        settings: of that recipe.
        signals: of its tape, beside the traces, that it reads.
        other_teacher: whether its textual teacher has a tokenizer of its own.
        doubts: whether its textual teacher was trained for a quarter of the steps only.
        tape: the row whose tape it is trained from, if it has none of its own.
        over: what it is compared with, if not ``like``.
    """

    name: str
    title: str
    like: str = "top"
    flags: tuple[str, ...] = ()
    recipe: str = ""
    settings: tuple[str, ...] = ()
    signals: tuple[str, ...] = ("textual/topk",)
    other_teacher: bool = False
    doubts: bool = False
    tape: str = ""
    over: str = ""

    @property
    def compared_with(self) -> str:
        """Name of the variant, or of the row here, that it is compared with."""
        return self.over or self.like


VOCABULARY = tokens.MERGED_VOCABULARY + len(tokens.SPECIAL) + len(tokens.TAGS)
SIDES = (
    Side(name="k8", title="top-8", flags=("--top-k", "8")),
    Side(name="k32", title="top-32", flags=("--top-k", "32")),
    Side(
        name="online",
        title=f"all {VOCABULARY} tokens: online",
        flags=("--top-k", str(VOCABULARY)),
    ),
    Side(
        name="drawn",
        title="50 drawn tokens",
        flags=("--set", "textual.draws=50"),
        recipe="sft",
        settings=("terms.ce.weight=0.5", "terms.text_sampled.weight=1"),
        signals=("textual/sampled",),
    ),
    Side(name="tokenizer", title="a teacher with other tokens", other_teacher=True),
    Side(
        name="lossy2x",
        title="states in `lossy2x`",
        like="joint",
        flags=("--profile", "lossy2x"),
        signals=("textual/topk", "textual/hidden", "acoustic/hidden"),
    ),
    Side(
        name="doubts_sft", title="a teacher with doubts: SFT", like="sft", signals=(), doubts=True
    ),
    Side(
        name="doubts",
        title="a teacher with doubts: text KD, top layer",
        tape="doubts_sft",
        over="side-doubts_sft",
    ),
)


def run_side(one: Seed, side: Side) -> dict[str, Any]:
    """Record the tape of a side question, train from it, measure."""
    like = {variant.name: variant for variant in variants(one.size)}[side.like]
    variant = Variant(
        name=f"side-{side.name}",
        title=side.title,
        recipe=side.recipe or like.recipe,
        settings=side.settings if side.recipe else like.settings,
        signals=side.signals,
    )
    teacher, found = one / "teacher", {}
    if side.other_teacher:
        teacher = one / "teacher-other"
        found = {"teacher": _train_other_teacher(one, teacher)}
        settings = (*variant.settings, f"data.teacher_tokenizer={teacher}")
        variant = dataclasses.replace(variant, settings=settings)
    if side.doubts:
        teacher = one / "teacher-doubts"
        found = {"teacher": _train_doubting_teacher(one, teacher)}
    folder = one / f"tape-{side.tape or side.name}"
    if not side.tape:
        seed.command(*extract_words(one, teacher, folder, _flags(one, side)))
    tape = {**about(folder), "same_traces": _same_traces(one / "tape", folder)}
    return {**found, "tape": tape, **train_and_measure(one, variant, folder)}


def _flags(one: Seed, side: Side) -> tuple[str, ...]:
    signals = both_teachers(one) if side.like == "joint" else ("--text-layers", "none")
    return (*signals, *side.flags)


def _train_other_teacher(one: Seed, folder: Path) -> dict[str, Any]:
    compositions = rows.split_compositions(one.seed)["train"]
    rng = np.random.default_rng([one.seed, 6])
    tokenizer = models.make_tokenizer(one.speech, compositions, rng, OTHER_VOCABULARY)
    return train_teacher(one, tokenizer, folder)


def _train_doubting_teacher(one: Seed, folder: Path) -> dict[str, Any]:
    size = dataclasses.replace(one.size, teacher_steps=max(1, one.size.teacher_steps // 4))
    tokenizer = AutoTokenizer.from_pretrained(one / "teacher")
    return train_teacher(dataclasses.replace(one, size=size), tokenizer, folder)


def _same_traces(main: Path, other: Path) -> int:
    """Return how many of a tape's traces are, token by token, those of the study's."""
    first, second = open_tape(str(main)), open_tape(str(other))
    return sum(
        np.array_equal(ours.token_ids, theirs.token_ids)
        for name in second.sample_ids
        for ours, theirs in zip(first[name].traces, second[name].traces, strict=True)
    )
