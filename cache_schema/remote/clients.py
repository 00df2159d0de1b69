"""Clients of the protocols that tapes are read by: none waits for a silent server for ever."""

from __future__ import annotations

import os
from typing import Any

import fsspec

from cache_schema.errors import TransferError, UsageError

STALL_VARIABLE = "TEACHERTAPE_STALL_S"
STALL_S = 60.0
"""A connection over which nothing came for so long is given up and made anew."""


class TooLongError(Exception):
    """More arrived than there can be."""


class AtMost(fsspec.callbacks.Callback):  # type: ignore[misc]
    """Ends a transfer that brings more bytes than expected.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def relative_update(self, inc: int = 1) -> None:
        """Count bytes that arrived."""
        self.absolute_update(self.value + inc)

    def absolute_update(self, value: int) -> None:
        """Take how many arrived by now."""
        self.value = value
        if value > self._most:
            raise TooLongError


def stall_s() -> float:
    """Return the seconds without a byte after which a connection is given up.

    Raises:
        UsageError: the variable is no positive number.
    """
    text = os.environ.get(STALL_VARIABLE, str(STALL_S))
    try:
        if (seconds := float(text)) > 0:
            return seconds
    except ValueError:
        pass
    raise UsageError(f"{STALL_VARIABLE}={text!r}: expected a number of seconds above 0")


def connect(location: str) -> tuple[Any, str]:
    """Return a client of a URL's protocol, and the URL's path as it takes it.

    Raises:
        UsageError: the URL is of no known kind, or what speaks its protocol is not installed.
        TransferError: nobody answers.
    """
    options = _options(location.partition("://")[0])
    try:
        fs, root = fsspec.core.url_to_fs(location, **options)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{location}: {error}; s3, gcs and ssh need: pip install 'teachertape[share]'"
        ) from error
    except Exception as error:
        raise TransferError(f"{location}: no connection: {told(error)}") from error
    if hasattr(fs, "retries"):  # of S3's client: tries are ours
        fs.retries = 1
    return fs, str(root).rstrip("/")


def told(error: BaseException) -> str:
    """Return an error's class and text."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _options(protocol: str) -> dict[str, Any]:
    """Return what makes a client of a protocol notice a server that went silent."""
    seconds = stall_s()
    if protocol in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        return {"client_kwargs": {"timeout": timeout}}
    if protocol in ("s3", "s3a"):
        return {
            "config_kwargs": {
                "connect_timeout": seconds,
                "read_timeout": seconds,
                "retries": {"total_max_attempts": 1},  # tries are ours: theirs would multiply
            },
            "use_listings_cache": False,
        }
    if protocol in ("ssh", "sftp"):  # known_hosts: (): a host's key is compared with ours
        return {
            "connect_timeout": seconds,
            "keepalive_interval": max(1.0, seconds / 3),
            "known_hosts": (),
        }
    return {}
