"""Where things are on a tape: the only file that knows paths.

```
TAPE/
  dataset.json                       format name and version
  groups/<group>.json                who made it: identity (compared) and notes (not compared)
  manifest/<writer>.jsonl            one line a committed shard, one a quarantined sample
  index/<checksum>.arrow             sample id -> shard and row; rebuilt from the rest
  shards/<group>/<seq // 1000>/<writer>-<seq>/
    shard.json                       the shard's manifest line
    <table>.arrow                    Arrow IPC, uncompressed
    hidden.zarr/L<layer>/...         Zarr v3, one array [positions, width] a layer
  attached/<seq // 1000>/<writer>-<seq>/<checksum>.arrow      recordings of a shard of samples
```
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

DATASET_FILE = "dataset.json"
GROUPS_DIR = "groups"
MANIFEST_DIR = "manifest"
INDEX_DIR = "index"
INDEX_LOCK = "index/lock"
SHARDS_DIR = "shards"
ATTACHED_DIR = "attached"
ATTACHED_LOCK = "attached/lock"
SEALS_DIR = "seals"
LEASES_DIR = ".leases"
PULLED_FILE = ".pulled"
SHARD_FILE = "shard.json"
HIDDEN_STORE = "hidden.zarr"
SHARDS_PER_FOLDER = 1000
MERGE_WRITER = "merge_"
"""What the names of writers that unite tapes begin with; their shards may repeat rows."""

LEASED_WRITER = "wauto"
"""What the names of writers that lease their rows begin with: two may record the same ones, where
one was thought dead and was not."""

SHARD_PATH = re.compile(r"shards/(?P<group>\w+)/\d{3,}/\w+-\d{6,}", re.ASCII)
"""What a shard's path in the manifest must look like."""

SEALED_PATH = re.compile(
    r"dataset\.json|groups/\w+\.json|manifest/\w+\.jsonl"
    r"|shards/\w+/\d{3,}/\w+-\d{6,}/\w[\w./]*",
    re.ASCII,
)
"""Files that a seal lists."""

IN_SHARD = re.compile(r"(shards/\w+/\d{3,}/(\w+)-\d{6,})(/.*)?", re.ASCII)
"""A shard's folder, its writer, and what lies in it."""

IN_UNFINISHED = re.compile(r"(shards/\w+/\.(\w+)-\d{6,})(/.*)?", re.ASCII)
"""The folder of a shard that is not committed, its writer, and what lies in it."""

LEFTOVER = re.compile(
    r"index/\.new|(\w+/)?\.[\w.-]+\.tmp|attached/\d+/\w+-\d+/\.[\w.-]+\.tmp", re.ASCII
)
"""Files of killed runs."""

OUTSIDE_SHARDS = re.compile(
    r"dataset\.json|groups/\w+\.json|manifest/\w+\.(jsonl|lock)|index/(lock|[0-9a-f]{32}\.arrow)"
    r"|seals/([0-9a-f]{16}|unsigned)\.jsonl|\.pulled"
    r"|attached/(lock|\d{3,}/\w+-\d{6,}/[0-9a-f]{32}\.arrow)",
    re.ASCII,
)
"""Every other file of a tape."""

GROUP_NAME = re.compile(r"\w+", re.ASCII)
"""What a group may be called."""

HEARD_PREFIX = "heard_"
"""What the names of groups of kind ``heard`` begin with; the rest is the column they fill."""

SHARD_FILE_NAME = re.compile(r"\w[\w./]*", re.ASCII)
"""What the name of a shard's file must look like."""


def group_file(group: str) -> str:
    """Path of the file that says who made ``group``."""
    return f"{GROUPS_DIR}/{group}.json"


def heard_group(column: str) -> str:
    """Name of the group of what was heard for a column."""
    return f"{HEARD_PREFIX}{column}"


def heard_column(group: str) -> str:
    """Column that a group fills with what was heard, empty if it is no such group."""
    return group.removeprefix(HEARD_PREFIX) if group.startswith(HEARD_PREFIX) else ""


def manifest_file(writer: str) -> str:
    """Path of the manifest lines of one writer."""
    return f"{MANIFEST_DIR}/{writer}.jsonl"


def is_merged(manifest: str) -> bool:
    """Whether a manifest file is of a writer that unites tapes."""
    return manifest.startswith(manifest_file(MERGE_WRITER).removesuffix(".jsonl"))


def is_leased(manifest: str) -> bool:
    """Whether a manifest file is of a writer that leases its rows."""
    return manifest.startswith(manifest_file(LEASED_WRITER).removesuffix(".jsonl"))


def lock_file(writer: str) -> str:
    """Path of the file a writer locks while it is open."""
    return f"{MANIFEST_DIR}/{writer}.lock"


def group_dir(group: str) -> str:
    """Path of the shards of one group."""
    return f"{SHARDS_DIR}/{group}"


def shard_dir(group: str, writer: str, seq: int) -> str:
    """Path of one committed shard."""
    return f"{group_dir(group)}/{seq // SHARDS_PER_FOLDER:03d}/{writer}-{seq:06d}"


def attached_dir(path: str) -> str:
    """Path of the recordings attached to a shard of samples."""
    return f"{ATTACHED_DIR}/{path.split('/', 2)[2]}"


def shard_sequence(path: str) -> int:
    """Sequence number of a shard path."""
    return int(PurePosixPath(path).name.rpartition("-")[2])


def table_file(table: str) -> str:
    """Path of a table inside a shard."""
    return f"{table}.arrow"


def layer_dir(layer: int) -> str:
    """Path of one layer's Zarr array inside a shard."""
    return f"{HIDDEN_STORE}/L{layer:03d}"


def index_file(checksum: str) -> str:
    """Path of an index of this content."""
    return f"{INDEX_DIR}/{checksum}.arrow"
