"""A tape read without this project: JSON of the manifest, then Arrow, DuckDB and Zarr libraries.

Only the layout of files is used to find the bytes. Compact top-k, sampled ids and recordings are
left out of the values: their blobs need their decoders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import classes_tape
import duckdb
import full_tape
import numpy as np
import pyarrow as pa
import pytest
import tensorstore
import zarr
from whole_tape import LAYERS, PROFILES, WIDTH, fast_folder, make

from cache_schema import open_tape
from cache_schema.types import Embedding, FrameLogits, Hidden, Lens, TopK, UtteranceLogits

SOURCES = ("textual", "acoustic")
Read = Callable[[Path], np.ndarray]


@pytest.fixture(scope="module", params=PROFILES)
def tape_dir(request: pytest.FixtureRequest) -> Iterator[Path]:
    with fast_folder() as folder:
        yield make(folder / "tape", request.param, indexes=range(5))


def shards_of(root: Path, group: str) -> list[Mapping[str, Any]]:
    """Lines of the manifest of one group."""
    lines = (root / "manifest" / "w0.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line.get("path") and line["group"] == group]


def rows_of(root: Path, group: str, table: str) -> Iterator[tuple[Mapping[str, Any], dict]]:
    """Every row of a table with its shard's line, by pyarrow."""
    for shard in shards_of(root, group):
        file = root / shard["path"] / f"{table}.arrow"
        if file.exists():
            with pa.memory_map(str(file)) as source:
                for row in pa.ipc.open_file(source).read_all().to_pylist():
                    yield shard, row


def by_zarr(path: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(path, mode="r")[...])


def by_tensorstore(path: Path) -> np.ndarray:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
    spec["fill_missing_data_reads"] = False
    found: np.ndarray = tensorstore.open(spec, open=True).result().read().result()
    return found


def widened(words: np.ndarray) -> np.ndarray:
    """bfloat16 bits as float32."""
    assert words.dtype == np.uint16
    return (words.astype(np.uint32) << 16).view(np.float32)


def layer_by(read: Read, store: Path, layer: int) -> np.ndarray:
    """One layer's states, float32, as the attributes of its array describe them."""
    name = f"L{layer:03d}"
    attributes = json.loads((store / name / "zarr.json").read_text())["attributes"]
    assert attributes["logical_dtype"] == "bfloat16"
    if "formula" not in attributes:
        return widened(read(store / name))
    assert attributes["formula"] == "value[t, c] = mean[c] + std[c] * scale[t] * q[t, c]"
    q, scale, channels = (read(store / f"{name}{suffix}") for suffix in ("", "_scale", "_channels"))
    return channels[0] + channels[1] * scale[:, None] * q.astype(np.float32)


@pytest.mark.parametrize("read", [by_zarr, by_tensorstore])
@pytest.mark.parametrize("source", SOURCES)
def test_states(tape_dir: Path, read: Read, source: str) -> None:
    tape = open_tape(tape_dir)
    seen = 0
    for shard, row in rows_of(tape_dir, source, "hidden"):
        ours = tape[row["sample_id"]][f"{source}/hidden"]
        assert isinstance(ours, Hidden)
        for number, layer in enumerate(LAYERS):
            store = tape_dir / shard["path"] / "hidden.zarr"
            values = layer_by(read, store, layer)
            assert values.shape == (shard["states"]["positions"], WIDTH)
            theirs = values[row["offset"] : row["offset"] + row["count"]]
            exact = shard["states"]["profile"] != "lossy2x"
            # decoded int8 is rounded to bfloat16, 2^-8 relative
            tolerance = {"rtol": 0 if exact else 2**-7, "atol": 0 if exact else 1e-6}
            np.testing.assert_allclose(ours.states[:, number], theirs, **tolerance)
            seen += theirs.size
        assert ours.times_s is None or ours.times_s.reshape(-1).tolist() == row["times_s"]
    assert seen >= 2 * WIDTH * (6 if source == "textual" else 15)


def test_zarr_group(tape_dir: Path) -> None:
    """The store opens as a group, its layers by name."""
    for source in SOURCES:
        for shard in shards_of(tape_dir, source):
            group = zarr.open_group(tape_dir / shard["path"] / "hidden.zarr", mode="r")
            names = {name for name, _ in group.arrays()}
            assert {f"L{layer:03d}" for layer in LAYERS} <= names


