"""Pulling a tape, whole or in part: files as they are, a shard committed when all of it is here.

The copy keeps paths, writers and the order of lines, so that it is a tape at any moment, and so
that what the tape gains later is all that travels later. A part leaves out whole files. What is
asked for in addition is put into the shards that are here, whose lines are then replaced.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from cache_schema import layout, takeover
from cache_schema.codecs.files import make_dirs, sync_dir, sync_file, write_atomic
from cache_schema.commands.console import say
from cache_schema.errors import OutputError
from cache_schema.maker import part_note
from cache_schema.manifest import ShardRecord, append_line, drop_cut_line
from cache_schema.parts.pulled import mark_pulled
from cache_schema.validate.findings import Counting
from cache_schema.writer import complete_index
from pipeline.share.pull_plan import PullPlan, Wanted
from pipeline.share.tasks import in_order

JOBS = 8
"""Files that travel at one time."""


def pull(plan: PullPlan, out: Path, counting: Counting, jobs: int = JOBS) -> None:
    """Bring what is missing; a pull that was stopped is continued by the same call.

    Raises:
        TapeError: a file of the tape is damaged, or another process writes to the folder.
        TransferError: the tape cannot be read.
        OutputError: the folder's disk is full.
    """
    for told in plan.damaged:
        say(f"{out}: {told}; it is fetched again")
    takeover.refuse_links(
        out,
        layout.DATASET_FILE,
        layout.PULLED_FILE,
        layout.INDEX_DIR,
        *plan.lines,
        *(layout.group_file(name) for name in plan.groups),
        *(path for shard in plan.shards for path in (shard.record.path, shard.folder)),
    )
    with contextlib.ExitStack() as stack:
        for manifest in plan.lines:
            held = takeover.lock(out / layout.lock_file(Path(manifest).stem))
            stack.enter_context(held)
            drop_cut_line(out / manifest)
        write_atomic(out / layout.DATASET_FILE, plan.source.dataset)
        mark_pulled(out, plan.source.files.location)
        _write_groups(plan, out, only_new=True)
        with counting("pull", plan.bytes) as count:
            _bring(plan, out, count, jobs)
        _write_groups(plan, out, only_new=False)
        _bring_seals(plan, out)
    complete_index(out)


def _bring_seals(plan: PullPlan, out: Path) -> None:
    """Bring the seals of a tape that is here as it was sealed; a part has other lines."""
    same = all(
        plan.parts.get(group) == part_note(info) for group, info in plan.source.groups.items()
    )
    names = list(plan.source.files.names(layout.SEALS_DIR, ".jsonl"))
    if names and not same:
        say(f"{out}: a part of the tape; its seals stay behind, they are of the whole")
    for name in names if same else ():
        takeover.refuse_links(out, name)
        write_atomic(out / name, plan.source.files.content(name))


def _write_groups(plan: PullPlan, out: Path, *, only_new: bool) -> None:
    """Write who made the groups; what they say of more files comes when those are here."""
    for group, info in plan.groups.items():
        path = out / layout.group_file(group)
        same = plan.parts[group] == part_note(plan.source.groups[group])
        content = plan.source.group_files[group] if same else info.to_json()
        if not path.exists() or not (only_new or path.read_bytes() == content):
            write_atomic(path, content)


def _bring(plan: PullPlan, out: Path, count: Any, jobs: int) -> None:
    """Fetch what is missing, shard by shard; commit each when it is whole."""
    commits = [_Commits(plan, out, manifest) for manifest in plan.lines]
    left = {shard.record.path: len(shard.missing) for shard in plan.shards}

    def fetch(item: tuple[Wanted, str]) -> int:
        return _fetch(plan, out, *item)

    whole = {path for path, missing in left.items() if not missing}
    for each in commits:
        each.commit(whole)
    items = ((shard, name) for shard in plan.shards for name in shard.missing)
    for (shard, _), size in in_order(fetch, items, jobs):
        count(size)
        left[shard.record.path] -= 1
        if not left[shard.record.path]:
            whole.add(shard.record.path)
            for each in commits:
                each.commit(whole)
    for each in commits:
        each.finish()


def _fetch(plan: PullPlan, out: Path, shard: Wanted, name: str) -> int:
    """Bring one file; it is compared before it has its name."""
    file = shard.record.files[name]
    path = out / shard.folder / name
    make_dirs(path.parent)
    part = path.with_name(f".{path.name}.tmp")
    try:
        plan.source.files.copy(f"{shard.record.path}/{name}", file, part)
        sync_file(part)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path}: {error}; what arrived stays, run the same again") from error
    part.replace(path)
    sync_dir(path.parent)
    return int(file["bytes"])


class _Commits:
    """The lines of one manifest: appended in order as their shards arrive.

    Where shards that are here gain files, the manifest is replaced when all of them are whole.
    """

    def __init__(self, plan: PullPlan, out: Path, manifest: str) -> None:
        self._out = out
        self._manifest = out / manifest
        self._lines = plan.lines[manifest]
        earlier = plan.earlier.get(manifest, [])
        self._replaced = earlier != [line.content for line in self._lines[: len(earlier)]]
        self._next = 0 if self._replaced else len(earlier)
        self._by_path = {shard.record.path: shard for shard in plan.shards}
        self._mend_copies(0 if self._replaced else len(earlier))

    def _mend_copies(self, count: int) -> None:
        """Write copies of lines that a stopped pull replaced and did not copy."""
        for line in self._lines[:count]:
            if isinstance(line.record, ShardRecord):
                copy = self._out / line.record.path / layout.SHARD_FILE
                if not copy.is_file() or copy.read_bytes() != line.content:
                    write_atomic(copy, line.content)

    def commit(self, whole: set[str]) -> None:
        """Append the lines whose turn it is."""
        while not self._replaced and self._next < len(self._lines):
            record = self._lines[self._next].record
            if isinstance(record, ShardRecord):
                if record.path not in whole:
                    return
                self._place(self._by_path[record.path])
            append_line(self._manifest, self._lines[self._next].content)
            self._next += 1

    def finish(self) -> None:
        """Replace the lines if some are to be; every shard is whole."""
        if not self._replaced:
            return
        records = [line.record for line in self._lines if isinstance(line.record, ShardRecord)]
        for record in records:
            if self._by_path[record.path].folder != record.path:
                self._place(self._by_path[record.path])
        for index in (self._out / layout.INDEX_DIR).glob("*.arrow"):
            index.unlink()  # of the lines as they were
        write_atomic(self._manifest, b"".join(line.content for line in self._lines))
        self._mend_copies(len(self._lines))

    def _place(self, shard: Wanted) -> None:
        """Give a shard its copy of the line, and put its folder in place."""
        folder, final = self._out / shard.folder, self._out / shard.record.path
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            if path.relative_to(folder).as_posix() not in shard.record.files:
                path.unlink()  # of a pull that was stopped, of more than this one
        write_atomic(folder / layout.SHARD_FILE, shard.line)
        if folder != final:
            make_dirs(final.parent)
            folder.rename(final)
            sync_dir(final.parent)
