"""An engine's processes end when the process that started the engine does, however that died.

vLLM's engine does not notice that the process it serves was killed, and would hold its GPU for
ever, also while it is still loading.
"""

from __future__ import annotations

import os
import select
import threading

_OWNER = "TEACHERTAPE_ENGINE_OWNER"
"""Environment variable with the owner's process id; the engine's processes inherit it."""


def own_engine() -> None:
    """Call before an engine is started: it is this process's."""
    os.environ[_OWNER] = str(os.getpid())


def end_with_owner() -> None:
    """Call in an engine's process: from now on it ends when its owner does."""
    owner = int(os.environ[_OWNER])
    if owner == os.getpid() or not hasattr(os, "pidfd_open"):  # Linux has it
        return
    ended = select.poll()
    ended.register(os.pidfd_open(owner), select.POLLIN)

    def watch() -> None:
        ended.poll()
        os._exit(1)

    threading.Thread(target=watch, name="owner-watch", daemon=True).start()
