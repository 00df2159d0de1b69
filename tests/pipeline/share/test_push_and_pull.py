"""Push and pull: whole, again, grown, tampered with, two at once; against folders, S3 and SSH."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from share_servers import ssh_server
from whole_tape import content, fill, make

from cache_schema import open_tape
from cache_schema.errors import MissingSignalError, OutputError, TapeError, UsageError
from cache_schema.parts.part import Selection, parse_layers
from cache_schema.validate.tape import validate
from pipeline.share.open_store import open_store
from pipeline.share.pull import pull
from pipeline.share.pull_plan import PullPlan, plan_pull
from pipeline.share.push import push
from pipeline.share.push_lock import NAME
from pipeline.share.push_plan import PushPlan, plan_push
from pipeline.share.store import FileStore

TABLE = "shards/textual/000/w0-000000/topk.arrow"


@contextmanager
def uncounted(_title: str, _total: int) -> Iterator[Any]:
    yield lambda _count: None


def send(tape: Path, url: str, **options: Any) -> PushPlan:
    plan = plan_push(str(tape), open_store(url), **options)
    push(plan, uncounted)
    return plan


def bring(url: str, out: Path, check: bool = False, **chosen: Any) -> PullPlan:
    plan = plan_pull(url, out, Selection(**chosen), check=check)
    pull(plan, out, uncounted)
    return plan


def sound(out: Path) -> None:
    found = validate(out, uncounted, deep=True)
    assert found.problems == []
    assert [note for note in found.notes if note.kind != "repeated"] == []


@pytest.fixture(params=["folder", "memory", "s3", "ssh"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "there")
    elif request.param == "memory":
        yield "memory://pushed"
        fsspec.filesystem("memory").store.clear()
    elif request.param == "s3":
        yield request.getfixturevalue("s3") + "/team/tape"
    else:
        monkeypatch = request.getfixturevalue("monkeypatch")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        with ssh_server(tmp_path / "home") as server:
            yield f"{server}{tmp_path}/there"
            fsspec.get_filesystem_class("ssh").clear_instance_cache()


def test_there_and_back(tape: Path, url: str, tmp_path: Path) -> None:
    first = send(tape, url)
    assert first.files > 40
    again = send(tape, url, check=True)
    assert (again.files, again.kept, again.damaged) == (0, first.bytes, [])
    out = tmp_path / "out"
    assert bring(url, out).files > 30
    sound(out)
    assert content(out) == content(tape)
    assert bring(url, out).files == 0
    assert content(url) == content(tape)
    assert NAME not in open_store(url).listing()


def test_what_grew_is_all_that_travels(tmp_path: Path) -> None:
    tape, url, out = make(tmp_path / "tape"), "memory://grown", tmp_path / "out"
    send(tape, url)
    bring(url, out)
    fill(tape, indexes=range(3, 6))
    more = send(tape, url)
    assert 0 < more.files < 60
    assert all("-000002" in one.path or "-000003" in one.path for one in more.sent)
    assert content(url) == content(tape)
    assert sum(name.startswith("index/") for name in open_store(url).listing()) == 1
    more_here = bring(url, out)
    assert more_here.kept > 0
    assert {shard.record.path[-7:] for shard in more_here.shards if shard.missing} <= {
        "-000002", "-000003",
    }  # fmt: skip
    sound(out)
    assert content(out) == content(tape)


@pytest.mark.parametrize("profile", ["hot", "archive", "lossy2x"])
def test_a_part_is_a_tape_and_more_can_be_added(tmp_path: Path, profile: str) -> None:
    tape, out = make(tmp_path / "tape", profile), tmp_path / "out"
    chosen = {"signals": ("textual/trace", "textual/hidden"), "layers": {"": (3,)}}
    part = bring(str(tape), out, audio=False, **chosen)
    sound(out)
    here = open_tape(out)
    assert here.signals == ("textual/hidden", "textual/trace")
    assert here["s2"]["textual/hidden"].layers == (3,)
    whole = open_tape(tape)["s2"].signal("textual/hidden", layers=(3,))
    assert (here["s2"]["textual/hidden"].states == whole.states).all()
    assert here.groups["textual"].fingerprint == open_tape(tape).groups["textual"].fingerprint
    with pytest.raises(MissingSignalError, match="pipeline attach"):
        _ = here["s1"].audio
    more = bring(str(tape), out, audio=False, signals=("textual",))
    assert more.kept == part.bytes
    sound(out)
    assert open_tape(out)["s2"]["textual/hidden"].layers == (1, 3)
    rest = bring(str(tape), out)
    assert rest.kept == part.bytes + more.bytes
    sound(out)
    assert content(out) == content(tape)
    assert (out / "manifest/w0.jsonl").read_bytes() == (tape / "manifest/w0.jsonl").read_bytes()


def test_a_part_of_a_part_and_a_source_added_to_it(tape: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    bring(str(tape), out, signals=("textual/trace", "textual/topk"))
    bring(str(out), again, signals=("textual/topk",))
    sound(again)
    assert open_tape(again).signals == ("textual/topk",)
    fill(out, groups=["acoustic"], writer="w1", indexes=range(4))
    sound(out)
    mine, theirs = open_tape(out)["s2"], open_tape(tape)["s2"]
    assert (mine["acoustic/hidden"].states == theirs["acoustic/hidden"].states).all()
    with pytest.raises(OutputError, match=r"another tape|added here"):
        bring(str(make(tmp_path / "other", groups=("samples",), indexes=range(9))), out)


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"signals": ("textual/top",)}, "did you mean 'textual/topk'"),
        ({"layers": {"": (1, 2)}}, r"\[2\] are not recorded"),
        ({"layers": {"samples": (1,)}}, "no states of a source 'samples'"),
    ],
)
def test_what_is_not_there_is_named(tape: Path, tmp_path: Path, chosen: Any, told: str) -> None:
    with pytest.raises(MissingSignalError, match=told):
        plan_pull(str(tape), tmp_path / "out", Selection(**chosen))
    with pytest.raises(UsageError, match="expected numbers"):
        parse_layers(["textual=a"])


@pytest.mark.parametrize("how", ["changed", "cut", "removed"])
def test_a_tampered_file_is_named_and_sent_again(tape: Path, tmp_path: Path, how: str) -> None:
    there = tmp_path / "there"
    send(tape, str(there))
    data = (there / TABLE).read_bytes()
    if how == "removed":
        (there / TABLE).unlink()
    else:
        changed = data[:-9] if how == "cut" else data[:99] + bytes([data[99] ^ 1]) + data[100:]
        (there / TABLE).write_bytes(changed)
    for location in (str(there), f"file://{there}"):
        with pytest.raises(TapeError, match=r"w0-000000/topk\.arrow (has|is damaged|is missing)"):
            bring(location, tmp_path / "out")
    plan = send(tape, str(there), check=True)
    assert [told.partition(" ")[0] for told in plan.damaged] == [TABLE]
    bring(str(there), tmp_path / "out")
    (tmp_path / "out" / TABLE).write_bytes(data[:-1])
    mended = bring(str(there), tmp_path / "out")
    assert (mended.files, len(mended.damaged)) == (1, 1)
    sound(tmp_path / "out")


def test_a_swapped_manifest_is_refused(tape: Path, tmp_path: Path) -> None:
    there, other = tmp_path / "there", make(tmp_path / "other", "lossy2x")
    send(tape, str(there))
    shutil.copy(other / "manifest/w0.jsonl", there / "manifest/w0.jsonl")
    with pytest.raises(TapeError, match=r"index is of another|shorter"):
        open_tape(f"file://{there}")
    with pytest.raises(OutputError, match=r"w0\.jsonl has \d+ lines that this tape has not"):
        send(tape, str(there))
    with pytest.raises(TapeError, match=r"w0-\d+/\S+ (has|is damaged|is missing)"):
        bring(str(there), tmp_path / "out")
    whole = (tape / "manifest/w0.jsonl").read_bytes()
    (there / "manifest/w0.jsonl").write_bytes(whole.replace(b'"samples": 2', b'"samples": 3', 1))
    with pytest.raises(TapeError, match=r"manifest/w0\.jsonl at byte \d+ is damaged"):
        bring(str(there), tmp_path / "out2")


def test_another_tape_is_not_overwritten(tape: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    other = make(tmp_path / "other", groups=("samples",), licence="CC0-1.0")
    send(other, str(there))
    with pytest.raises(OutputError, match=r"holds another tape \(dataset.json differs\)"):
        send(tape, str(there))
    with pytest.raises(OutputError, match="another tape"):
        bring(str(there), Path(shutil.copytree(tape, tmp_path / "copy")))
    with pytest.raises(UsageError, match="nothing can be pushed over http"):
        open_store("http://127.0.0.1:9/tape")


def test_two_pushes_at_once_are_noticed(tape: Path, tmp_path: Path) -> None:
    url = str(tmp_path / "there")
    store = FileStore(url)
    at_work = {"id": "x", "pid": os.getppid(), "host": os.uname().nodename, "at": 0}
    store.put_bytes(NAME, json.dumps(at_work).encode())
    plan = plan_push(str(tape), store)
    with pytest.raises(OutputError, match="another push is at work"):
        push(plan, uncounted)
    assert store.listing().keys() == {NAME}

    class Meanwhile(FileStore):
        def put(self, name: str, path: Path, record: Any) -> None:
            super().put(name, path, record)
            store.put_bytes(NAME, json.dumps(at_work).encode())

    with pytest.raises(OutputError, match="another push began there meanwhile"):
        push(plan_push(str(tape), Meanwhile(url)), uncounted, take_over=True)
    assert not (tmp_path / "there/dataset.json").exists()
    store.remove(NAME)
    send(tape, url)
    sound(tmp_path / "there")


def test_what_is_there_while_pushing_is_a_tape(
    tape: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.share.push.PUBLISH_S", 0.0)
    there, seen = tmp_path / "there", []

    class Watched(FileStore):
        def put_bytes(self, name: str, data: bytes) -> None:
            super().put_bytes(name, data)
            if name.startswith("manifest/"):
                found = validate(there, uncounted, deep=True)
                kinds = {problem.kind for problem in found.problems}
                assert kinds <= {"orphan"}  # shards on their way, which no line names
                seen.append(len(open_tape(there)))

    push(plan_push(str(tape), Watched(str(there))), uncounted, jobs=1)
    assert seen[-1] == 4
    assert len(seen) > 3
    sound(there)
