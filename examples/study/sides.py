"""Questions beside the table, answered from further tapes of the same seed.

How many kept log-probabilities are enough, or are drawn tokens? With all of the vocabulary kept,
training is what it is with the teacher in memory (equal to 1e-9: ``tests/benchmarks/
offline_gap.py``), so that row is "online". What do lossy states cost? And a teacher that writes in
other tokens than the student's?
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
    """

    name: str
    title: str
    like: str = "top"
    flags: tuple[str, ...] = ()
    recipe: str = ""
    settings: tuple[str, ...] = ()
    signals: tuple[str, ...] = ("textual/topk",)
    other_teacher: bool = False


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
    folder = one / f"tape-{side.name}"
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


def _same_traces(main: Path, other: Path) -> int:
    """Return how many of a tape's traces are, token by token, those of the study's."""
    first, second = open_tape(str(main)), open_tape(str(other))
    return sum(
        np.array_equal(ours.token_ids, theirs.token_ids)
        for name in second.sample_ids
        for ours, theirs in zip(first[name].traces, second[name].traces, strict=True)
    )
