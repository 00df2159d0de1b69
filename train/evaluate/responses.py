"""``responses.jsonl``: a line a response, appended as they are made; none is made twice."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from cache_schema.codecs.files import write_atomic
from cache_schema.commands.console import say
from cache_schema.errors import OutputError
from train.evaluate.types import FINISHES, Response

_FIELDS = {field.name: field.type for field in dataclasses.fields(Response)}


class ResponseLog:
    """The file, open for appending; use as a context manager.

    A line that a kill cut in half is dropped on opening, aloud: its sample is asked again.

    Attributes:
        done: sample id -> what an earlier run left; the last line of a sample counts.

    Raises:
        OutputError: another line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            say(f"{path}: the last line was cut; it is dropped and its sample is asked again")
            os.truncate(path, len(whole))
        lines = enumerate(whole.splitlines(), start=1)
        read = [_parse(line, f"{path}, line {number}") for number, line in lines]
        self.done: dict[str, Response] = {response.sample_id: response for response in read}

    def __enter__(self) -> ResponseLog:
        self._file = self._path.open("ab")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, responses: Iterable[Response]) -> None:
        """Append responses; they have left this process when it returns."""
        for response in responses:
            self.done[response.sample_id] = response
            self._file.write(_line(response))
        self._file.flush()


def rewrite(path: Path, responses: Iterable[Response]) -> None:
    """Write all responses anew, in the order given, whole or not at all."""
    write_atomic(path, b"".join(map(_line, responses)))


def _line(response: Response) -> bytes:
    # a text may hold half a character, which JSON can escape and UTF-8 has not
    return json.dumps(vars(response)).encode() + b"\n"


def _parse(line: bytes, where: str) -> Response:
    try:
        values = json.loads(line)
        response = Response(**values)
    except (ValueError, TypeError) as error:
        raise _damaged(where, str(error)) from error
    _check(vars(response), where)
    return response


def _check(values: Mapping[str, object], where: str) -> None:
    for name, kind in _FIELDS.items():
        if type(values[name]).__name__ != kind:
            raise _damaged(where, f"{name} is {values[name]!r:.40}, expected {kind}")
    if values["finish"] not in FINISHES:
        raise _damaged(where, f"finish is {values['finish']!r}, expected one of {FINISHES}")


def _damaged(where: str, what: str) -> OutputError:
    return OutputError(f"{where}: {what}; delete the line, and its sample is asked again")