def test_arrow_tables(tape_dir: Path) -> None:
    tape = open_tape(tape_dir)
    for _, row in rows_of(tape_dir, "samples", "samples"):
        ours = tape[row["sample_id"]]
        assert ours.row_index == row["row_index"]
        assert (ours.question, list(ours.choices)) == (row["question"], row["choices"])
        assert (ours.answer, dict(ours.metadata)) == (row["answer"], json.loads(row["metadata"]))
    for _, row in rows_of(tape_dir, "samples", "audio"):
        assert row["audio_dtype"] == "float32"
        audio = np.frombuffer(row["audio"], "<f4")
        np.testing.assert_array_equal(tape[row["sample_id"]].audio, audio)
    for _, row in rows_of(tape_dir, "descriptions", "descriptions"):
        assert tape[row["sample_id"]].description == row["description"]
    traces = 0
    for _, row in rows_of(tape_dir, "textual", "trace"):
        trace = tape[row["sample_id"]].traces[row["trace_index"]]
        assert (trace.text, trace.correct, trace.logprob) == (
            row["text"],
            row["correct"],
            row["logprob"],
        )
        assert trace.token_ids.tolist() == row["token_ids"]
        traces += 1
    assert traces == len(tape) == 5


def test_hot_topk(tape_dir: Path) -> None:
    tape = open_tape(tape_dir)
    found = [row for source in SOURCES for _, row in rows_of(tape_dir, source, "topk")]
    packed = [row for source in SOURCES for _, row in rows_of(tape_dir, source, "topk_compact")]
    assert len(found) + len(packed) == 2 * len(tape)
    for source in SOURCES:
        for _, row in rows_of(tape_dir, source, "topk"):
            ours = tape[row["sample_id"]][f"{source}/topk"]
            assert isinstance(ours, TopK)
            assert ours.token_ids.reshape(-1).tolist() == row["token_ids"]
            assert ours.logprobs.reshape(-1).tolist() == row["logprobs"]
            assert ours.tail.tolist() == row["tail"]
            assert ours.token_ids.shape[1] == row["k"]


def test_duckdb(tape_dir: Path) -> None:
    """SQL over Arrow tables, joined by id."""

    def table(group: str, name: str) -> pa.Table:
        files = [tape_dir / shard["path"] / f"{name}.arrow" for shard in shards_of(tape_dir, group)]
        return pa.concat_tables(pa.ipc.open_file(file.read_bytes()).read_all() for file in files)

    samples, trace = table("samples", "samples"), table("textual", "trace")  # noqa: F841 - in SQL
    joined = duckdb.sql(
        "select sample_id, question, text, len(token_ids), correct, list_sum(token_ids) "
        "from samples join trace using (sample_id) order by row_index"
    ).fetchall()
    tape = open_tape(tape_dir)
    assert len(joined) == len(tape)
    for row, (sample_id, question, text, tokens, correct, total) in zip(tape, joined, strict=True):
        (ours,) = row.traces
        assert (row.sample_id, row.question, ours.text) == (sample_id, question, text)
        assert (len(ours.token_ids), ours.correct) == (tokens, correct)
        assert total == (int(ours.token_ids.sum()) if tokens else None)


def test_lens_text_states_and_what_was_heard(tmp_path: Path) -> None:
    """As FORMAT.md has them: lists are flattened, segments are JSON, states lie where it says."""
    root = full_tape.make(tmp_path / "tape")
    tape = open_tape(root)
    for source in SOURCES:
        lenses = [row for _, row in rows_of(root, source, "lens")]
        assert len(lenses) == 4
        for row in lenses:
            lens = tape[row["sample_id"]].signal(f"{source}/lens", row["trace_index"])
            assert isinstance(lens, Lens)
            shape = (len(row["target_ids"]), len(row["layers"]), row["k"])
            assert list(lens.layers) == row["layers"]
            np.testing.assert_array_equal(lens.token_ids, np.reshape(row["token_ids"], shape))
            np.testing.assert_array_equal(lens.logprobs, np.reshape(row["logprobs"], shape))
            np.testing.assert_array_equal(lens.tail, np.reshape(row["tail"], shape[:2]))
    for _, row in rows_of(root, "heard_transcript", "heard"):
        heard = tape[row["sample_id"]].heard["transcript"]
        assert heard.text == row["text"]
        assert [vars(segment) for segment in heard.segments] == json.loads(row["segments"])
    for shard, row in rows_of(root, "encoder", "hidden"):
        states = tape[row["sample_id"]]["encoder/hidden"]
        assert isinstance(states, Hidden)
        assert (row["kind"], row["trace_index"], row["times_s"]) == ("text", -1, None)
        assert states.target_ids is not None
        assert states.target_ids.tolist() == row["target_ids"]
        theirs = layer_by(by_zarr, root / shard["path"] / "hidden.zarr", 2)
        theirs = theirs[row["offset"] : row["offset"] + row["count"]]
        np.testing.assert_array_equal(states.states[:, 0], theirs)


