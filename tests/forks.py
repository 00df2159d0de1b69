"""Functions run in forked children of a clean process that has imported what they need.

Forking the test process itself would copy its threads' locks; starting a process for every attempt
would import for seconds. Children can be killed, limited and timed; what they return is JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

TESTS = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a child ended.

    Attributes:
        status: exit status; minus the signal if it was killed by one, as by its timeout.
        value: what the function returned.
        error: the name of the exception's class, its bases' names, and its text, if it raised.
        trace: the traceback's text.
        seconds: how long the function computed, waiting aside.
        grown: bytes by which the child's peak resident memory exceeded what it began with.
    """

    status: int
    value: Any = None
    error: tuple[str, list[str], str] | None = None
    trace: str = ""
    seconds: float = 0.0
    grown: int = 0


class Forks:
    """The clean process; a context manager.

    Args:
        modules: imported there, before any child is made.
    """

    def __init__(self, *modules: str) -> None:
        command = [sys.executable, str(TESTS / "forks.py"), *modules]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._folder = tempfile.TemporaryDirectory(prefix="teachertape-forks-")
        self._count = 0
        assert self._ask({}) == {}

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()
        self._folder.cleanup()

    def start(self, function: str, *arguments: Any, memory: int = 0) -> tuple[int, str]:
        """Start ``module:name`` in a child; return its pid and the file of its answer.

        Args:
            function: what to call.
            arguments: JSON values.
            memory: bytes of address space it may add; 0 for any.
        """
        self._count += 1
        answer = f"{self._folder.name}/{self._count}.json"
        asked = {"function": function, "arguments": arguments, "answer": answer, "memory": memory}
        return self._ask(asked)["pid"], answer

    def wait(self, child: tuple[int, str], timeout_s: float = 120) -> Ended:
        """Wait for a child; kill it when it takes longer."""
        pid, answer = child
        status = self._ask({"wait": pid, "timeout_s": timeout_s})["status"]
        file = Path(answer)
        values = json.loads(file.read_text()) if file.exists() else {}
        file.unlink(missing_ok=True)
        return Ended(status=status, **values)

    def run(self, function: str, *arguments: Any, timeout_s: float = 120, memory: int = 0) -> Ended:
        """Start and wait."""
        return self.wait(self.start(function, *arguments, memory=memory), timeout_s)

    def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer


def _serve(modules: list[str]) -> None:
    sys.path[:0] = [str(TESTS), str(TESTS / "cache_schema")]
    for name in modules:
        importlib.import_module(name)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what children print must not be taken for a reply
    for line in sys.stdin:
        asked = json.loads(line)
        reply: dict[str, Any] = {}
        if "function" in asked:
            reply["pid"] = pid = os.fork()
            if pid == 0:
                _child(asked)
        elif "wait" in asked:
            reply["status"] = _wait(asked["wait"], asked["timeout_s"])
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _wait(pid: int, timeout_s: float) -> int:
    until = time.monotonic() + timeout_s
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def _child(asked: dict[str, Any]) -> None:
    values: dict[str, Any] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    status = 1
    try:
        module, _, name = asked["function"].partition(":")
        function = getattr(importlib.import_module(module), name)
        if asked["memory"]:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + asked["memory"],) * 2)
        started = time.process_time()
        values["value"] = function(*asked["arguments"])
        status = 0
    except BaseException as error:  # noqa: BLE001 - told to who asked
        bases = [base.__name__ for base in type(error).__mro__]
        values["error"] = (type(error).__name__, bases, str(error))
        values["trace"] = traceback.format_exc()
    values["seconds"] = time.process_time() - started
    values["grown"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    beside = Path(asked["answer"] + ".new")
    beside.write_text(json.dumps(values))
    beside.rename(asked["answer"])
    os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1:])
