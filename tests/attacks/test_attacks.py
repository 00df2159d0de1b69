"""Tapes from an attacker: every one is refused by name, in a second, in bounded memory."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from random import Random

import classes_tape
import full_tape
import pytest
from attacks import (
    forge_classes,
    forge_index,  # noqa: F401 - this one and the next four put their attacks into ATTACKS
    forge_layers,  # noqa: F401
    forge_lines,  # noqa: F401
    forge_more,
    forge_names,  # noqa: F401
    forge_tables,  # noqa: F401
)
from attacks.forge import ATTACKS, ONLY_PROFILE, Forge
from attacks.forge_classes import CLASSES
from attacks.forge_more import FULL
from forks import Forks
from whole_tape import PROFILES, fast_folder, make, read_all

from cache_schema.errors import TeachertapeError
from cache_schema.validate.tape import validate

SECONDS = 1.0
MEMORY = 64 << 20
ADDRESSES = 512 << 20
FUZZED = 150
GROUPS = ("samples", "descriptions", "textual", "textual", "acoustic")
FULL_GROUPS = ("heard_transcript", "textual", "textual", "encoder")
CLASSES_GROUPS = ("acoustic", "acoustic", "wavlm")
"""Groups whose files are changed at random, by the tape."""

NOT_SEEN_BY_READING = (
    forge_more.NOT_SEEN_BY_READING
    | forge_classes.NOT_SEEN_BY_READING
    | {"index line_kind all shards"}
)
"""Attacks that reading one value at a time cannot see; verify does."""

CASES = [
    (name, profile)
    for name in ATTACKS
    for profile in ([ONLY_PROFILE[name]] if name in ONLY_PROFILE else PROFILES[:1])
]
CASES += [(name, profile) for name in ATTACKS if "zarr" in name for profile in PROFILES[1:]]


def verify(root: str) -> int:
    """Check a tape in depth; return how many problems it has."""
    return len(validate(root, lambda *_: nullcontext(lambda _: None), deep=True).problems)


@pytest.fixture(scope="module")
def tapes() -> Iterator[Path]:
    """A good tape of every profile, and of everything else there may be."""
    with fast_folder() as folder:
        for profile in PROFILES:
            make(folder / profile, profile, indexes=range(2), shard_samples=8)
        for name in FULL:
            full_tape.make(folder / name, range(2), codec=name.removeprefix("full-"))
        classes_tape.make(folder / CLASSES, range(2))
        yield folder


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks("whole_tape", "attacks.test_attacks", "pandas", "numcodecs.blosc") as made:
        yield made


@pytest.fixture
def forge(tapes: Path, request: pytest.FixtureRequest) -> Iterator[Forge]:
    profile = request.param
    root = tapes / "forged" / "tape"
    shutil.copytree(tapes / profile, root)
    yield Forge(root, profile, Random(0))
    shutil.rmtree(root.parent)


@pytest.mark.parametrize("forge", PROFILES, indirect=True)
def test_a_good_tape_is_read(forge: Forge, forks: Forks) -> None:
    """The limits are not what refuses the others, nor is what every forgery does."""
    forge.change("textual", lambda line: None)
    table = forge.table("textual", "trace")
    forge.put_table("textual", "trace", table)
    forge.put_zarr(lambda values: None)
    forge.put_chunk(lambda content: None)
    forge.put_json("groups/textual.json", lambda values: None)
    ended = forks.run("whole_tape:read_all", str(forge.root), memory=ADDRESSES)
    assert (ended.status, ended.value) == (0, 2), ended.trace
    assert ended.seconds < SECONDS
    assert ended.grown < MEMORY
    assert forks.run("attacks.test_attacks:verify", str(forge.root)).value == 0


@pytest.mark.parametrize("forge", FULL, indirect=True)
def test_a_good_tape_that_holds_everything_is_read(forge: Forge, forks: Forks) -> None:
    lens = "lens" if forge.profile == FULL[0] else "lens_compact"
    for group, table in (
        ("textual", "trace"), ("textual", lens), ("textual", "rejected"),
        ("heard_transcript", "heard"), ("encoder", "hidden"),
    ):  # fmt: skip
        forge.put_table(group, table, forge.table(group, table))
    forge.put_json("groups/heard_transcript.json", lambda values: None)
    ended = forks.run("whole_tape:read_all", str(forge.root), memory=ADDRESSES)
    assert (ended.status, ended.value) == (0, 2), ended.trace
    assert forks.run("attacks.test_attacks:verify", str(forge.root)).value == 0


@pytest.mark.parametrize("forge", [CLASSES], indirect=True)
def test_a_good_tape_of_classes_is_read(forge: Forge, forks: Forks) -> None:
    for group, table in (
        ("acoustic", "utterance_logits"), ("acoustic", "frame_logits"), ("acoustic", "hidden"),
        ("wavlm", "embedding"),
    ):  # fmt: skip
        forge.put_table(group, table, forge.table(group, table))
    forge_classes.change_facts(forge, "frame_logits", lambda facts: None)
    ended = forks.run("whole_tape:read_all", str(forge.root), memory=ADDRESSES)
    assert (ended.status, ended.value) == (0, 2), ended.trace
    assert forks.run("attacks.test_attacks:verify", str(forge.root)).value == 0


@pytest.mark.parametrize(
    ("name", "forge"), CASES, indirect=["forge"], ids=lambda case: str(case)[:60]
)
def test_attack_is_refused(name: str, forge: Forge, forks: Forks) -> None:
    ATTACKS[name](forge)
    ended = forks.run("whole_tape:read_all", str(forge.root), memory=ADDRESSES, timeout_s=20)
    if name not in NOT_SEEN_BY_READING:
        assert ended.error is not None, f"read without an error: {ended}"
        assert "TeachertapeError" in ended.error[1], ended.trace
        assert len(ended.error[2]) < 2000
    assert ended.seconds < SECONDS
    assert ended.grown < MEMORY
    if len(name) % 2 and ended.error is not None:
        return  # verify tells half of what reading refused, and all that it did not
    checked = forks.run("attacks.test_attacks:verify", str(forge.root), timeout_s=20)
    found = checked.value if checked.error is None else "TeachertapeError" in checked.error[1]
    assert found, checked.trace
    assert checked.seconds < 2 * SECONDS


def fuzz(root: str, profile: str, count: int) -> dict[str, int]:
    """Change bytes anywhere in a shard's files, checksums put right; read; count what came."""
    rng = Random(profile)
    forge = Forge(Path(root), profile, rng)
    seen = {"read": 0, "refused": 0}
    for number in range(count):
        others = CLASSES_GROUPS if profile == CLASSES else FULL_GROUPS
        group = rng.choice(GROUPS if profile in PROFILES else others)
        name = rng.choice(
            [name for name in forge.record(group)["files"] if "/zarr.json" not in name]
        )
        before = forge.file(group, name).read_bytes()
        changed = bytearray(before)
        for _ in range(rng.choice((1, 1, 4))):
            at = rng.randrange(len(changed))
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, changed[at] ^ 1 << rng.randrange(8)))
        forge.put(group, name, bytes(changed))
        try:
            read_all(root)
            seen["read"] += 1
        except TeachertapeError:
            seen["refused"] += 1
        except Exception as error:
            raise AssertionError(f"change {number}, of {name}") from error
        forge.put(group, name, before)
    return seen