def test_classes_embeddings_and_states_side_by_side(tmp_path: Path) -> None:
    """Lists are flattened; names of classes are in the group's file; rows are told by trace."""
    root = classes_tape.make(tmp_path / "tape", shard_samples=2)
    tape = open_tape(root)
    facts = json.loads((root / "groups" / "acoustic.json").read_text())["signals"]
    seen = 0
    for _, row in rows_of(root, "acoustic", "frame_logits"):
        ours = tape[row["sample_id"]]["acoustic/frame_logits"]
        assert isinstance(ours, FrameLogits)
        labels = facts["frame_logits"]["labels"]
        assert (list(ours.labels), ours.multi_label) == (labels, True)
        assert ours.logits.tolist() == np.reshape(row["logits"], (-1, len(labels))).tolist()
        assert ours.times_s.tolist() == np.reshape(row["times_s"], (-1, 2)).tolist()
        assert row["trace_index"] == -1
        seen += len(ours.logits)
    assert seen == 6
    for _, row in rows_of(root, "wavlm", "embedding"):
        ours = tape[row["sample_id"]]["wavlm/embedding"]
        assert isinstance(ours, Embedding)
        assert ours.values.tolist() == row["embedding"]
    kinds = []
    for source in ("acoustic", "wavlm"):
        for shard, row in rows_of(root, source, "hidden"):
            states = tape[row["sample_id"]].signal(f"{source}/hidden", row["trace_index"])
            assert isinstance(states, Hidden)
            kinds.append((states.kind, row["trace_index"]))
            assert states.kind == row["kind"]
            for number, layer in enumerate(shard["states"]["layers"]):
                theirs = layer_by(by_zarr, root / shard["path"] / "hidden.zarr", layer)
                theirs = theirs[row["offset"] : row["offset"] + row["count"]]
                np.testing.assert_array_equal(states.states[:, number], theirs)
    assert {kind: kinds.count(kind) for kind in kinds} == {
        ("audio", -1): 5, ("token", 0): 5, ("frame", -1): 5,
    }  # fmt: skip


def test_duckdb_names_the_class_of_a_recording(tmp_path: Path) -> None:
    """SQL over the table of logits: the class of the highest one, joined by id."""
    root = classes_tape.make(tmp_path / "tape", groups=("samples", "acoustic"))
    files = [
        root / shard["path"] / "utterance_logits.arrow" for shard in shards_of(root, "acoustic")
    ]
    logits = pa.concat_tables(pa.ipc.open_file(f.read_bytes()).read_all() for f in files)  # noqa: F841
    found = duckdb.sql(
        "select sample_id, list_position(logits, list_max(logits)), list_sum(logits) from logits"
    ).fetchall()
    tape = open_tape(root)
    assert len(found) == len(tape) == 5
    for sample_id, place, total in found:
        ours = tape[sample_id]["acoustic/utterance_logits"]
        assert isinstance(ours, UtteranceLogits)
        assert ours.labels[place - 1] == ours.labels[int(ours.logits.argmax())]
        # 1e-6: list_sum adds in another type
        assert total == pytest.approx(float(ours.logits.sum()), rel=1e-6, abs=1e-6)


def test_quarantine_is_plain_json(tape_dir: Path) -> None:
    lines = (tape_dir / "manifest" / "w0.jsonl").read_text().splitlines()
    kept = [line for line in map(json.loads, lines) if line["type"] == "quarantine"]
    assert [line["sample_id"] for line in kept] == [
        q.sample_id for q in open_tape(tape_dir).quarantined
    ]
