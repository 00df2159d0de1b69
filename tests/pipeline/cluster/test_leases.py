"""The files of leases, between machines: no shared clock, no lock that tells who has ended."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache_schema.errors import TapeError, UsageError
from pipeline.cluster import leases as module
from pipeline.cluster.leases import Lease, LeaseLostError, Leases, Top
from pipeline.cluster.portions import NEVER
from pipeline.cluster.recipe import ClusterRecipe

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
