"""Layer states that are damaged, or contradict the manifest: refused by name, at every byte."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from damaged_states import ARRAYS, BAD_ARCHIVES, BAD_METADATA, SHAPE, Change, copy_of, rechunked
from states_files import LAYER, opened, read, record, synthetic

from cache_schema.codecs import bfloat16
from cache_schema.codecs.states_profiles import open_states_reader, open_states_writer
from cache_schema.errors import TapeError
from cache_schema.signals import STATES_PROFILES as PROFILES


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for profile in PROFILES:
        made[profile] = tmp_path_factory.mktemp(profile)
        record(made[profile], synthetic(*SHAPE, "bfloat16"), "bfloat16", profile)
    return made


@pytest.mark.parametrize(("profile", "name"), ARRAYS)
@pytest.mark.parametrize("change", BAD_METADATA.values(), ids=BAD_METADATA.keys())
def test_other_metadata_is_refused(
    tmp_path: Path, pristine: dict[str, Path], profile: str, name: str, change: Change
) -> None:
    folder = copy_of(pristine[profile], tmp_path)
    path = folder / name / "zarr.json"
    metadata = json.loads(path.read_bytes())
    change(metadata)
    path.write_text(json.dumps(metadata))
    with pytest.raises(TapeError, match=r"(zarr\.json|c/0|c/0/0): ") as raised:
        read(folder, SHAPE, "bfloat16", profile)
    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 60_000, b"9" * 5000, b'{"codecs": 1}'],
    ids=["empty", "cut", "list", "null", "binary", "deep", "long number", "number"],
)
def test_what_is_no_metadata_is_refused(
    tmp_path: Path, pristine: dict[str, Path], profile: str, content: bytes
) -> None:
    folder = copy_of(pristine[profile], tmp_path)
    (folder / LAYER / "zarr.json").write_bytes(content)
    with pytest.raises(TapeError, match=r"zarr\.json: "):
        read(folder, SHAPE, "bfloat16", profile)


@pytest.mark.parametrize("change", BAD_ARCHIVES.values(), ids=BAD_ARCHIVES.keys())
def test_a_damaged_archive_is_refused(
    tmp_path: Path, pristine: dict[str, Path], change: Callable[[bytes], bytes]
) -> None:
    folder = copy_of(pristine["archive"], tmp_path)
    path = folder / LAYER / "c/0/0"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(TapeError, match="c/0/0: "):
        read(folder, SHAPE, "bfloat16", "archive")


@pytest.mark.parametrize(("profile", "name"), [a for a in ARRAYS if a[0] != "archive"])
@pytest.mark.parametrize(
    "change",
    [
        lambda c: b"",
        lambda c: c[1:],
        lambda c: c + b"\0",
        lambda c: c[:-1] + bytes([c[-1] ^ 1]),
        lambda c: c[:-20] + bytes([c[-20] ^ 1]) + c[-19:],
        lambda c: c[:-20] + b"\xff" * 16 + google_crc32c.value(b"\xff" * 16).to_bytes(4, "little"),
    ],
    ids=["empty", "shorter", "longer", "checksum", "index", "missing chunk"],
)
def test_damaged_contiguous_rows_are_refused(
    tmp_path: Path,
    pristine: dict[str, Path],
    profile: str,
    name: str,
    change: Callable[[bytes], bytes],
) -> None:
    folder = copy_of(pristine[profile], tmp_path)
    path = next((folder / name / "c").rglob("0")) if name.endswith("_scale") else None
    path = path or folder / name / "c/0/0"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(TapeError, match="c/0"):
        read(folder, SHAPE, "bfloat16", profile)


@pytest.mark.parametrize(
    ("file", "number"),
    [
        ("_scale/c/0", math.nan),
        ("_scale/c/0", math.inf),
        ("_scale/c/0", -1),
        ("_channels/c/0/0", math.nan),
        ("_channels/c/0/0", -math.inf),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    tmp_path: Path, pristine: dict[str, Path], file: str, number: float
) -> None:
    folder = copy_of(pristine["lossy2x"], tmp_path)
    path = folder / (LAYER + file)
    path.write_bytes(struct.pack("<f", number) + path.read_bytes()[4:])
    with pytest.raises(TapeError, match=LAYER):
        opened(folder, SHAPE, "bfloat16", "lossy2x")


def test_deviations_must_be_above_zero(tmp_path: Path, pristine: dict[str, Path]) -> None:
    folder = copy_of(pristine["lossy2x"], tmp_path)
    path = folder / f"{LAYER}_channels/c/0/0"
    content = path.read_bytes()
    path.write_bytes(content[: 4 * SHAPE[1]] + bytes(4) + content[4 * SHAPE[1] + 4 :])
    with pytest.raises(TapeError, match="deviations"):
        opened(folder, SHAPE, "bfloat16", "lossy2x")


@pytest.mark.filterwarnings("error")
def test_decoding_any_numbers_stays_finite(tmp_path: Path, pristine: dict[str, Path]) -> None:
    folder = copy_of(pristine["lossy2x"], tmp_path)
    path = folder / f"{LAYER}_scale/c/0"
    path.write_bytes(struct.pack("<f", 3e38) * SHAPE[0] + path.read_bytes()[4 * SHAPE[0] :])
    path = folder / LAYER / "c/0/0"
    path.write_bytes(b"\x80" * SHAPE[1] + path.read_bytes()[SHAPE[1] :])
    assert np.isfinite(bfloat16.decode(read(folder, SHAPE, "bfloat16", "lossy2x"))).all()


def flipped(content: bytes) -> Iterator[tuple[int, bytes]]:
    offsets = sorted(
        {*range(64), *range(len(content) - 64, len(content)), *range(0, len(content), 1511)}
    )
    for offset in offsets:
        for flip in (0x01, 0x80, 0xFF):
            yield offset, content[:offset] + bytes([content[offset] ^ flip]) + content[offset + 1 :]


def test_no_flipped_byte_of_an_archive_gets_through(
    tmp_path: Path, pristine: dict[str, Path]
) -> None:
    folder = copy_of(pristine["archive"], tmp_path)
    path = folder / LAYER / "c/0/0"
    for _, content in flipped(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(TapeError):
            read(folder, SHAPE, "bfloat16", "archive")


def test_hostile_streams_under_a_right_checksum_do_no_harm(
    tmp_path: Path, pristine: dict[str, Path]
) -> None:
    folder = copy_of(pristine["archive"], tmp_path)
    path = folder / LAYER / "c/0/0"
    rng = np.random.default_rng(0)
    whole = path.read_bytes()
    length = int.from_bytes(whole[-44:-36], "little") - 4
    for offset in [*range(64), *rng.integers(64, length, 300).tolist()]:
        flip = int(rng.integers(1, 256))
        path.write_bytes(rechunked(whole, lambda c, o=offset, f=flip: c.__setitem__(o, c[o] ^ f)))
        try:
            out = read(folder, SHAPE, "bfloat16", "archive")
        except TapeError:
            continue
        assert out.shape == SHAPE  # other values, which the manifest's checksum tells


@pytest.mark.parametrize("profile", PROFILES)
def test_a_file_cut_while_open_is_an_error(
    tmp_path: Path, pristine: dict[str, Path], profile: str
) -> None:
    folder = copy_of(pristine[profile], tmp_path)
    reader = opened(folder, SHAPE, "bfloat16", profile)
    path = folder / LAYER / "c/0/0"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TapeError, match=r"too early|greater than file"):
        reader.read_into(0, np.empty(SHAPE, np.uint16))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("num_rows", "width", "logical"),
    [
        (2**60, 512, "bfloat16"),
        (-1, 512, "bfloat16"),
        ("600", 512, "bfloat16"),
        (600.0, 512, "bfloat16"),
        (601, 512, "bfloat16"),
        (600, 0, "bfloat16"),
        (600, 2**40, "bfloat16"),
        (600, None, "bfloat16"),
        (600, True, "bfloat16"),
        (600, 512, "float16"),
        (600, 512, "float32"),
        (600, 512, "int8"),
        (600, 512, ["bfloat16"]),
    ],
)
def test_a_manifest_that_disagrees_is_refused(
    pristine: dict[str, Path], profile: str, num_rows: Any, width: Any, logical: Any
) -> None:
    with pytest.raises(TapeError, match="expected"):
        open_states_reader(pristine[profile].joinpath, LAYER, profile, num_rows, width, logical)


@pytest.mark.parametrize("profile", PROFILES)
def test_absent_and_odd_files_are_named(
    tmp_path: Path, pristine: dict[str, Path], profile: str
) -> None:
    with pytest.raises(TapeError, match="cannot be opened"):
        opened(tmp_path, SHAPE, "bfloat16", profile)
    folder = copy_of(pristine[profile], tmp_path)
    (folder / LAYER / "c/0/0").unlink()
    (folder / LAYER / "c/0/0").mkdir()
    with pytest.raises(TapeError, match="regular file"):
        opened(folder, SHAPE, "bfloat16", profile)
    with pytest.raises(TapeError, match="profile 'warm', expected"):
        open_states_writer(tmp_path, "L1", 4, "float32", "warm")
