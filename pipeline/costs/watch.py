"""A process watched from outside: how much memory it takes, and that all of it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType

from cache_schema.commands.child import end_with_parent

LOOK_INTERVAL_S = 0.1
STOP_TIMEOUT_S = 10.0


class Watched:
    """A process whose memory is looked at while it runs; stopped if the context is left early."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command = command
        self._environment = {**os.environ, **_temporary(folder)}
        self._gpus = _gpu_bytes()
        self.host_bytes = 0
        self.gpu_bytes: int | None = 0 if self._gpus else None

    def __enter__(self) -> Watched:
        # A session of its own: Ctrl-C reaches us alone, and we see to it that all of it ends.
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            preexec_fn=end_with_parent,
            start_new_session=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)  # so that it closes its engine
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self) -> int:
        """Look at the memory until the process ends; return its exit status."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(LOOK_INTERVAL_S)
            self.host_bytes = max(self.host_bytes, sum(map(_host_bytes, _tree(self._process.pid))))
            if self.gpu_bytes is not None:
                taken = [a - b for a, b in zip(_gpu_bytes(), self._gpus, strict=False)]
                self.gpu_bytes = max([self.gpu_bytes, *taken])


def _temporary(folder: Path) -> dict[str, str]:
    """Let libraries that forget their temporary folders leave them where all is removed."""
    inside = folder / "t"
    inside.mkdir(exist_ok=True)
    # An engine puts sockets there under 37 characters; the system takes 107 in all.
    return {"TMPDIR": str(inside)} if len(str(inside)) <= 64 else {}


def _tree(pid: int) -> Iterator[int]:
    """Yield a process and those below it (Linux; elsewhere nothing below is seen)."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                yield from _tree(int(child))


def _host_bytes(pid: int) -> int:
    """Return the memory of a process, what it shares with others divided among them."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def own_peak_bytes() -> int:
    """Return the largest memory this process had at any moment, 0 where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def _gpu_bytes() -> list[int]:
    """Return the memory in use on each GPU; empty without ``nvidia-smi``."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return [int(line) << 20 for line in done.stdout.split() if line.isdigit()]


@contextlib.contextmanager
def ending_means_cleaning() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end us as Ctrl-C does: with everything removed."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {s: signal.signal(s, interrupt) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
