from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: a core for each worker
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is not a failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file's tests with one worker, in the order of files: fixtures are made once.

    Files that use the extracted tapes (``tape_dir``) are as one. (The groups of ``--dist
    loadgroup`` are lost on the way to the scheduler: xdist 3.8 writes them into ids that pytest
    9.2 no longer reads.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "tapes" if file in shared else file

    stage_one = config.rootpath / "tests" / "pipeline"
    shared = {
        path.relative_to(config.rootpath).as_posix()
        for path in stage_one.rglob("test_*.py")
        if "tape_dir" in path.read_text(encoding="utf-8")
    }
    config.option.loadscopereorder = False
    return ByFile(config, log)


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
