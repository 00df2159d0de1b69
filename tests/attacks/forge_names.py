# ruff: noqa: E501 - an attack a line, or several, is what one reads here
"""Hostile names: paths that lead out of a tape, links, and what is no file; see ``forge``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from attacks.forge import ATTACKS, Forge, attack


def _named(values: dict[str, Any], name: str) -> None:
    values["files"][name] = values["files"].pop("trace.arrow")


for _path in ("../elsewhere/w0-000000", "/shards/textual/000/w0-000000", "shards/samples/000/w0-000000",
              "shards/textual/../textual/w0-000000", "", ".", "shards/textual/000/w0-000000/\0"):  # fmt: skip
    ATTACKS[f"path {_path!r}"] = lambda forge, path=_path: forge.change(
        "textual", lambda line: line.update(path=path)
    )
for _name in (
    "../../x",
    "/etc/hostname",
    "a/../../b",
    "hidden.zarr/../../../dataset.json",
    "",
    "a\0b",
):
    ATTACKS[f"file {_name!r}"] = lambda forge, name=_name: forge.change(
        "textual", lambda line: _named(line, name)
    )


def _places(forge: Forge) -> dict[str, Path]:
    return {
        "dataset": forge.root / "dataset.json",
        "group": forge.root / "groups" / "textual.json",
        "manifest": forge.manifest,
        "index": next((forge.root / "index").glob("*.arrow")),
        "table": forge.file("textual", "trace.arrow"),
        "zarr.json": forge.file("textual", "hidden.zarr/L001/zarr.json"),
        "chunk": forge.file("acoustic", "hidden.zarr/L003/c/0/0"),
        "shard": forge.root / forge.record("textual")["path"],
        "hidden.zarr": forge.file("acoustic", "hidden.zarr"),
    }


def _as_link(forge: Forge, place: str) -> None:
    path = _places(forge)[place]
    outside = forge.root.parent / f"outside-{forge.root.name}"
    shutil.move(path, outside)
    path.symlink_to(outside)


def _as_device(forge: Forge, place: str) -> None:
    path = _places(forge)[place]
    path.unlink()
    path.symlink_to("/dev/zero")


def _as_fifo(forge: Forge, place: str) -> None:
    path = _places(forge)[place]
    path.unlink()
    os.mkfifo(path)


def _as_folder(forge: Forge, place: str) -> None:
    path = _places(forge)[place]
    path.unlink()
    path.mkdir()


for _place in (
    "dataset",
    "group",
    "manifest",
    "index",
    "table",
    "zarr.json",
    "chunk",
    "shard",
    "hidden.zarr",
):
    ATTACKS[f"link to {_place}"] = lambda forge, place=_place: _as_link(forge, place)
    if _place not in ("shard", "hidden.zarr"):
        ATTACKS[f"fifo for {_place}"] = lambda forge, place=_place: _as_fifo(forge, place)
        ATTACKS[f"device for {_place}"] = lambda forge, place=_place: _as_device(forge, place)
        ATTACKS[f"folder for {_place}"] = lambda forge, place=_place: _as_folder(forge, place)


@attack("a link beside the manifest")
def _(forge: Forge) -> None:
    (forge.root / "manifest" / "evil.jsonl").symlink_to("/dev/zero")
