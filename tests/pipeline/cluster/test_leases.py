"""The files of leases, between machines: no shared clock, no lock that tells who has ended."""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from whole_tape import GROUPS, add

from cache_schema import open_tape
from cache_schema.errors import ModelError, TapeError, UsageError
from pipeline.cluster import leases as module
from pipeline.cluster.lease import Lease, LeaseLostError
from pipeline.cluster.leases import Leases, Top
from pipeline.cluster.portions import NEVER
from pipeline.cluster.recipe import ClusterRecipe
from pipeline.cluster.slots import LeasedWriter, make_tape
from pipeline.cluster.work import Part
from pipeline.step import Pending

BEAT_S, EXPIRES_S = 0.05, 0.4


def leases(root: Path, rows: int = 8) -> Leases:
    made = Leases(root, "textual", rows, BEAT_S, EXPIRES_S)
    made.open()
    return made


def claimed(lease: Lease | None) -> Lease:
    assert lease is not None
    return lease


def looked_at(watching: Leases, seconds: float) -> list[str]:
    """What is said of the lease of portion 7, for so long."""
    told, until_s = [], time.monotonic() + seconds
    while time.monotonic() < until_s:
        told.append(watching.is_dead(7, 0))
        time.sleep(BEAT_S / 2)
    return told


def test_one_of_many_gets_a_portion(tmp_path: Path) -> None:
    many = [leases(tmp_path) for _ in range(8)]
    for portion in range(20):
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda one, p=portion: one.claim(p, 0), many))
        assert sum(lease is not None for lease in got) == 1
        next(lease for lease in got if lease is not None).finish()
    assert many[0].tops() == {p: Top(generation=0, done=True) for p in range(20)}


def test_heartbeats_are_what_tells_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever clock set the file's time, and however long ago it says it was."""
    monkeypatch.setattr(module, "_boot", lambda: "")
    one, two = leases(tmp_path), leases(tmp_path)
    lease = claimed(one.claim(7, 0))
    assert set(looked_at(two, 2 * EXPIRES_S)) == {""}
    lease._end()  # its worker is stopped
    file = tmp_path / ".leases/textual/000/000007.0"
    os.utime(file, (1e9, 1e9))
    told = looked_at(two, 2 * EXPIRES_S)
    assert not told[0]
    assert "was not heard of" in told[-1]
    assert f"process {os.getpid()}" in told[-1]
    taken = claimed(two.claim(7, 1))
    with pytest.raises(LeaseLostError, match="another worker took over"):
        lease.check()
    taken.check()
    assert one.top(7, NEVER) == Top(generation=1, done=False)
    assert one.claim(7, 1) is None
    taken.finish()
    lease.close()
    assert one.top(7, NEVER) == Top(generation=1, done=True)


def test_one_of_many_takes_over(tmp_path: Path) -> None:
    many = [leases(tmp_path) for _ in range(8)]
    for portion in range(20):
        claimed(many[0].claim(portion, 0)).close()
        assert many[1].is_dead(portion, 0) == "ended"
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda one, p=portion: one.claim(p, 1), many))
        assert sum(lease is not None for lease in got) == 1
        next(lease for lease in got if lease is not None).finish()


def test_a_takeover_is_seen_by_who_does_not_see_new_names(tmp_path: Path) -> None:
    """NFS may go on saying for a while that a name is not there; the file itself it asks for."""
    one, two = leases(tmp_path), leases(tmp_path)
    lease = claimed(one.claim(7, 0))
    lease.check()
    taken = claimed(two.claim(7, 1))
    (tmp_path / ".leases/textual/000/000007.1").rename(tmp_path / "unseen")
    with pytest.raises(LeaseLostError):
        lease.check()
    for each in (lease, taken):
        each.close()


