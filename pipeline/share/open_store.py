"""Which kind of store a URL names."""

from __future__ import annotations

from pipeline.share.hub_store import HubStore, is_hub
from pipeline.share.store import FileStore, Store


def open_store(location: str) -> Store:
    """Return the place a URL names.

    Raises:
        UsageError: nothing can be pushed there.
    """
    return HubStore(location) if is_hub(location) else FileStore(location)
