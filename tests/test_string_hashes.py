"""Whatever must be the same in every process does not come from Python's hash of strings.

``hash()`` of a string or of bytes differs from one process to the next, and so does the order of a
set of them; runs are continued, and divided among machines, by other processes. Hence values are
written down here, as digests: a change of one of them lets runs of before go on otherwise.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from audio_models.drawing import draws_of
from cache_schema.codecs.pcm import audio_sha256
from cache_schema.fingerprint import fingerprint
from pipeline.step import seed_of
from train.data import Example
from train.heldout import is_held_out
from train.steps.mixing import epoch_rows
from train.steps.order import plan_epoch
from train.tasks_recipe import MixRecipe

NAMES = [f"sample-{number}" for number in range(40)]
ROWS = [Example(sample_id=name, trace_index=0, num_tokens=9 + len(name)) for name in NAMES]
MIX = MixRecipe(by="temperature", temperature=2.0)
FOUND = {
    "seeds of traces and draws": [seed_of(7, name) for name in NAMES],
    "numbers that draw answers": draws_of(7, NAMES, 2).tolist(),
    "identity of a maker": fingerprint({"model": "m", "layers": [1, 2]}),
    "identity of a recording": audio_sha256(np.ones(9, np.float32)),
    "held out": [is_held_out(name, 0.3) for name in NAMES],
    "order of an epoch": [[row.sample_id for row in s] for s in plan_epoch(ROWS, 64, 7, 1)],
    "rows of a mixture": [
        row.sample_id for row in epoch_rows([ROWS[:9], ROWS[9:]], [1.0, 1.0], MIX, 7, 1)
    ],
}
DIGESTS = {
    "seeds of traces and draws": "48aa93cbecfd7148",
    "numbers that draw answers": "c6d83be8327d9e90",
    "identity of a maker": "540c4232ecef0b22",
    "identity of a recording": "299f816464f75e54",
    "held out": "448b06905fe88bdc",
    "order of an epoch": "aac344f730b0534f",
    "rows of a mixture": "db329bc8428c9c81",
}


@pytest.mark.parametrize("what", FOUND)
def test_processes_agree(what: str) -> None:
    assert hashlib.sha256(json.dumps(FOUND[what]).encode()).hexdigest()[:16] == DIGESTS[what]
