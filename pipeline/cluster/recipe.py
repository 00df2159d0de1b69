"""How several workers share the rows of a tape."""

from __future__ import annotations

from dataclasses import dataclass

from cache_schema.commands.recipes import one_of
from cache_schema.errors import UsageError

AUTO = "auto"
"""The ``--worker`` that leases portions, in the place of I/N."""


@dataclass(frozen=True, kw_only=True)
class ClusterRecipe:
    """Of ``--worker auto`` and ``--cluster ray``.

    Attributes:
        kind: what runs the steps: nothing (this process), or ``ray``.
        address: of a Ray cluster; without it one that is found, else this machine alone.
        portion_rows: rows leased at a time, the same for all workers of a step; 0 is as many as a
            shard holds, ``tape.shard_samples``.
        heartbeat_s: a worker says so often that it lives.
        expires_s: after so long without a heartbeat its portion is another's to take.
        actors: how many ``--cluster ray`` starts; 0 is one a GPU, or a CPU where there are none.
        gpus_per_actor: of the steps that run models, where the cluster has GPUs.
        retries: actors lost in one step that are started again.
    """

    kind: str = ""
    address: str = ""
    portion_rows: int = 0
    heartbeat_s: float = 10.0
    expires_s: float = 90.0
    actors: int = 0
    gpus_per_actor: int = 1
    retries: int = 8

    def __post_init__(self) -> None:
        if self.kind:
            one_of("--cluster", self.kind, ("ray",))
        for name in ("portion_rows", "actors", "retries"):
            if getattr(self, name) < 0:
                raise UsageError(f"cluster.{name}: expected 0 or more, got {getattr(self, name)}")
        if self.gpus_per_actor < 1:
            raise UsageError(
                f"cluster.gpus_per_actor: expected 1 or more, got {self.gpus_per_actor}"
            )
        if self.heartbeat_s <= 0 or self.expires_s < 2 * self.heartbeat_s:
            raise UsageError(
                "cluster.expires_s: expected at least twice cluster.heartbeat_s, which is above 0; "
                f"got {self.expires_s} and {self.heartbeat_s}"
            )
