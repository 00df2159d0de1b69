"""Answers on held-out samples while a student trains: generated greedily, judged by the tape's.

Every process answers its share of the samples, and all get the same figures. No random number is
drawn, so a run takes the same steps with and without it.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import torch

from audio_models.generate import Decoding
from cache_schema import TapeRow
from cache_schema.answers.questions import is_correct
from cache_schema.errors import UsageError
from train.evaluate.generate import Generator
from train.evaluate.types import Item
from train.parts import Run
from train.steps.stages import Stage


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the student answered.

    Attributes:
        accuracy: share of right answers, a missing one being wrong.
        no_answer: share of responses without an answer, or that could not be made.
        count: samples asked.
        spent_s: how long it took.
    """

    accuracy: float
    no_answer: float
    count: int
    spent_s: float


def check_answers(run: Run) -> None:
    """Refuse to answer where it cannot be done, before anything is trained.

    Raises:
        UsageError: the student is in shards, or no held-out sample has an answer.
    """
    wanted = run.recipe.eval.generate
    if wanted and run.shards:
        raise UsageError(
            "eval.generate: a student in shards cannot answer while it trains, for each token "
            "would gather all of it; set eval.generate=0 and use train evaluate on its checkpoints"
        )
    if wanted and not any(_asked(run, stage) for stage in run.stages):
        raise UsageError(
            "eval.generate: no held-out sample that is heard has a right answer to compare with; "
            "raise eval.fraction, or set eval.generate=0"
        )


def answer_held_out(run: Run, micro_tokens: int, step: int) -> Answers | None:
    """Return how the student answers, on every process alike; ``None`` if there is nothing to ask.

    Args:
        run: what is trained.
        micro_tokens: tokens of prompts and responses of one batch, padding included.
        step: steps done.

    Raises:
        ModelError: a single sample does not fit the memory.
    """
    began_s = time.perf_counter()
    asked = _asked(run, run.stage_of(step))
    if not asked:
        return None
    accelerator, evaluation = run.accelerator, run.recipe.eval
    mine = asked[accelerator.process_index :: accelerator.num_processes]
    decoding = Decoding(max_new_tokens=evaluation.max_new_tokens)
    run.unwrapped.eval()
    with accelerator.autocast():
        generator = Generator(run.lm, decoding, batch_tokens=micro_tokens)
        made = [response for batch in generator.answer(mine) for response in batch]
    run.unwrapped.train()
    expected = {item.sample_id: item for item, _ in mine}
    right = without = 0
    for response in made:
        item = expected[response.sample_id]
        right += is_correct(response.answer, item.answer, item.choices) is True
        without += not response.answer
    sums = torch.tensor([right, without], dtype=torch.float64, device=accelerator.device)
    right, without = accelerator.reduce(sums).tolist()
    return Answers(
        accuracy=right / len(asked),
        no_answer=without / len(asked),
        count=len(asked),
        spent_s=time.perf_counter() - began_s,
    )


def _asked(run: Run, stage: Stage) -> list[tuple[Item, TapeRow]]:
    """Return the first held-out samples by the hash of their ids, of those that have an answer.

    The same ones in every process, evaluation and run, whatever else is on the tape.
    """
    samples = {
        (example.task, example.sample_id): stage.tasks[example.task].tape
        for example in stage.held_out
        if stage.tasks[example.task].needs.reads == "audio"
    }
    asked: dict[str, tuple[Item, TapeRow]] = {}
    for (_, sample_id), tape in sorted(samples.items(), key=lambda pair: _order(pair[0][1])):
        row = tape[sample_id]
        # of a sample that two tasks have, one is enough: it is asked the same
        if row.answer and sample_id not in asked and len(asked) < run.recipe.eval.generate:
            asked[sample_id] = (
                Item(
                    sample_id=sample_id,
                    question=row.question,
                    choices=row.choices,
                    answer=row.answer,
                ),
                row,
            )
    return list(asked.values())


def _order(sample_id: str) -> bytes:
    return hashlib.sha256(sample_id.encode("utf-8", "surrogatepass")).digest()
