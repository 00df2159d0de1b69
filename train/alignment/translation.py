"""A textual teacher's tokens for a student with another tokenizer.

The student is trained on the trace's text in its own tokens. Where one of its tokens begins at the
byte at which one of the teacher's does, both models have read the same text, and what the teacher
said of the next token is compared: of words both have, by their bytes; the mass of all others is in
the tail. Elsewhere the teacher says nothing, and its terms count fewer positions.

Shapes: T tokens of the teacher, S of the student, P places where they meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from audio_models.load import AudioLM
from cache_schema import Tape
from cache_schema.commands.console import say
from cache_schema.errors import TokenizerMismatchError, first_line
from cache_schema.fingerprint import tokenizer_digest
from cache_schema.types import TEXT_SOURCE, FloatArray, IntArray, Sampled, TopK, Trace
from train.alignment.spans import meeting, starts_of
from train.alignment.words import NO_ID, bytes_of_tokens, map_vocabulary


@dataclass(frozen=True, kw_only=True)
class Translated:
    """One trace.

    Attributes:
        target_ids: int64 [S], its text in the student's tokens, a stop token where it ended.
        theirs: int64 [P], the teacher's tokens that begin where one of the student's does.
        ours: int64 [P], those of the student, ascending.
    """

    target_ids: IntArray
    theirs: IntArray
    ours: IntArray


@dataclass(frozen=True, kw_only=True)
class Translation:
    """Two tokenizers.

    Attributes:
        teacher: bytes of the teacher's tokens.
        student: bytes of the student's tokens.
        ids: int64 [teacher's ids], the student's id of each, ``NO_ID`` for none.
        tokenizer: the student's.
        stop_id: what ends the student's turn.
    """

    teacher: list[bytes | None]
    student: list[bytes | None]
    ids: IntArray
    tokenizer: Any
    stop_id: int

    def trace(self, trace: Trace) -> Translated | None:
        """Return a trace in the student's tokens; ``None`` if its tokens are not its text."""
        ids = self.tokenizer(trace.text, add_special_tokens=False)["input_ids"]
        stop = [self.stop_id] if trace.finish_reason == "stop" else []
        own = np.asarray([*ids, *stop], dtype=np.int64)
        theirs = starts_of(self.teacher, trace.token_ids, trace.text)
        ours = starts_of(self.student, own, trace.text)
        if theirs is None or ours is None:
            return None
        at_theirs, at_ours = meeting(theirs, ours)
        return Translated(target_ids=own, theirs=at_theirs, ours=at_ours)

    def topk(self, topk: TopK, where: Translated) -> TopK:
        """Return what the teacher said in the student's ids; elsewhere all mass is in the tail."""
        shape = (len(where.target_ids), topk.token_ids.shape[1])
        ids = self._of(topk.token_ids[where.theirs])
        ids, logprobs = _each_once(ids, topk.logprobs[where.theirs], self.stop_id)
        kept = (ids != NO_ID) & ~np.isneginf(logprobs)
        lost = np.where(kept, 0.0, np.exp(logprobs.astype(np.float64))).sum(axis=1)
        token_ids = np.full(shape, NO_ID, dtype=np.int64)
        token_ids[where.ours] = np.where(kept, ids, NO_ID)
        all_logprobs = np.full(shape, -np.inf, dtype=np.float32)
        all_logprobs[where.ours] = np.where(kept, logprobs, -np.inf)
        tail = np.ones(shape[0], dtype=np.float32)
        tail[where.ours] = topk.tail[where.theirs] + lost
        return TopK(
            target_ids=where.target_ids, token_ids=token_ids, logprobs=all_logprobs, tail=tail
        )

    def sampled(self, drawn: Sampled, where: Translated) -> Sampled:
        """Return the drawn tokens in the student's ids; those it lacks are ``NO_ID``."""
        widths = np.zeros(len(where.target_ids), dtype=np.int64)
        widths[where.ours] = np.diff(drawn.offsets)[where.theirs]
        spans = [(drawn.offsets[t], drawn.offsets[t + 1]) for t in where.theirs.tolist()]
        entries = [np.arange(first, end) for first, end in spans]
        chosen = np.concatenate(entries) if entries else np.empty(0, dtype=np.int64)
        return Sampled(
            target_ids=where.target_ids,
            token_ids=self._of(drawn.token_ids[chosen]),
            counts=drawn.counts[chosen],
            offsets=np.append(0, np.cumsum(widths)),
            num_draws=drawn.num_draws,
        )

    def _of(self, token_ids: IntArray) -> IntArray:
        """Return the student's ids; rows of a vocabulary's padding are nobody's."""
        inside = token_ids < len(self.ids)
        found: IntArray = np.where(inside, self.ids[np.where(inside, token_ids, 0)], NO_ID)
        return found


def _each_once(ids: IntArray, logprobs: FloatArray, stop_id: int) -> tuple[IntArray, FloatArray]:
    """Return kept tokens with the stop token named once a position, with the mass of all of them.

    A teacher may have several ids that end a turn, and the student's stop token stands for each.
    Named twice, its logit would be in the student's sum over the vocabulary twice.
    """
    stops = ids == stop_id
    several = stops.sum(axis=1) > 1
    if not several.any():
        return ids, logprobs
    mass = np.where(stops, np.exp(logprobs.astype(np.float64)), 0.0).sum(axis=1)
    first = stops & (np.cumsum(stops, axis=1) == 1)
    others = stops & ~first & several[:, None]
    with np.errstate(divide="ignore"):  # -inf where they have no mass
        whole = np.log(mass)[:, None].astype(np.float32)
    merged = np.where(first & several[:, None], whole, logprobs)
    return np.where(others, NO_ID, ids), np.where(others, -np.inf, merged).astype(np.float32)


def load_translation(lm: AudioLM, tape: Tape, tokenizer: str) -> Translation | None:
    """Return how the textual teacher's tokens become the student's; ``None`` where they are.

    Args:
        lm: the student.
        tape: made by the teacher.
        tokenizer: directory or hub id of the teacher's tokenizer; empty for none.

    Raises:
        TokenizerMismatchError: it is not the one the tape was made with, or its tokens cannot be
            read as bytes.
    """
    if not tokenizer:
        return None
    source = tape.sources[TEXT_SOURCE]
    if source.get("tokenizer_digest") == tokenizer_digest(lm.tokenizer):
        say("data.teacher_tokenizer is not needed: the student has the teacher's tokenizer")
        return None
    try:
        theirs: Any = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError, KeyError) as error:
        raise TokenizerMismatchError(
            f"data.teacher_tokenizer={tokenizer!r}: no usable tokenizer; give the textual "
            f"teacher's directory or hub id ({first_line(error)})"
        ) from error
    if tokenizer_digest(theirs) != source.get("tokenizer_digest"):
        raise TokenizerMismatchError(
            f"data.teacher_tokenizer={tokenizer!r}: not the tokenizer {tape.location} was made "
            f"with (that of {source.get('model', 'its textual teacher')!r})"
        )
    stop_id = int(lm.tokenizer.eos_token_id)
    stops = {int(index): stop_id for index in source.get("stop_ids", [theirs.eos_token_id])}
    teacher = bytes_of_tokens(theirs, "the textual teacher")
    student = bytes_of_tokens(lm.tokenizer, "the student")
    ids = map_vocabulary(teacher, student, stops)
    known = int((ids != NO_ID).sum())
    say(f"tokens are translated: {known:,} of the teacher's {len(ids):,} are words of the student")
    return Translation(
        teacher=teacher, student=student, ids=ids, tokenizer=lm.tokenizer, stop_id=stop_id
    )