@pytest.mark.parametrize("forge", [*PROFILES, *FULL, CLASSES], indirect=True)
def test_any_change_is_read_or_refused(forge: Forge, forks: Forks) -> None:
    """Numbers that an attacker changed are his to choose, but not how reading them ends."""
    arguments = (str(forge.root), forge.profile, FUZZED)
    ended = forks.run("attacks.test_attacks:fuzz", *arguments, memory=2 * ADDRESSES, timeout_s=100)
    assert ended.status == 0, ended.trace
    assert ended.value["refused"] > FUZZED / 5
    assert ended.value["read"] > 0
    assert ended.grown < MEMORY


def test_nothing_on_a_tape_is_ever_run() -> None:
    """No unpickling and no evaluation in the packages."""
    bad = re.compile(r"\bpickle\b|\beval\(|\bexec\(|torch\.load\(|allow_pickle=True|yaml\.load\(")
    no_code = r"\.eval\(|torch\.load\([^()]*, weights_only=True(, mmap=True)?\)"
    allowed = re.compile(no_code)
    root = Path(__file__).parents[2]
    sources = [
        p
        for name in ("audio_models", "cache_schema", "pipeline", "train")
        for p in (root / name).rglob("*.py")
    ]
    assert len(sources) > 50
    found = [
        f"{path.name}: {line.strip()}"
        for path in sources
        for line in path.read_text().splitlines()
        if bad.search(allowed.sub("", line)) and not line.strip().startswith("#")
    ]
    assert found == []
