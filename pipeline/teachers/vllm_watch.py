"""An engine process that is killed must not leave us waiting for ever.

vLLM's synchronous client notices that its engine's process has gone, closes its sockets, and goes
on waiting for an output that nobody sends any more. So we wait for the process too, and put the
news where the client looks for outputs.
"""

from __future__ import annotations

import threading
from multiprocessing import connection
from typing import Any


def wake_on_death(client: Any) -> None:
    """Let a waiting client raise when its engine's processes end.

    Args:
        client: vLLM's ``llm_engine.engine_core``; one whose engine runs in this process has nothing
            to watch, and one under Ray is left to Ray.
    """
    processes: Any = getattr(getattr(client, "resources", None), "engine_manager", None)
    if not hasattr(processes, "sentinels"):
        return

    def watch() -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        connection.wait(processes.sentinels())
        client.outputs_queue.put_nowait(EngineDeadError())

    threading.Thread(target=watch, name="engine-watch", daemon=True).start()
