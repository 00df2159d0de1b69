"""``--cluster ray``: the steps on actors of a Ray cluster, each a worker that leases its rows.

One actor a GPU, or a CPU where there is none; on a cluster that runs already (``RAY_ADDRESS``,
or this machine is one of its nodes), else on this machine alone. An actor runs the real step in a
process of its own and shares nothing with the others but the tape, so a lost one, or a lost node,
costs its open portion: the others take it over, and another actor is started in its place. The
rows are on a shared file system, under the same path everywhere; an actor that does not find
the tape there says so.
"""

from __future__ import annotations

import math
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from cache_schema import open_tape
from cache_schema.commands.console import say
from cache_schema.commands.progress import Counter
from cache_schema.commands.recipes import as_toml, load_recipe
from cache_schema.errors import TapeError, TeachertapeError, UsageError
from pipeline.cluster.marks import marked
from pipeline.cluster.recipe import AUTO
from pipeline.dataset.rows import open_rows
from pipeline.extract import StepFailedError, check, run_step, wanted_steps
from pipeline.recipe import ExtractRecipe
from pipeline.step import group_of

STORE_BYTES = 100 << 20
"""Ray's own memory on this machine: nothing of the tape goes through it."""

LOOK_S, LOOK_SHARE = 2.0, 20
"""The driver looks at the tape every so often, and for at most one part in so many of its time."""

ROOM_S = 30.0
"""After so long it is said that actors wait for room."""

GRACE_S = 60.0
"""How long actors that are still at it have once one has found nothing left."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an actor ended.

    Attributes:
        where: its process and machine.
        error: what it refused to do, empty if nothing.
        usage: whether that is wrong usage.
    """

    where: str
    error: str = ""
    usage: bool = False


class StepActor:
    """Runs one step of a recipe, in an actor's process."""

    def is_there(self) -> bool:
        """Answer as soon as the cluster has found room for this process and started it."""
        return True

    def run(self, step: str, recipe: str, folder: str, mark: str, debug: bool) -> Outcome:
        """Work at a step until nothing of it is left.

        Args:
            step: its name.
            recipe: the recipe as TOML.
            folder: the directory in which the command was given.
            mark: a file on the tape that the driver has made.
            debug: whether to print tracebacks.
        """
        where = f"process {os.getpid()} on {socket.gethostname()}"
        try:
            with suppress(OSError):
                os.chdir(folder)
            if not Path(mark).exists():
                raise TapeError(
                    f"{Path(mark).parents[1]} is not the same folder on {socket.gethostname()} as "
                    "where the command was given: the tape must be on a file system that all "
                    "nodes share, under one path"
                )
            with tempfile.TemporaryDirectory(prefix="teachertape-") as own:
                file = Path(own) / "recipe.toml"
                file.write_text(recipe, encoding="utf-8")
                run_step(step, load_recipe(ExtractRecipe, file))
        except TeachertapeError as error:
            if debug:
                traceback.print_exc()
            return Outcome(where=where, error=str(error), usage=isinstance(error, UsageError))
        return Outcome(where=where)


def run_on_ray(recipe: ExtractRecipe, only: str | None, debug: bool = False) -> None:
    """Run the steps, one after the other, each on all actors.

    Raises:
        UsageError: Ray is not installed, or a setting is wrong.
        StepFailedError: a step refused to go on, or lost more actors than ``cluster.retries``.
    """
    if recipe.worker not in (AUTO, "0/1"):
        raise UsageError("--cluster ray shares out the rows itself; leave out --worker")
    ray = _ray()
    check(recipe)
    leased = replace(recipe, worker=AUTO, cluster=replace(recipe.cluster, kind=""))
    steps = [only] if only else wanted_steps(recipe)
    with _connected(ray, recipe.cluster.address), marked(recipe) as mark:
        for number, step in enumerate(steps, 1):
            say(f"[{number}/{len(steps)}] {step}")
            options, count = _resources(ray, leased, step)
            Crew(ray, leased, step, options, count, mark, debug).work()
    say(f"tape: {recipe.tape.out}   look: pipeline inspect {recipe.tape.out}")


