"""Servers on the loopback that tapes are pushed to and read from: HTTP with faults, S3, SSH."""

from __future__ import annotations

import functools
import http.server
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"


class Faults:
    """Which requests fail, and how; counts every one.

    Attributes:
        kind: ``stall``, ``reset``, ``cut``, ``garbage``, ``500``, or ``endless``.
        times: how often each path fails before it is served; -1 for ever.
        only: which paths fail.
        heads: whether HEAD fails too; always with 503, and counted as ``HEAD path``.
        pause_s: before every answer.
        asked: path -> requests.
        served: path -> requests answered in full.
    """

    def __init__(self) -> None:
        self.kind = ""
        self.times = 0
        self.only: Callable[[str], bool] = lambda path: True
        self.heads = False
        self.pause_s = 0.0
        self.asked: Counter[str] = Counter()
        self.served: Counter[str] = Counter()

    def sent(self, count: int) -> None:
        """Called with the bytes of every piece of an endless answer."""

    def of(self, path: str) -> str:
        self.asked[path] += 1
        fails = self.times < 0 or self.asked[path] <= self.times
        return self.kind if fails and self.only(path) else ""


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Answers as ``faults`` says; made a class of its own for each server."""

    protocol_version = "HTTP/1.1"
    faults: Faults

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        time.sleep(self.faults.pause_s)
        if fault := self.faults.of(self.path):
            self.close_connection = True
            getattr(self, f"_{fault}")()
            return
        super().do_GET()
        self.faults.served[self.path] += 1

    def do_HEAD(self) -> None:
        if self.faults.heads and self.faults.of(f"HEAD {self.path}"):
            self._500()
            return
        super().do_HEAD()

    def _content(self) -> bytes:
        path = Path(self.translate_path(self.path))
        return path.read_bytes() if path.is_file() else b"<html></html>" * 9

    def _head(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def _stall(self) -> None:
        self._cut()
        self.wfile.flush()
        time.sleep(2.5)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _cut(self) -> None:
        content = self._content()
        self._head(len(content))
        self.wfile.write(content[: len(content) // 2])

    def _garbage(self) -> None:
        content = bytearray(self._content())
        content[len(content) // 2] ^= 1
        self._head(len(content))
        self.wfile.write(content)

    def _endless(self) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        for _ in range(1 << 14):  # a gigabyte, if the client takes it
            self.faults.sent(self.wfile.write(bytes(1 << 16)))

    def _500(self) -> None:
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """Clients that leave are no errors."""


@contextmanager
def http_server(root: Path, faults: Faults) -> Iterator[str]:
    """Serve a folder, its folders as pages of links; yield the URL."""
    handler = functools.partial(
        type("Handler", (_Handler,), {"faults": faults}), directory=str(root)
    )
    with _Server((LOOPBACK, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Start an S3 API server; yield the environment of its clients."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address=LOOPBACK, port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.stop()


@contextmanager
def ssh_server(home: Path) -> Iterator[str]:
    """Start an SSH server with SFTP that ``home``'s key opens and its known hosts know."""
    import asyncio

    import asyncssh

    keys = home / ".ssh"
    keys.mkdir(parents=True)
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    user_key.write_private_key(str(keys / "id_ed25519"))
    (keys / "id_ed25519").chmod(0o600)
    user_key.write_public_key(str(home / "authorized"))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(20)

    open_ones: list[Any] = []

    class Seen(asyncssh.SSHServer):
        def connection_made(self, conn: Any) -> None:
            open_ones.append(conn)

    async def listen() -> Any:
        return await asyncssh.listen(
            LOOPBACK,
            0,
            server_factory=Seen,
            server_host_keys=[host_key],
            authorized_client_keys=str(home / "authorized"),
            sftp_factory=True,
        )

    async def close(acceptor: Any) -> None:
        for connection in open_ones:
            connection.abort()
            await connection.wait_closed()
        acceptor.close()
        await acceptor.wait_closed()

    acceptor = run(listen())
    port = acceptor.sockets[0].getsockname()[1]
    public = host_key.export_public_key().decode().strip()
    (keys / "known_hosts").write_text(f"[{LOOPBACK}]:{port} {public}\n")
    try:
        yield f"ssh://user@{LOOPBACK}:{port}"
    finally:
        run(close(acceptor))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
