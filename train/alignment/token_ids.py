"""Whether the token ids on a tape mean the same to the student.

Equal tokenizer digests: they do. Otherwise the student's tokenizer must read every trace's ids as
the trace's text (special tokens are part of it, but for those that begin, end or pad a text) and
end each finished trace with a stop token of its own; kept tokens whose id is
beyond its vocabulary, or one of its special tokens (which may mean something else to the teacher),
go to the tail bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np

from audio_models.generate import stop_token_ids
from audio_models.load import AudioLM
from cache_schema import Tape
from cache_schema.errors import TokenizerMismatchError
from cache_schema.fingerprint import tokenizer_digest
from cache_schema.types import IntArray, Trace
from train.alignment.words import special_ids
from train.data import Example

_REMEDY = (
    "Train a student that shares the textual teacher's tokenizer, extract with a teacher that "
    "shares the student's, or give the teacher's tokenizer, so that tokens are translated: "
    "--set data.teacher_tokenizer=M"
)


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How a teacher's ids become the student's.

    Attributes:
        num_ids: ids from here on are not the student's (rows of its unembedding).
        foreign_ids: int64, ascending, ids below that which cannot be trusted to mean the same.
    """

    num_ids: int
    foreign_ids: IntArray

    def known(self, token_ids: IntArray) -> Any:
        """Return a boolean mask: which ids mean the same to the student."""
        return (token_ids < self.num_ids) & ~np.isin(token_ids, self.foreign_ids)


def align_tokenizers(
    lm: AudioLM, tape: Tape, source: str, examples: Sequence[Example]
) -> Alignment:
    """Check that the student reads a source's token ids as its teacher did.

    Args:
        lm: the student.
        tape: the tape.
        source: which teacher's ids.
        examples: the traces that will be trained on.

    Raises:
        TokenizerMismatchError: naming the first id that differs and both strings.
    """
    recorded = tape.sources[source].get("tokenizer_digest")
    if recorded == tokenizer_digest(lm.tokenizer):
        return Alignment(num_ids=lm.vocab_size, foreign_ids=np.empty(0, dtype=np.int64))
    stops = stop_token_ids(lm)
    for example in examples:
        trace = tape[example.sample_id].traces[example.trace_index]
        _check_trace(lm, trace, stops, example.sample_id)
    foreign = sorted(special_ids(lm.tokenizer) - set(stops))
    return Alignment(num_ids=len(lm.tokenizer), foreign_ids=np.asarray(foreign, dtype=np.int64))


def _check_trace(lm: AudioLM, trace: Trace, stops: Sequence[int], sample_id: str) -> None:
    ids = [int(index) for index in trace.token_ids]
    beyond = [index for index in ids if index >= len(lm.tokenizer)]
    if beyond:
        raise TokenizerMismatchError(
            f"sample {sample_id!r}: the trace has token id {beyond[0]}, and the student's "
            f"tokenizer ends at {len(lm.tokenizer) - 1}. {_REMEDY}"
        )
    unsaid = {*stops, lm.tokenizer.pad_token_id, lm.tokenizer.bos_token_id}
    if trace.finish_reason == "stop":
        unsaid |= {*ids[-1:]}  # it ended the teacher's turn, whatever it is to the student
    if _text_of(lm, ids, unsaid) != trace.text:
        index, theirs, ours = _first_difference(lm, ids, trace.text, unsaid)
        raise TokenizerMismatchError(
            f"sample {sample_id!r}: token {index} of the trace has id {ids[index]}; the teacher's "
            f"text goes on with {theirs!r}, the student's tokenizer reads {ours!r}. {_REMEDY}"
        )
    if trace.finish_reason == "stop" and ids and ids[-1] not in stops:
        raise TokenizerMismatchError(
            f"sample {sample_id!r}: the trace ends with id {ids[-1]}, which is "
            f"{lm.tokenizer.convert_ids_to_tokens(ids[-1])!r} to the student, whose turns end with "
            f"{lm.tokenizer.convert_ids_to_tokens(list(stops))}. {_REMEDY}"
        )


def _text_of(lm: AudioLM, ids: Sequence[int], unsaid: AbstractSet[int | None]) -> str:
    """Return the text of a trace, as textual teachers record it."""
    said = [index for index in ids if index not in unsaid]
    return str(lm.tokenizer.decode(said, skip_special_tokens=False))


def _first_difference(
    lm: AudioLM, ids: Sequence[int], text: str, unsaid: AbstractSet[int | None]
) -> tuple[int, str, str]:
    """Return (token index, the teacher's text from there, the student's token)."""
    read = ""
    for index in range(len(ids)):
        longer = _text_of(lm, ids[: index + 1], unsaid)
        # an incomplete character decodes to U+FFFD until its last byte is there
        if not text.startswith(longer.rstrip("\N{REPLACEMENT CHARACTER}")):
            token = lm.tokenizer.convert_ids_to_tokens(ids[index])
            return index, text[len(read) : len(read) + len(longer) - len(read) + 8], str(token)
        read = longer
    return len(ids) - 1, text[len(read) :], ""
