"""What a run reads from the tape, and which rows have all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from audio_models.load import AudioLM
from cache_schema import Tape
from cache_schema.errors import TapeError
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import TEXT_SOURCE
from train.alignment.token_ids import align_tokenizers
from train.alignment.translation import Translation
from train.batch.build import Needs
from train.data import Example
from train.terms.resolve import Term, lens_read, recordings_read, sources_read, states_read


def signals_read(terms: tuple[Term, ...], reads: str = "audio") -> Needs:
    """Return what batches read for these terms."""
    return Needs(
        terms=tuple(term.name for term in terms),
        reads=reads,
        topk=sources_read(terms, "topk"),
        sampled=sources_read(terms, "sampled"),
        lens=lens_read(terms),
        states=states_read(terms),
        recordings=recordings_read(terms),
    )


def resolve_needs(
    lm: AudioLM,
    tape: Tape,
    terms: tuple[Term, ...],
    examples: list[Example],
    translation: Translation | None = None,
    reads: str = "audio",
) -> Needs:
    """Return what batches read, after checking that token ids mean the same to the student.

    With a translation the traces are written in its ids anyway; without a trace there are none.

    Raises:
        TokenizerMismatchError: they do not.
    """
    wanted = signals_read(terms, reads)
    if not any(term.spec.needs_trace for term in terms):
        return wanted
    if translation is not None:
        own = dict.fromkeys(wanted.of_tokens, lambda ids: ids < lm.vocab_size)
        return replace(wanted, known=own, translation=translation)
    known = {
        source: align_tokenizers(lm, tape, source, examples).known
        for source in dict.fromkeys([TEXT_SOURCE, *wanted.of_tokens])
    }
    return replace(wanted, known=known)


def with_every_signal(
    tape: Tape, examples: Sequence[Example], terms: tuple[Term, ...]
) -> tuple[list[Example], Counter[str]]:
    """Return the rows of which everything the terms read is recorded; how many are not, by reason.

    A sample may have a signal for one of its traces and not for another, or states at audio
    positions and none at its response.

    Raises:
        TapeError: nothing is left.
    """
    wanted = signals_read(terms).rows
    kept: list[Example] = []
    left_out: Counter[str] = Counter()
    for example in examples:
        row = tape[example.sample_id]
        missing = [
            f"no {name} of the {'trace' if of_trace else 'recording'}"
            for name, of_trace in wanted
            if (example.trace_index if of_trace else AUDIO_ROW) not in row.traces_of(name)
        ]
        if missing:
            left_out[missing[0]] += 1
        else:
            kept.append(example)
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise TapeError(f"{tape.location}: no row to train on ({reasons})")
    return kept, left_out