def _ray() -> ModuleType:
    try:
        return import_module("ray")
    except ImportError as error:
        raise UsageError(
            f"--cluster ray needs Ray ({error}): pip install 'teachertape[cluster]'"
        ) from error


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Join a cluster that is there, or start Ray on this machine."""
    try:
        ray.init(address=address or "auto", log_to_driver=True)
    except ConnectionError as error:
        if address:
            raise UsageError(f"cluster.address {address!r}: no Ray answers there") from error
        ray.init(address="local", include_dashboard=False, object_store_memory=STORE_BYTES)
    try:
        yield
    finally:
        ray.shutdown()


def _resources(ray: Any, recipe: ExtractRecipe, step: str) -> tuple[dict[str, Any], int]:
    """Return what an actor of a step takes, and how many there are to be."""
    there, each = ray.cluster_resources(), recipe.cluster.gpus_per_actor
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    on_nodes = [int(node.get("GPU", 0)) for node in nodes]
    gpus = sum(count // each for count in on_nodes)  # an actor is on one node
    if sum(on_nodes) and not gpus:
        raise UsageError(
            f"cluster.gpus_per_actor={each}: the node with the most GPUs has {max(on_nodes)}"
        )
    runs_models = step in ("textual", "acoustic") or bool(recipe.textualize.listen)
    options: dict[str, Any] = {"num_cpus": 1}
    if gpus and runs_models and step != "ingest":
        options["num_gpus"] = each
    count = recipe.cluster.actors or gpus or int(there.get("CPU", 1))
    return options, max(count, 1)


class Crew:
    """The actors of one step.

    Args:
        ray: the module.
        recipe: of an actor.
        step: what they run.
        options: what each takes of the cluster.
        count: how many there are.
        mark: see ``StepActor``.
        debug: see ``StepActor``.
    """

    def __init__(
        self,
        ray: Any,
        recipe: ExtractRecipe,
        step: str,
        options: dict[str, Any],
        count: int,
        mark: str,
        debug: bool,
    ) -> None:
        self._ray, self._recipe, self._step = ray, recipe, step
        self._make = ray.remote(**options)(StepActor)
        self._each = ", ".join(f"{name}={count}" for name, count in options.items())
        self._arguments = (step, as_toml(recipe), str(Path.cwd()), mark, debug)
        self._count = count
        self._running: dict[Any, Any] = {}
        self._awaited: list[Any] = []
        self._lost = 0

    def work(self) -> None:
        """Run the step to its end.

        Raises:
            StepFailedError: it refused to go on, or too many actors were lost.
            UsageError: a setting is wrong.
        """
        for _ in range(self._count):
            self._start()
        deadline_s, room_s = None, time.monotonic() + ROOM_S
        try:
            with self._watched() as look:
                while self._running and (deadline_s is None or time.monotonic() < deadline_s):
                    if time.monotonic() > room_s:
                        self._say_who_waits()
                        room_s = math.inf
                    ended, _ = self._ray.wait(list(self._running), timeout=LOOK_S)
                    for reference in ended:
                        if self._end(reference) and deadline_s is None:
                            deadline_s = time.monotonic() + GRACE_S
                    look()
        finally:
            for actor in self._running.values():
                self._ray.kill(actor)

    def _start(self) -> None:
        actor = self._make.remote()
        self._awaited.append(actor.is_there.remote())
        self._running[actor.run.remote(*self._arguments)] = actor

    def _say_who_waits(self) -> None:
        """Say how many actors have no room: others may hold the cluster for long."""
        there, waiting = self._ray.wait(self._awaited, num_returns=len(self._awaited), timeout=0)
        if waiting:
            free = self._ray.available_resources()
            say(
                f"{self._step}: {len(there)} actors of {self._count} have started; the others wait "
                f"for room, {self._each} each; the cluster has {free.get('CPU', 0):g} CPUs and "
                f"{free.get('GPU', 0):g} GPUs free"
            )

    def _end(self, reference: Any) -> bool:
        """Take how an actor ended; return whether it found nothing left."""
        actor = self._running.pop(reference)
        try:
            outcome = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # an error without a name of ours
            self._replace(f"{type(error.cause).__name__}: {error.cause}", "failed")
            return False
        except self._ray.exceptions.RayError as error:
            self._replace(str(error).strip(), "was lost")
            return False
        finally:
            self._ray.kill(actor)  # with everything its process holds
        if outcome.error:
            failed = UsageError if outcome.usage else StepFailedError
            raise failed(f"{self._step}: {outcome.where}: {outcome.error}")
        return True

    def _replace(self, why: str, what: str) -> None:
        self._lost += 1
        most = self._recipe.cluster.retries
        if self._lost > most:
            raise StepFailedError(
                f"{self._step}: {self._lost} actors were lost or failed, --set cluster.retries="
                f"{most} are started again; what is committed is on the tape. The last one: {why}"
            )
        last = why.splitlines()[-1] if why else "no reason given"
        say(f"{self._step}: an actor {what}, another is started ({self._lost} of {most}): {last}")
        self._start()

    @contextmanager
    def _watched(self) -> Iterator[Callable[[], None]]:
        """Count what all actors together have done, from the tape itself."""
        recipe, group = self._recipe, group_of(self._step, self._recipe)

        def done() -> int:
            tape = open_tape(recipe.tape.out)
            failed = sum(one.group == group for one in tape.catalog.each_quarantined())
            return int(tape.recorded_mask(group).sum()) + failed

        before = done()
        known, next_s = before, 0.0
        tape = open_tape(recipe.tape.out)
        total = len(open_rows(recipe.dataset)) if self._step == "ingest" else len(tape)
        title = f"{self._step} on {self._count} actors"
        with Counter(title, max(total - before, 0)) as counter:

            def look(*, last: bool = False) -> None:
                nonlocal known, next_s
                began_s = time.monotonic()
                if began_s < next_s and not last:
                    return
                now = done()
                counter.advance(max(now - known, 0))
                known = max(now, known)
                next_s = time.monotonic() + LOOK_SHARE * (time.monotonic() - began_s)

            yield look
            look(last=True)
