"""The tape: what is written is read, by id; other makers and other folders are left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from cache_schema import open_tape
from cache_schema.codecs import bfloat16
from cache_schema.errors import MissingSignalError, OutputError, ProvenanceError, TapeError
from cache_schema.maker import GroupInfo
from cache_schema.rows.values import hidden_row, sample_rows, topk_row, trace_row
from cache_schema.types import Sample, TopK, Trace
from cache_schema.writer import TapeWriter

SAMPLES = GroupInfo(group="samples", kind="samples", identity={"dataset": "d"})
TEXTUAL = GroupInfo(
    group="textual",
    kind="textual",
    signals={"trace": {}, "topk": {"k": 4}, "hidden": {"layers": [1, 3], "width": 8}},
    identity={"model_digest": "m"},
)


def values_of(index: int) -> dict[str, Any]:
    """Everything of sample ``index``, made from its number alone."""
    rng = np.random.default_rng(index)
    tokens = index % 5
    probabilities = -np.sort(-rng.dirichlet(np.ones(6), size=tokens).reshape(tokens, 6), axis=1)
    return {
        "audio": rng.normal(0, 0.1, 200 + index).astype(np.float32),
        "token_ids": rng.integers(0, 262_144, tokens),
        "topk_ids": rng.integers(0, 262_144, (tokens, 4)),
        "logprobs": np.log(probabilities[:, :4]).astype(np.float32),
        "tail": probabilities[:, 4:].sum(axis=1).astype(np.float32),
        "states": {layer: rng.normal(0, 3, (tokens, 8)).astype(np.float32) for layer in (3, 1)},
    }


def add_sample(writer: TapeWriter, index: int) -> None:
    audio = values_of(index)["audio"]
    sample = Sample(
        sample_id=f"s{index}",
        row_index=index,
        audio=audio,
        question="how many?",
        choices=("one", "two"),
        answer="two",
        metadata={"speaker": "ann", "index": index},
    )
    writer.add(sample_rows(sample, "hash", audio.size))


def add_textual(writer: TapeWriter, index: int) -> None:
    values = values_of(index)
    ids = values["token_ids"]
    trace = Trace(
        text=f"trace {index}",
        token_ids=ids,
        prompt_token_ids=np.arange(3),
        finish_reason="stop",
        answer="two",
        correct=(True, False, None)[index % 3],
        logprob=-1.5,
    )
    topk = TopK(
        target_ids=ids,
        token_ids=values["topk_ids"],
        logprobs=values["logprobs"],
        tail=values["tail"],
    )
    place = hidden_row(f"s{index}", 0, "token", (0, 0), ids, None)
    writer.add(
        {"trace": [trace_row(f"s{index}", 0, trace)], "topk": [topk_row(f"s{index}", 0, topk)]},
        [(place, values["states"])],
    )


def make_tape(root: Path, count: int = 7) -> Path:
    """A tape whose textual rows were written in another order than its samples."""
    with TapeWriter(root, SAMPLES, shard_samples=3) as writer:
        for index in range(count):
            add_sample(writer, index)
    with TapeWriter(root, TEXTUAL, shard_samples=2) as writer:
        for index in reversed(range(count)):
            add_textual(writer, index)
    return root


@pytest.fixture(scope="module")
def tape_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tape(tmp_path_factory.mktemp("tape") / "tape")


def assert_whole(location: str | Path, count: int) -> None:
    tape = open_tape(location)
    assert tape.sample_ids == tuple(f"s{i}" for i in range(count))
    for index, row in enumerate(tape):
        values = values_of(index)
        np.testing.assert_array_equal(row.audio, values["audio"])
        (trace,) = row.traces
        np.testing.assert_array_equal(trace.token_ids, values["token_ids"])
        assert trace.correct is (True, False, None)[index % 3]
        topk, hidden = row["textual/topk"], row["textual/hidden"]
        np.testing.assert_array_equal(topk.token_ids, values["topk_ids"])
        np.testing.assert_array_equal(topk.logprobs, values["logprobs"])
        np.testing.assert_array_equal(topk.tail, values["tail"])
        assert hidden.layers == (1, 3)
        for place, layer in enumerate(hidden.layers):
            expected = bfloat16.decode(bfloat16.from_float32(values["states"][layer]))
            np.testing.assert_array_equal(hidden.states[:, place], expected)
        np.testing.assert_array_equal(hidden.target_ids, values["token_ids"])


def test_every_value_comes_back_by_id(tape_dir: Path) -> None:
    assert_whole(tape_dir, 7)
    tape = open_tape(tape_dir)
    assert tape.signals == ("textual/hidden", "textual/topk", "textual/trace")
    assert tape["s4"].metadata == {"speaker": "ann", "index": 4}
    assert tape["s4"]["textual/topk"].token_ids.dtype == np.int64
    assert tape["s4"].signal("textual/hidden", layers=(3,)).states.shape == (4, 1, 8)


def test_same_through_fsspec(tape_dir: Path) -> None:
    fsspec.filesystem("memory").put(str(tape_dir), "/remote", recursive=True)
    assert_whole("memory://remote", 7)


def test_unknown_names_are_told(tape_dir: Path) -> None:
    tape = open_tape(tape_dir)
    with pytest.raises(KeyError, match="did you mean 's1'"):
        tape["s11"]
    with pytest.raises(MissingSignalError, match="textual/hidden"):
        tape["s1"]["acoustic/hidden"]
    with pytest.raises(MissingSignalError, match=r"layers \[2\] are not recorded; it has \[1, 3\]"):
        tape["s1"].signal("textual/hidden", layers=(2,))
    with pytest.raises(TapeError, match="no tape here"):
        open_tape(tape_dir / "shards")


def test_other_maker_is_refused_with_what_differs(tape_dir: Path) -> None:
    other = GroupInfo(
        group="textual", kind="textual", signals=TEXTUAL.signals, identity={"model_digest": "n"}
    )
    with pytest.raises(ProvenanceError, match="model_digest: tape 'm', now 'n'"):
        TapeWriter(tape_dir, other)


def test_two_makers_at_once_never_share_a_group(tmp_path: Path) -> None:
    other = GroupInfo(group="samples", kind="samples", identity={"dataset": "e"})
    with TapeWriter(tmp_path / "tape", SAMPLES) as first:
        second = TapeWriter(tmp_path / "tape", other, writer="w1")
        add_sample(first, 0)
        with second, pytest.raises(ProvenanceError, match="dataset: tape 'd', now 'e'"):
            add_sample(second, 1)
    assert open_tape(tmp_path / "tape").sample_ids == ("s0",)


def test_few_files_stay_open(tape_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_schema.files.MAX_OPENED", 2)
    before = len(list(Path("/proc/self/fd").iterdir()))
    tape = open_tape(tape_dir)
    for row in [*tape, *tape]:
        assert row["textual/hidden"].states.shape[1] == 2
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4


def test_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not a tape"):
        TapeWriter(tmp_path, SAMPLES)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_nothing_is_written_without_a_sample(tmp_path: Path) -> None:
    with TapeWriter(tmp_path / "tape", SAMPLES):
        pass
    assert not (tmp_path / "tape").exists()
