"""Tasks and stages with a student in shards: processes gather the same blocks in the same order."""

from __future__ import annotations

from pathlib import Path

import pytest
from forks import Forks
from sharded_runs import SHARDED, alike, together
from tiny_tape import MakeTape
from train_runs import Launch, train_apart, train_here

TASKS = """
[terms.ce]
weight = 0.5
[terms.acoustic_hidden]
weight = 0.3
layers = "2:1"

[tasks.heard]
terms = ["acoustic_hidden"]
[tasks.told]
terms = ["ce"]
reads = "description"

[stages.hearing]
steps = 2
tasks = ["heard"]
freeze = ["language_model"]
[stages.all]
steps = 4
"""


LOW = """
[terms.acoustic_hidden]
weight = 0.3
layers = "1:1"
[terms.acoustic_hidden-second]
weight = 0.2
layers = "1:2"

[tasks.both]
terms = ["acoustic_hidden", "acoustic_hidden-second"]
[tasks.one]
terms = ["acoustic_hidden"]
"""

MIXED = """
[terms.text_hidden]
weight = 0.5
projector = "linear"
[terms.acoustic_hidden]
weight = 0.3

[tasks.heard]
terms = ["acoustic_hidden"]
[tasks.told]
terms = ["text_hidden"]
reads = "description"

[stages.hearing]
steps = 2
freeze = ["language_model"]
"""


@pytest.mark.parametrize("text", [TASKS, LOW], ids=["stages", "low layers"])
def test_tasks_and_stages_in_shards(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path, forks: Forks, text: str
) -> None:
    """Passes of one step hear audio in one process and read in another; parts thaw on the way.

    Or one task's terms all end below the top block, which another task's batches go through.
    """
    recipe = tmp_path / "tasks.toml"
    recipe.write_text(text)
    tape = make_tape(described={f"s{number}": f"the {number}th" for number in range(12)})
    more = ("--recipe", str(recipe), "--batch-tokens", "600", "--set", "loop.micro_tokens=150",
            "--lr", "1e-3", "--set", "logging.gradient_norms_every=0")  # fmt: skip
    whole, shards = (
        Launch(tape=tape, student=student_dir, out=tmp_path / name, more=(*more, *held))
        for name, held in (("whole", ()), ("shards", SHARDED))
    )
    result = train_here(whole)
    assert result.exit_code == 0, result.output
    together(forks, shards, 2)
    alike(whole, shards)


def test_a_frozen_model_that_some_hear_with_and_some_read_with_is_refused(
    make_tape: MakeTape, student_dir: Path, tmp_path: Path, forks: Forks
) -> None:
    """Some processes would go back through the blocks to the tower, and others not."""
    recipe = tmp_path / "mixed.toml"
    recipe.write_text(MIXED)
    tape = make_tape(described={f"s{number}": f"the {number}th" for number in range(12)})
    more = ("--recipe", str(recipe), *SHARDED)
    mixed = Launch(tape=tape, student=student_dir, out=tmp_path / "mixed", more=more)
    ended, said = train_apart(forks, mixed, 2)
    assert [process.value for process in ended] == [2, 2], said
    assert "stages.hearing: with student.sharding=full, tasks that hear" in said
