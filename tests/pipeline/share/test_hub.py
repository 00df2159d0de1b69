"""The hub: a stand-in that speaks its HTTP API, called by huggingface_hub itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import huggingface_hub
import pytest
from hub_server import TOKEN, Hub, hub_server
from test_push_and_pull import bring, send, sound, uncounted
from typer.testing import CliRunner
from whole_tape import content, fill, make

from cache_schema import open_tape
from cache_schema.errors import OutputError, TransferError, UsageError
from pipeline.cli import app
from pipeline.share.open_store import open_store
from pipeline.share.push import push
from pipeline.share.push_plan import plan_push

URL = "hf://datasets/team/tape"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub without repositories; this process and its children take it for the only one."""
    kept = Hub()
    constants = huggingface_hub.constants
    with hub_server(kept) as url:
        for name, value in {
            "HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        huggingface_hub.close_session()
        yield kept
        fsspec.get_filesystem_class("hf").clear_instance_cache()
        huggingface_hub.close_session()


def test_there_and_back_with_a_page(tape: Path, hub: Hub, tmp_path: Path) -> None:
    run = CliRunner()
    done = run.invoke(app, ["push", str(tape), URL])
    assert done.exit_code == 0, done.stderr
    repo = hub.repos["team/tape"]
    assert repo.lfs, "large and binary files go by LFS"
    assert "dataset.json" not in repo.lfs
    page = repo.files["README.md"].decode()
    assert page.startswith("---\nlicense: other\n")
    for told in (
        "- teachertape", "- samples: 4", "- licence: unspecified", "| textual | topk |",
        f'open_tape("{URL}")', f"pipeline pull {URL} ./cache",
    ):  # fmt: skip
        assert told in page, told
    assert content(URL) == content(tape)
    commits = len(repo.commits)
    again = send(tape, URL, check=True)
    assert (again.files, again.damaged) == (0, [])
    assert len(repo.commits) == commits, "nothing is committed where nothing changed"
    pulled = run.invoke(app, ["pull", URL, str(tmp_path / "out")])
    assert pulled.exit_code == 0, pulled.stderr
    sound(tmp_path / "out")
    assert content(tmp_path / "out") == content(tape)
    bring(URL, tmp_path / "part", signals=("textual/hidden",), layers={"": (3,)}, audio=False)
    sound(tmp_path / "part")
    some = run.invoke(app, ["pull", URL, str(tmp_path / "some"), "--filter", "index=2"])
    assert some.exit_code == 0, some.stderr
    assert open_tape(tmp_path / "some").sample_ids == ("s2",)


def test_what_grew_is_all_that_travels_and_a_page_of_ones_own_stays(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.share.push.PUBLISH_S", 0.0)  # many commits, each looked at
    tape = make(tmp_path / "tape", licence="CC-BY-4.0")
    send(tape, URL)
    repo = hub.repos["team/tape"]
    assert len(repo.commits) > 4
    assert b"license: cc-by-4.0\n" in repo.files["README.md"]
    ours = repo.files["README.md"].replace(b"# tape\n", b"# tape\n\nRecorded in our kitchen.\n")
    repo.files["README.md"] = ours
    fill(tape, indexes=range(3, 6))
    before = hub.asked["PUT", "objects"]
    assert 0 < send(tape, URL).files < 60
    assert 0 < hub.asked["PUT", "objects"] - before < 60
    page = repo.files["README.md"].decode()
    assert "Recorded in our kitchen." in page
    assert "- samples: 6" in page
    assert sum(name.startswith("index/") for name in repo.files) == 1
    assert content(URL) == content(tape)
    repo.files["README.md"] = b"---\nlicense: mit\n---\nMine.\n"
    send(tape, URL)
    assert repo.files["README.md"].endswith(b"Mine.\n"), "a page of somebody's own is left"
    send(tape, f"{URL}/folder/v2")
    assert content(f"{URL}/folder/v2") == content(tape)
    assert "folder/v2/README.md" not in repo.files


def test_killed_it_is_continued_and_what_travelled_stays(
    tape: Path, hub: Hub, tmp_path: Path
) -> None:
    sent = 0

    def stall(method: str, path: str) -> int:
        nonlocal sent
        sent += method == "PUT"
        if sent > 12:
            time.sleep(0.05)
        return 0

    hub.fails = stall
    command = [sys.executable, "-m", "pipeline", "push", str(tape), URL, "--jobs", "2"]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while sent <= 12:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    hub.fails = lambda method, path: 0
    there = len(hub.objects)
    before = hub.asked["PUT", "objects"]
    assert not hub.repos["team/tape"].commits
    send(tape, URL)
    assert hub.asked["PUT", "objects"] - before <= len(hub.objects) - there
    assert content(URL) == content(tape)
    bring(URL, tmp_path / "out")
    sound(tmp_path / "out")


def test_two_pushes_at_once_and_another_tape(tape: Path, hub: Hub, tmp_path: Path) -> None:
    plan = plan_push(str(tape), open_store(URL))
    repo = hub.repos["team/tape"]
    repo.head = "1" * 40
    with pytest.raises(OutputError, match="another push was committed there meanwhile"):
        push(plan, uncounted)
    assert not repo.files
    send(tape, URL)
    other = make(tmp_path / "other", groups=("samples",), licence="CC0-1.0")
    with pytest.raises(OutputError, match="holds another tape"):
        send(other, URL)


def test_failures_are_tried_again_then_named(
    tape: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: dict[str, int] = {}

    def once(method: str, path: str) -> int:
        if "/commit/" not in path:
            return 0
        failed[path] = failed.get(path, 0) + 1
        return 503 if failed[path] == 1 else 0

    hub.fails = once
    send(tape, URL)
    assert content(URL) == content(tape)
    hub.fails = lambda method, path: 503 if "/commit/" in path else 0
    with pytest.raises(TransferError, match=r"tried 5 times"):
        send(tape, "hf://datasets/team/second")
    hub.fails = lambda method, path: 0
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(TransferError, match="team/tape"):
        send(tape, URL)
    for wrong in ("hf://datasets/team", "hf://team/model", f"{URL}@main"):
        with pytest.raises(UsageError, match="expected hf://datasets/ORGANISATION/NAME"):
            open_store(wrong)
