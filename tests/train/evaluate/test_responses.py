from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cache_schema.errors import OutputError
from train.evaluate.prompting import failed
from train.evaluate.responses import ResponseLog, rewrite
from train.evaluate.types import Response

ONE = Response(sample_id="a", text="é\ud800\n\u2028", answer="x", num_tokens=3, finish="stop")
TWO = Response(sample_id="b", text="", trace="t", num_tokens=0, finish="length")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "responses.jsonl"
    with ResponseLog(file) as log:
        assert log.done == {}
        log.add([ONE])
        assert ResponseLog(file).done == {"a": ONE}  # it is there before the file is closed
        log.add([TWO, failed("c", "why")])
    return file


def test_what_is_written_is_read(path: Path) -> None:
    assert ResponseLog(path).done == {"a": ONE, "b": TWO, "c": failed("c", "why")}
    again = replace(TWO, sample_id="c")
    with ResponseLog(path) as log:
        log.add([again])
    assert ResponseLog(path).done["c"] == again
    rewrite(path, [TWO, ONE])
    assert list(ResponseLog(path).done.values()) == [TWO, ONE]


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_last_line_cut_by_a_kill_is_dropped(
    path: Path, kept: int, capsys: pytest.CaptureFixture[str]
) -> None:
    content = path.read_bytes()
    last = content.splitlines(keepends=True)[-1]
    path.write_bytes(content[: -len(last)] + last[:kept])
    with ResponseLog(path) as log:
        assert log.done == {"a": ONE, "b": TWO}
        log.add([failed("c", "again")])
    assert "the last line was cut" in capsys.readouterr().err
    assert ResponseLog(path).done["c"].error == "again"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"not JSON\n", "Expecting value"),
        (b"[1]\n", "line 4"),
        (b'{"sample_id": "d"}\n', "missing"),
        (b'{"sample_id": 7, "text": "", "num_tokens": 0, "finish": "stop"}\n', "sample_id is 7"),
        (b'{"sample_id": "d", "text": "", "num_tokens": 0, "finish": "?"}\n', "finish is '\\?'"),
        (b'{"sample_id": "d", "txt": ""}\n', "txt"),
        (b"\xff\n", "line 4"),
    ],
)
def test_a_damaged_line_is_named(path: Path, line: bytes, what: str) -> None:
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(OutputError, match=what) as caught:
        ResponseLog(path)
    assert "responses.jsonl, line 4" in str(caught.value)
