"""How large everything is: ``small`` is the study, ``tiny`` shows that every step runs."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Size:
    """Numbers that decide what a run costs.

    Attributes:
        teacher_width: of the textual teacher, a multiple of 4.
        teacher_layers: its blocks.
        teacher_texts: texts it learns from.
        teacher_steps: steps it learns in.
        student_layers: blocks of the student's language model.
        hearing_clips: clips the base model learns to hear from.
        tower_steps: steps of its audio tower alone.
        hearing_steps: steps of the whole of it, hearing and reading in turn.
        base_texts: texts it reads.
        train_rows: rows on the tape.
        test_rows: reasoning rows of the test, for the seen and for the unseen voices each.
        hearing_rows: hearing rows of the test, for the seen voices.
        dev_rows: reasoning rows for the choice of settings, and as many that hear.
        epochs: passes over the tape.
        batch_tokens: of one step.
        learning_rate: of the student, the same for every variant.
        acoustic_weight: of the acoustic states where it is not the recipe's 0.05.
        layer_step: n of "1 layer in n".
        checkpoint_every: steps from one evaluation to the next, on the way.
        max_new_tokens: longest answer.
        engine: that runs the textual teacher.
        wrong_traces: whether wrong and cut traces are trained on too: an untrained teacher has no
            others.
    """

    teacher_width: int
    teacher_layers: int
    teacher_texts: int
    teacher_steps: int
    student_layers: int
    hearing_clips: int
    tower_steps: int
    hearing_steps: int
    base_texts: int
    train_rows: int
    test_rows: int
    hearing_rows: int
    dev_rows: int
    epochs: int
    batch_tokens: int
    learning_rate: float
    acoustic_weight: float
    layer_step: int
    checkpoint_every: int
    max_new_tokens: int
    engine: str
    wrong_traces: bool


SIZES = {
    "small": Size(
        teacher_width=128,
        teacher_layers=4,
        teacher_texts=24_000,
        teacher_steps=600,
        student_layers=4,
        hearing_clips=4000,
        tower_steps=500,
        hearing_steps=700,
        base_texts=3000,
        train_rows=540,
        test_rows=300,
        hearing_rows=240,
        dev_rows=150,
        epochs=4,
        batch_tokens=1600,
        learning_rate=3e-4,
        acoustic_weight=5.0,
        layer_step=2,
        checkpoint_every=50,
        max_new_tokens=96,
        engine="vllm",
        wrong_traces=False,
    ),
    "tiny": Size(
        teacher_width=64,
        teacher_layers=2,
        teacher_texts=48,
        teacher_steps=2,
        student_layers=2,
        hearing_clips=24,
        tower_steps=2,
        hearing_steps=2,
        base_texts=24,
        train_rows=12,
        test_rows=6,
        hearing_rows=6,
        dev_rows=6,
        epochs=1,
        batch_tokens=600,
        learning_rate=1e-3,
        acoustic_weight=5.0,
        layer_step=2,
        checkpoint_every=2,
        max_new_tokens=8,
        engine="transformers",
        wrong_traces=True,
    ),
}


def of_seed(folder: Path) -> Size:
    """Return the size that a seed's folder was made with."""
    identity = json.loads((folder / "study.json").read_text())
    given = {field.name for field in dataclasses.fields(Size)} & identity.keys()
    return dataclasses.replace(SIZES[identity["size"]], **{key: identity[key] for key in given})
