"""Which samples the acoustic teacher is read on, and on which responses."""

from __future__ import annotations

from pathlib import Path

import full_tape
import numpy as np

from cache_schema import open_tape
from pipeline.acoustic import Responses
from pipeline.step import Pending


def test_a_sample_without_a_kept_trace_has_its_states_and_nothing_else(tmp_path: Path) -> None:
    tape = open_tape(full_tape.make(tmp_path, groups=("samples", "descriptions", "textual")))
    responses = Responses(tape, None, "another tokenizer")
    assert responses.origin == "trace text"
    rows = Pending(tape, np.arange(len(tape)))
    with_states = responses.ready(rows, tape, with_states=True)
    assert [row.sample_id for row in with_states] == ["s0", "s1", "s2", "s3", "s4"]
    # Without layers it would be pending for ever.
    without = responses.ready(rows, tape, with_states=False)
    assert [row.sample_id for row in without] == ["s0", "s1", "s2", "s3"]
    assert [len(ids) for ids in responses.of(tape["s4"])] == [0]
