"""A stand-in for the Hugging Face hub on the loopback: the HTTP API that huggingface_hub calls.

It answers for dataset repositories: made, listed by pages, preuploaded, sent by Git LFS, committed
after a parent, resolved with ranges. Contents by the hub's other protocol (Xet) are not spoken.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LOOPBACK = "127.0.0.1"
TOKEN = "hf_stand_in"
PAGE = 20
"""Entries of a page of a listing; the hub's have 1,000."""

LFS_BYTES = 10_000
"""Texts of more bytes, and whatever is no text, are kept by LFS; the hub's limit is 10 MB."""


class Repo:
    """A dataset repository: the files of its last commit, and how many there were."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.lfs: set[str] = set()
        self.commits: list[str] = []
        self.head = hashlib.sha1(b"made").hexdigest()


class Hub:
    """What the stand-in keeps, and what was asked of it.

    Attributes:
        repos: name -> repository.
        objects: sha256 -> content, sent by LFS.
        asked: (method, kind of request) -> how often.
        fails: (method, path) -> a status to answer with, 0 to serve.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: Counter[tuple[str, str]] = Counter()
        self.fails: Callable[[str, str], int] = lambda method, path: 0
        self.lock = threading.Lock()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub
    url: str

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else self._chunks()
        with self.hub.lock:
            parts = path.strip("/").split("/")
            kind = parts[4] if len(parts) > 4 and parts[0] == "api" else parts[0]
            self.hub.asked[self.command, kind] += 1
            if status := self.hub.fails(self.command, path):
                self._answer({"error": "as told"}, status)
            elif parts[0] == "objects":
                self.hub.objects[parts[1]] = body
                same = hashlib.sha256(body).hexdigest() == parts[1]
                self._answer({}, 200 if same else 400)
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._answer({"error": "no such repository"}, 401, "RepoNotFound")
            elif parts[:2] == ["api", "validate-yaml"]:
                front = json.loads(body)["content"].startswith("---\nlicense: ")
                self._answer({"warnings": [], "errors": []}, 200 if front else 400)
            elif parts[:3] == ["api", "repos", "create"]:
                self._create(json.loads(body))
            else:
                self._of_repo(parts, body)

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def _chunks(self) -> bytes:
        found = b""
        while self.headers.get("Transfer-Encoding") == "chunked":
            count = int(self.rfile.readline(), 16)
            found += self.rfile.read(count)
            self.rfile.readline()
            if not count:
                break
        return found

    def _answer(self, value: Any, status: int = 200, error: str = "", **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, text in {"X-Error-Code": error, **headers}.items():
            if text:
                self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _create(self, asked: dict[str, Any]) -> None:
        assert asked["type"] == "dataset"
        assert asked["visibility"] == "private"
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repos:
            self._answer({"error": "it exists"}, 409)
            return
        self.hub.repos[name] = Repo()
        self._answer({"url": f"{self.url}/datasets/{name}", "name": name})

    def _of_repo(self, parts: list[str], body: bytes) -> None:
        """Answer a request about a repository: ``[api/]datasets/ORG/NAME/WHAT/...``."""
        rest = parts[2:] if parts[0] == "api" else parts[1:]
        name = f"{rest[0]}/{rest[1].removesuffix('.git')}"
        repo = self.hub.repos.get(name)
        if repo is None:
            self._answer({"error": "no such repository"}, 404, "RepoNotFound")
            return
        what = rest[2] if len(rest) > 2 else "revision"
        if what not in ("info", "revision") and rest[3] not in ("main", repo.head):
            self._answer({"error": "no such revision"}, 404, "RevisionNotFound")
        else:
            getattr(self, f"_{what.replace('-', '_')}")(name, repo, "/".join(rest[4:]), body)

    def _revision(self, name: str, repo: Repo, _path: str, _body: bytes) -> None:
        self._answer({"id": name, "sha": repo.head, "private": True, "tags": []})

    def _tree(self, name: str, repo: Repo, path: str, _body: bytes) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        start = f"{path}/" if path else ""
        found = {one: _entry(repo, one) for one in repo.files if one.startswith(start)}
        if not found and path:
            self._answer({"error": "no such entry"}, 404, "EntryNotFound")
            return
        if asked["recursive"] not in (["true"], ["True"]):
            folders = {start + one[len(start) :].split("/")[0] for one in found}
            found = {
                one: found.get(one, {"type": "directory", "oid": "0" * 40, "size": 0, "path": one})
                for one in folders
            }
        at = int(asked.get("cursor", ["0"])[0])
        page = [found[one] for one in sorted(found)][at : at + PAGE]
        query = f"recursive={asked['recursive'][0]}&expand=False&cursor={at + PAGE}"
        more = f'<{self.url}{urlsplit(self.path).path}?{query}>; rel="next"'
        self._answer(page, Link=more if at + PAGE < len(found) else "")

    def _paths_info(self, _name: str, repo: Repo, _path: str, body: bytes) -> None:
        asked = parse_qs(body.decode())["paths"]
        self._answer([_entry(repo, one) for one in asked if one in repo.files])

    def _preupload(self, _name: str, repo: Repo, _path: str, body: bytes) -> None:
        modes = []
        for file in json.loads(body)["files"]:
            is_text = b"\0" not in base64.b64decode(file["sample"]) and file["size"] <= LFS_BYTES
            is_lfs = not is_text or file["path"].endswith(".arrow")
            there = _entry(repo, file["path"]) if file["path"] in repo.files else {}
            oid = there.get("lfs", there).get("oid")
            mode = "lfs" if is_lfs else "regular"
            modes.append(
                {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}
            )
        self._answer({"files": modes})

    def _info(self, _name: str, _repo: Repo, _path: str, body: bytes) -> None:
        """Answer Git LFS: what is there already need not be sent."""
        objects = []
        for one in json.loads(body)["objects"]:
            actions = {"upload": {"href": f"{self.url}/objects/{one['oid']}"}}
            is_new = one["oid"] not in self.hub.objects
            objects.append({**one, **({"actions": actions} if is_new else {})})
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repo: Repo, _path: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit", repo.head) != repo.head:
            self._answer({"error": "the parent is not the last commit"}, 412)
            return
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.objects[value["oid"]]
                repo.lfs.add(value["path"])
            elif line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
                repo.lfs.discard(value["path"])
            else:
                assert line["key"] == "deletedFile"
                del repo.files[value["path"]]
        repo.commits.append(header["summary"])
        repo.head = hashlib.sha1(body + repo.head.encode()).hexdigest()
        url = f"{self.url}/datasets/{name}/commit/{repo.head}"
        self._answer({"success": True, "commitOid": repo.head, "commitUrl": url})

    def _resolve(self, _name: str, repo: Repo, path: str, _body: bytes) -> None:
        if path not in repo.files:
            self._answer({"error": "no such entry"}, 404, "EntryNotFound")
            return
        content = repo.files[path]
        told = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X_Repo_Commit": repo.head}
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(content), len(content))
            part = content[int(first) : end]
            of = f"bytes {first}-{end - 1}/{len(content)}"
            self._answer(part, 206, Content_Range=of, **told)
        else:
            self._answer(content, **told)


def _entry(repo: Repo, path: str) -> dict[str, Any]:
    content = repo.files[path]
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry = {"type": "file", "oid": oid, "size": len(content), "path": path}
    if path in repo.lfs:
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return entry


@contextmanager
def hub_server(hub: Hub) -> Iterator[str]:
    """Serve; yield the hub's address."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer((LOOPBACK, 0), handler) as server:
        server.daemon_threads = True
        handler.url = f"http://{LOOPBACK}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield handler.url
        finally:
            server.shutdown()
            thread.join()
