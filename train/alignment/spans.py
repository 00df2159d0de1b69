"""Where the tokens of two tokenizers meet in one text.

Both models have read the same text before a place at which both begin a token; there, and only
there, their next-token distributions and their states are about the same thing.

Shapes: T tokens of the teacher, S of the student, P places where they meet.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cache_schema.types import IntArray


def starts_of(words: Sequence[bytes | None], ids: IntArray, text: str) -> IntArray | None:
    """Return the byte of the text at which each token begins, int64 [T].

    A token without bytes (a special one: it ends a turn) begins where it stands and takes none.

    Args:
        words: bytes of the tokenizer's tokens, of ``train.alignment.words``.
        ids: int64 [T].
        text: what they were decoded to.

    Returns:
        ``None`` if the tokens are not the text: a special token written out in it, an id beyond the
        vocabulary.
    """
    if len(ids) and int(ids.max()) >= len(words):
        return None
    parts = [words[index] or b"" for index in ids.tolist()]
    said, written = b"".join(parts), text.encode()
    starts = np.cumsum([0, *map(len, parts)])[:-1].astype(np.int64)
    if said == written or _cut_alike(said, written):
        return starts
    if said[:1] == b" " and (said[1:] == written or _cut_alike(said[1:], written)):
        return np.maximum(starts - 1, 0)  # decoding drops the space SentencePiece begins with
    return None


def _cut_alike(said: bytes, written: bytes) -> bool:
    """Whether they differ only in a last character of which a cut trace has some bytes."""
    unknown = "\N{REPLACEMENT CHARACTER}".encode()
    whole = written.removesuffix(unknown)
    return whole != written and said.startswith(whole) and len(said) - len(whole) < 4


def meeting(teacher_starts: IntArray, student_starts: IntArray) -> tuple[IntArray, IntArray]:
    """Return the tokens that begin at the same byte: the teacher's and the student's, int64 [P].

    Where several tokens of one side begin at a byte, all but the last have no bytes of their own
    and the last one counts. The tokens that end the turn meet where the text ends.
    """
    common = np.intersect1d(teacher_starts, student_starts)
    theirs = np.searchsorted(teacher_starts, common, side="right") - 1
    ours = np.searchsorted(student_starts, common, side="right") - 1
    return theirs, ours
