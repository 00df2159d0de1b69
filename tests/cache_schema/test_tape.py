"""The tape: what is written is read, by id, by others' readers too, and survives kills."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pytest
import zarr

from cache_schema import open_tape
from cache_schema.codecs import bfloat16
from cache_schema.codecs.files import HashedFile
from cache_schema.codecs.sealed_json import seal
from cache_schema.errors import MissingSignalError, OutputError, ProvenanceError, TapeError
from cache_schema.manifest import GroupInfo
from cache_schema.rows import hidden_row, sample_rows, topk_row, trace_row
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


def test_other_readers_see_the_same(tape_dir: Path) -> None:
    shard = next(s for s in open_tape(tape_dir).shards["textual"] if s.record.samples == 2)
    folder = tape_dir / shard.record.path
    array = zarr.open_group(folder / "hidden.zarr", mode="r")["L003"]
    assert array.attrs["logical_dtype"] == "bfloat16"
    states = np.empty(array.shape, np.uint16)
    shard.states(3).read_into(0, states)
    np.testing.assert_array_equal(array[:], states)
    traces = pa.ipc.open_file(folder / "trace.arrow").read_all()  # noqa: F841 - read by duckdb
    assert duckdb.sql("select max(sample_id) from traces").fetchall() == [("s6",)]


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


@pytest.mark.parametrize("name", ["trace.arrow", "hidden.zarr/L001/c/0/0"])
def test_a_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    root = make_tape(tmp_path / "tape", 3)
    shard = open_tape(root).shards["textual"][0]
    file = root / shard.record.path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(TapeError, match=f"{name} is damaged"):
        assert_whole(root, 3)


def test_a_shortened_file_is_found(tmp_path: Path) -> None:
    root = make_tape(tmp_path / "tape", 3)
    file = root / open_tape(root).shards["samples"][0].record.path / "samples.arrow"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(TapeError, match="were committed"):
        assert_whole(root, 3)


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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", "../elsewhere/w0-000000"),
        ("path", "/shards/samples/000/w0-000000"),
        ("path", "shards/textual/000/w0-000000"),
        ("files", {"../../x": {"bytes": 1, "xxh3_128": "0"}}),
        ("files", {"/etc/hostname": {"bytes": 1, "xxh3_128": "0"}}),
        ("files", {"samples.arrow": {}}),
    ],
)
def test_a_manifest_cannot_lead_out_of_the_tape(tmp_path: Path, field: str, value: Any) -> None:
    root = make_tape(tmp_path / "tape", 2)
    manifest = root / "manifest" / "w0.jsonl"
    first = json.loads(manifest.read_text().splitlines()[0])
    del first["xxh3_64"]
    manifest.write_bytes(seal({**first, field: value}))
    shutil.rmtree(root / "index")
    with pytest.raises(TapeError, match="not a manifest line"):
        open_tape(root)


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


def test_two_writers_of_one_name_exclude_each_other(tmp_path: Path) -> None:
    with TapeWriter(tmp_path / "tape", SAMPLES) as first:
        add_sample(first, 0)
        second = TapeWriter(tmp_path / "tape", SAMPLES)
        with pytest.raises(TapeError, match="another process"):
            add_sample(second, 1)
        with TapeWriter(tmp_path / "tape", SAMPLES, writer="w1") as other:
            add_sample(other, 1)
    assert open_tape(tmp_path / "tape").sample_ids == ("s0", "s1")


def test_full_disk_keeps_what_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "tape"
    written = 0
    real = HashedFile.write

    def write(self: HashedFile, data: bytes | memoryview) -> int:
        nonlocal written
        written += len(data)
        if written > 12_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    def fill(indexes: range) -> None:
        with TapeWriter(root, SAMPLES, shard_samples=2) as writer:
            for index in indexes:
                add_sample(writer, index)

    with monkeypatch.context() as patch:
        patch.setattr(HashedFile, "write", write)
        with pytest.raises(OutputError, match=r"disk .* is full"):
            fill(range(20))
    committed = len(open_tape(root))
    assert 0 < committed < 20
    fill(range(committed, 20))
    assert len(open_tape(root)) == 20


def fill_until(root: Path, fatal: int) -> int:
    """Fill a tape in a child process that dies, without cleaning up, at the fatal-th line it runs.

    Returns:
        The child's exit status: 9 if it died.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    lines = 0

    def tracer(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        if "cache_schema" in frame.f_code.co_filename and "tests" not in frame.f_code.co_filename:
            lines += 1
            if lines == fatal:
                os._exit(9)
        return tracer

    exists = (root / "dataset.json").exists()
    done = open_tape(root).recorded("samples") if exists else set()
    sys.settrace(tracer)
    status = 1
    try:
        with TapeWriter(root, SAMPLES, shard_samples=2) as writer:
            for index in range(6):
                if f"s{index}" not in done:
                    add_sample(writer, index)
        status = 0
    finally:
        os._exit(status)


@pytest.mark.parametrize("fatal", range(1, 700, 14))
def test_killed_at_any_point_loses_at_most_the_open_shard(tmp_path: Path, fatal: int) -> None:
    root = tmp_path / "tape"
    assert fill_until(root, fatal) == 9
    before = len(open_tape(root)) if (root / "dataset.json").exists() else 0
    assert before % 2 == 0, "only whole shards exist"
    assert fill_until(root, 0) == 0
    tape = open_tape(root)
    assert tape.sample_ids == tuple(f"s{i}" for i in range(6))
    for index, row in enumerate(tape):
        np.testing.assert_array_equal(row.audio, values_of(index)["audio"])
    assert list((root / "shards").rglob(".*")) == []


def test_manifest_line_cut_by_a_crash_is_no_line(tmp_path: Path) -> None:
    root = make_tape(tmp_path / "tape", 4)
    manifest = root / "manifest" / "w0.jsonl"
    with manifest.open("ab") as file:
        file.write(b'{"type": "shard", "gro')
    assert_whole(root, 4)
    with TapeWriter(root, SAMPLES) as writer:
        add_sample(writer, 9)
    assert "s9" in open_tape(root)
    assert all(json.loads(line) for line in manifest.read_bytes().splitlines())
