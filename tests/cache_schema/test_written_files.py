"""Files written whole or not at all, by processes that know nothing of each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache_schema.codecs import files


def test_two_writers_of_one_process_id_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers on one file system often have equal ones: one writes while the other does."""
    path = tmp_path / "dataset.json"
    write = files.write_hashed

    def other_first(beside: Path, content: bytes) -> dict[str, object]:
        monkeypatch.setattr(files, "write_hashed", write)
        found = write(beside, content[: len(content) // 2])
        files.write_atomic(path, b"the other's")
        assert path.read_bytes() == b"the other's"
        beside.write_bytes(content)
        return found

    monkeypatch.setattr(files, "write_hashed", other_first)
    files.write_atomic(path, b"the first one's")
    assert path.read_bytes() == b"the first one's"
    assert [file.name for file in tmp_path.iterdir()] == ["dataset.json"]
