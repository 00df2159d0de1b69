"""A dataset repository of the Hugging Face hub: contents travel first, then count by a commit.

A commit names the one it was made after, so that of two pushes at once the second to end is
refused by the hub: there is no lock.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import disable_progress_bars

from cache_schema.errors import OutputError, TransferError, UsageError
from cache_schema.remote.files import Remote
from pipeline.share.card import NAME as CARD
from pipeline.share.card import card
from pipeline.share.contents import Contents

PREFIX = "hf://datasets/"
_CONFLICT = 412
_BATCH = 1000
"""Files of one commit; the hub refuses much larger ones."""


def is_hub(location: str) -> bool:
    """Whether a URL is of the hub."""
    return location.startswith("hf://")


class HubStore:
    """A dataset repository, or a folder of it; made, private, if it is not there.

    Raises:
        UsageError: the URL names none.
    """

    def __init__(self, location: str) -> None:
        parts = location.removeprefix(PREFIX).strip("/").split("/")
        if not location.startswith(PREFIX) or len(parts) < 2 or "@" in location:
            raise UsageError(f"{location}: expected {PREFIX}ORGANISATION/NAME, or a folder of it")
        self.location = location.rstrip("/")
        self._repo, self._folder = "/".join(parts[:2]), "/".join(parts[2:])
        self._api = HfApi()
        self._head: str | None = None
        self._there: dict[str, RepoFile] = {}
        self._staged: list[CommitOperationAdd | CommitOperationDelete] = []
        self._staging = threading.Lock()
        self._remote: Remote | None = None
        disable_progress_bars()  # of each file; ours is of all

    @property
    def needs_lock(self) -> bool:
        """See ``Store``."""
        return False

    def _tried(self, name: str, act: Any) -> Any:
        """Call the hub, again where that may help."""
        if self._remote is None:
            self._remote = Remote(self.location)
        return self._remote.tried(name, act)

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}" if self._folder else name

    def listing(self) -> dict[str, int]:
        """See ``Store``."""

        def ask() -> dict[str, int]:
            try:
                info = self._api.repo_info(self._repo, repo_type="dataset")
            except RepositoryNotFoundError:
                self._api.create_repo(self._repo, repo_type="dataset", private=True)
                info = self._api.repo_info(self._repo, repo_type="dataset")
            self._head = info.sha
            try:
                tree = list(
                    self._api.list_repo_tree(
                        self._repo, self._folder or None, repo_type="dataset", recursive=True,
                        revision=self._head,
                    )
                )  # fmt: skip
            except EntryNotFoundError:
                return {}
            start = len(self._path(""))
            self._there = {one.path[start:]: one for one in tree if isinstance(one, RepoFile)}
            return {name: one.size for name, one in self._there.items()}

        self._there = {}
        found: dict[str, int] = self._tried("", ask)
        return found

    def read(self, name: str) -> bytes:
        """See ``Store``."""
        if self._remote is None:
            self._remote = Remote(self.location)
        self._remote.fs.invalidate_cache()  # of sizes before the last commit
        return self._remote.read(name)

    def put(self, name: str, path: Path, record: Mapping[str, Any]) -> None:  # noqa: ARG002
        """See ``Store``: the hub takes it by its sha256, and keeps it for the commit."""

        def send() -> CommitOperationAdd:
            one = CommitOperationAdd(self._path(name), str(path))
            try:
                self._api.preupload_lfs_files(
                    self._repo, [one], repo_type="dataset", num_threads=1, free_memory=False
                )
            except RuntimeError as error:  # which says that it failed, not why
                raise error.__cause__ or error from error
            return one

        one = self._tried(name, send)
        with self._staging:
            self._staged.append(one)
            full = len(self._staged) >= _BATCH
        if full:
            self.flush("Shards")

    def put_bytes(self, name: str, content: bytes) -> None:
        """See ``Store``."""
        with self._staging:
            self._staged.append(CommitOperationAdd(self._path(name), content))

    def matches(self, name: str, path: Path, record: Mapping[str, Any]) -> bool:
        """See ``Store``: by the sha256, or git's own hash, that the listing told."""
        found = self._there.get(name)
        if found is None or found.size != record["bytes"]:
            return False
        if found.lfs is not None:
            with path.open("rb") as file:
                return bool(found.lfs.sha256 == hashlib.file_digest(file, "sha256").hexdigest())
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        return bool(found.blob_id == git.hexdigest())

    def trusted(self, name: str, path: Path, record: Mapping[str, Any]) -> bool:
        """See ``Store``."""
        return self.matches(name, path, record)

    def remove(self, name: str) -> None:
        """See ``Store``."""
        with self._staging:
            self._staged.append(CommitOperationDelete(self._path(name)))

    def describe(self, contents: Contents) -> None:
        """See ``Store``: the dataset's page."""
        if self._folder:
            return
        try:
            known = self.read(CARD)
        except FileNotFoundError:
            known = b""
        content = card(contents, self.location, known.decode(errors="replace"))
        if content is not None and content.encode() != known:
            self.put_bytes(CARD, content.encode())

    def flush(self, message: str) -> None:
        """See ``Store``: one commit of everything sent."""
        with self._staging:
            staged, self._staged = self._staged, []
            if not staged:
                return
            try:
                done = self._tried("", lambda: self._commit(staged, message))
            except TransferError as error:
                status = getattr(getattr(error.__cause__, "response", None), "status_code", None)
                if status != _CONFLICT:
                    raise
                raise OutputError(
                    f"{self.location}: another push was committed there meanwhile; nothing of this "
                    "one was. Run the same again: what travelled stays."
                ) from error
            self._head = done.oid

    def _commit(self, staged: list[Any], message: str) -> Any:
        return self._api.create_commit(
            self._repo,
            staged,
            commit_message=f"teachertape: {message.lower()}",
            repo_type="dataset",
            parent_commit=self._head,
        )
