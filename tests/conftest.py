from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: a core for each worker
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is not a failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests with one worker, and with another's those that share its tapes."""
    for item in items:
        shared = "tape_dir" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("tapes" if shared else str(item.path)))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name recordings by their argument: a WAVE file says when it was written, so an id made
    of its bytes would differ from one worker to the next."""
    return argname if isinstance(val, bytes) and len(val) > 40 and b"\0" in val else None


@pytest.fixture(scope="session", autouse=True)
def _cache_of_remote_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Files of remote tapes are kept in a folder of this run, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEACHERTAPE_CACHE", str(tmp_path_factory.mktemp("remote-files")))
        yield
