"""What each signal weighs, of the tables that ``pipeline estimate`` measures nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import full_tape
import numpy as np
import pytest
from sound_tape import targets_of

from cache_schema import open_tape
from cache_schema.writer import TapeWriter
from pipeline.costs.weigh import TableWeight, weights_of

ROWS = range(5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_tape.make(tmp_path_factory.mktemp("tape") / "tape", ROWS)


def weighed(root: Path, group: str) -> dict[str, TableWeight]:
    """Weigh a group; every byte of its files is accounted for."""
    tape = open_tape(root)
    weights = weights_of(tape, group, ROWS)
    records = [shard.record for shard in tape.shards[group]]
    for name, weight in weights.items():
        table = name.split("/")[1]
        size = sum(
            file["bytes"]
            for record in records
            for path, file in record.files.items()
            if path.split("/")[0].split(".")[0] == table
        )
        assert weight.growing.sum() + weight.once * len(records) == pytest.approx(size)
    return weights


def test_what_was_heard_weighs_by_its_words(root: Path) -> None:
    (weight,) = weighed(root, "heard_transcript").values()
    assert weight.growing.argsort().tolist()[2:] == [1, 2, 3]  # 0 and 4 are silent
    assert not weight.tokens.any()


def test_rejected_traces_weigh_where_there_are_some(root: Path) -> None:
    weights = weighed(root, "textual")
    rejected = weights["textual/rejected"].growing
    assert (rejected > 0).tolist() == [False, True, False, True, True]
    assert rejected.argmax() == 4
    assert not weights["textual/rejected"].tokens.any()
    tokens = [len(targets_of(index)) * (index != 4) for index in ROWS]
    for name in ("textual/lens", "textual/trace"):
        assert weights[name].tokens.tolist() == tokens
        assert weights[name].growing[4] == 0


def test_the_lens_of_an_acoustic_teacher_weighs_by_its_tokens(tmp_path: Path) -> None:
    root = full_tape.make(tmp_path / "tape", ROWS, groups=("samples",))
    info = full_tape.makers("hot")["acoustic"]
    alone = replace(info, signals={"lens": info.signals["lens"]})
    rng = np.random.default_rng(0)
    with TapeWriter(root, alone) as writer:
        for index in ROWS:
            lens = full_tape.lens_of(rng, targets_of(index))
            writer.add({"lens": [full_tape.lens_row(f"s{index}", 0, lens)]})
    (weight,) = weighed(root, "acoustic").values()
    assert weight.tokens.tolist() == [len(targets_of(index)) for index in ROWS]


def test_states_of_a_text_weigh_by_its_tokens(tmp_path: Path) -> None:
    root = full_tape.make(tmp_path / "tape", ROWS, groups=("samples",))
    textual = replace(full_tape.makers("hot")["encoder"], group="textual")
    with TapeWriter(root, textual) as writer:
        for index in ROWS:
            full_tape.add(writer, "encoder", index)
    (weight,) = weighed(root, "textual").values()
    assert weight.tokens.tolist() == [len(targets_of(index)) + 2 for index in ROWS]
    assert weight.growing[3] == pytest.approx(2 * weight.growing[0])