def test_silence_while_nobody_could_look_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks was stopped too, or the server was away for all: the worker gets time to beat."""
    monkeypatch.setattr(module, "_boot", lambda: "")
    now_s = 1000.0
    monkeypatch.setattr("pipeline.cluster.lease.time.monotonic", lambda: now_s)
    one, two = leases(tmp_path), leases(tmp_path)
    lease = claimed(one.claim(7, 0))
    lease._end()
    told = []
    for _ in range(5):
        told.append(two.is_dead(7, 0))
        now_s += 1000 * EXPIRES_S
    assert told[:4] == [""] * 4
    assert "was not heard of" in told[4]
    os.utime(lease._descriptor)
    assert two.is_dead(7, 0) == ""
    lease.close()


def test_other_files_in_the_folder(tmp_path: Path) -> None:
    one = leases(tmp_path)
    claimed(one.claim(7, 0)).finish()
    folder = tmp_path / ".leases/textual/000"
    for name in ("README", ".nfs00012", "7", "7.x", "\u00b2.1", "000007.0.done.bak", "a.b.c.d"):
        (folder / name).touch()
    assert one.tops() == {7: Top(generation=0, done=True)}


def test_an_engine_that_dies_after_its_lease(tmp_path: Path) -> None:
    """What was whole is committed when an engine dies, unless another worker does it by now."""
    make_tape(tmp_path / "tape", "unspecified")
    one, two = leases(tmp_path / "tape"), leases(tmp_path / "tape")

    def work(part: Part[Pending], writer: LeasedWriter) -> None:
        with part:
            add(writer, "samples", 0)
            claimed(two.claim(7, 1)).close()
            raise ModelError("the engine died")

    with LeasedWriter(tmp_path / "tape", GROUPS["samples"], writer="wauto0") as writer:
        lease = claimed(one.claim(7, 0))
        part: Part[Pending] = Part(None, None, None, writer, lease)  # type: ignore[arg-type]
        with pytest.raises(ModelError):
            work(part, writer)
    assert open_tape(tmp_path / "tape").shards == {"samples": []}


def test_what_is_given_back_is_free_at_once(tmp_path: Path) -> None:
    one, two = leases(tmp_path), leases(tmp_path)
    lease = claimed(one.claim(7, 0))
    assert two.is_dead(7, 0) == ""
    lease.release()
    assert two.is_dead(7, 0) == "was given back"


def test_the_folder_may_go(tmp_path: Path) -> None:
    """Another worker found nothing left and removed it."""
    one = leases(tmp_path)
    life = one.open()
    lease = claimed(one.claim(7, 0))
    one.remove()
    assert not (tmp_path / ".leases").exists()
    assert one.claim(8, 0) is None
    with pytest.raises(LeaseLostError):
        lease.check()
    lease.finish()
    assert one.open() != life


def test_portions_of_one_size(tmp_path: Path) -> None:
    leases(tmp_path, rows=8)
    with pytest.raises(UsageError, match=r"share out 8 rows.*told 16.*portion_rows"):
        leases(tmp_path, rows=16)


def test_links_are_refused(tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    tape = tmp_path / "tape"
    (tape / ".leases").mkdir(parents=True)
    (tape / ".leases" / "textual").symlink_to(away)
    with pytest.raises(TapeError, match="is a link"):
        leases(tape)
    assert list(away.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [{"portion_rows": -1}, {"heartbeat_s": 0}, {"expires_s": 15}, {"gpus_per_actor": 0},
     {"retries": -1}],
)  # fmt: skip
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(
        UsageError, match=rf"cluster\.{'expires_s' if 'heart' in str(wrong) else next(iter(wrong))}"
    ):
        ClusterRecipe(**wrong)  # type: ignore[arg-type]


def test_a_lease_without_a_lock_is_judged_by_its_heartbeat_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On its own machine too, where an open lock would say that its worker has ended."""
    here, watching = leases(tmp_path), leases(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module.fcntl, "flock", no_locks)
        mine = claimed(here.claim(7, 0))
    assert not any(looked_at(watching, 2 * EXPIRES_S))
    mine.finish()


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "no locks available")
