"""What an acoustic teacher is read on: the responses of each sample, and who has some."""

from __future__ import annotations

from typing import Any

import numpy as np

from cache_schema import Tape, TapeRow
from cache_schema.commands.console import say
from cache_schema.errors import TapeError
from cache_schema.types import TEXT_SOURCE, IntArray, Trace
from pipeline.recipe import ExtractRecipe
from pipeline.step import Pending

ORIGINS = {
    "trace ids": "the textual traces, token by token (the tokenizer is the same)",
    "trace text": "the text of the textual traces (the tokenizer is another)",
    "answers": "the dataset's answers (the tape has no traces)",
    "none": "no response (there are neither traces nor answers, or no top-k is kept): states only",
}
"""Where the responses may come from, in the words of ``group_info`` -> in people's."""

TRUNCATED = "length"
"""``finish_reason`` of a trace that was cut."""


class Responses:
    """The responses the acoustic teacher is read on: the textual traces, else the answers.

    ``origin`` says which, a key of ``ORIGINS``; ``none`` where they are not ``wanted``.
    """

    def __init__(
        self, tape: Tape, tokenizer: Any, tokenizer_digest: str, *, wanted: bool = True
    ) -> None:
        self._tokenizer = tokenizer
        self.wanted = wanted
        if not wanted:
            self.origin = "none"
            return
        textual = tape.sources.get(TEXT_SOURCE)
        if textual is not None and "trace" in textual["signals"]:  # an encoder writes none
            same = textual.get("tokenizer_digest") == tokenizer_digest
            self.origin = "trace ids" if same else "trace text"
        else:
            self.origin = "answers" if any(row.answer for row in tape) else "none"

    def ready(
        self, rows: Pending, tape: Tape, with_states: bool, *, quiet: bool = False
    ) -> Pending:
        """Leave out, counted aloud, rows that wait for traces and rows with nothing to record.

        Args:
            rows: what is not recorded yet.
            tape: the tape they are of.
            with_states: whether states are recorded, which every sample has.
            quiet: do not say it, it was said before.
        """
        if self.origin.startswith("trace"):
            traced = tape.recorded_mask(TEXT_SOURCE)
            settled = rows.among(traced | tape.quarantined_mask("descriptions", TEXT_SOURCE))
            waiting = len(rows) - len(settled)
            if waiting and not quiet:
                say(f"acoustic: {waiting} samples wait for their traces (run the textual step)")
            rows = settled
        return rows if with_states else self._with_a_response(rows, tape, quiet)

    def _with_a_response(self, rows: Pending, tape: Tape, quiet: bool) -> Pending:
        """Without states, a sample whose responses are empty leaves nothing to record."""
        found = rows
        if self.origin.startswith("trace"):
            found = found.among(tape.recorded_mask(TEXT_SOURCE, "trace"))
        marks = np.zeros(len(tape), dtype=bool)
        for number, row in zip(found.numbers.tolist(), found, strict=True):
            marks[number] = any(len(response) for response in self.of(row))
        found = found.among(marks)
        if len(found) < len(rows) and not quiet:
            say(
                f"acoustic: {len(rows) - len(found)} samples have no response, and without layers "
                "nothing to record; they are left out"
            )
        return found

    def of(self, row: TapeRow) -> list[IntArray]:
        """Return the responses of one sample in this teacher's ids; at least one, maybe empty."""
        if self.origin == "trace ids":
            return [trace.token_ids for trace in row.traces] or [self._encode("")]
        if self.origin == "trace text":
            return [self._of_trace(trace) for trace in row.traces] or [self._encode("")]
        return [self._encode(row.answer if self.origin == "answers" else "")]

    def _of_trace(self, trace: Trace) -> IntArray:
        """A trace that was cut did not stop where its text ends."""
        return self._encode(trace.text, ended=trace.finish_reason != TRUNCATED)

    def _encode(self, text: str, ended: bool = True) -> IntArray:
        if not text:
            return np.empty(0, dtype=np.int64)
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        stop = self._tokenizer.eos_token_id
        ends = [stop] if ended and stop is not None else []
        return np.asarray([*ids, *ends], dtype=np.int64)


def check_origin(recipe: ExtractRecipe, tape: Tape) -> None:
    """Refuse to record on answers where the recipe names a textual teacher that has yet to run.

    A group keeps to the responses it began with, so a later run could not turn to the traces.

    Raises:
        TapeError: the textual group is not there.
    """
    if recipe.textual.teacher and TEXT_SOURCE not in tape.groups:
        raise TapeError(
            f"{recipe.tape.out}: --text-teacher is given, but there are no textual signals yet; "
            "run the textual step first, or leave --text-teacher out to read the acoustic teacher "
            "on the answers"
        )
