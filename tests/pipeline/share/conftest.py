from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from share_servers import s3_server
from whole_tape import make


@pytest.fixture(scope="session")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("shared") / "tape", indexes=range(4))


@pytest.fixture(autouse=True)
def _short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries are short, and files of remote tapes are each test's own."""
    monkeypatch.setattr("cache_schema.remote.files.PAUSE_S", 0.01)
    monkeypatch.setattr("pipeline.share.push_lock.SETTLE_S", 0.0)
    monkeypatch.setenv("TEACHERTAPE_CACHE", str(tmp_path / "remote-files"))


@pytest.fixture(scope="session")
def _s3() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture
def s3(_s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket; the environment leads to its server."""
    for name, value in _s3.items():
        monkeypatch.setenv(name, value)
    import s3fs

    name = f"b{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"
