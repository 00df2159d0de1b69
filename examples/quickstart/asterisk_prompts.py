"""Recorded speech from Debian: spoken numbers of the Asterisk telephone prompts.

Five packages, one language and one speaker each (Allison in two), CC-BY-SA (Russian: CC-BY). They
are fetched by ``apt-get download``, which needs neither root nor an installation and checks
Debian's signatures, and unpacked here. Only the fifty files that are used are kept, in the user's
cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from examples.quickstart.deb import DebError, read_deb
from examples.quickstart.recordings import (
    Recording,
    RecordingsError,
    RecordingSet,
    checked,
    decode,
)

PACKAGES = {
    "asterisk-core-sounds-en-wav": ("Allison", "English"),
    "asterisk-core-sounds-es-wav": ("Allison", "Spanish"),
    "asterisk-core-sounds-fr-wav": ("June", "French"),
    "asterisk-core-sounds-it-wav": ("Carlo", "Italian"),
    "asterisk-core-sounds-ru-wav": ("Maxim", "Russian"),
}
"""Package -> speaker and language."""

KNOWN_DIGEST = "2089efd24efbeab9d8ce8cd684b788a32966d1c6c048c9691bb13597ff0c91b9"
"""SHA-256 of the fifty files of release 1.6.1, with which the printed numbers were measured."""

_FILES = tuple(f"digits/{number}.wav" for number in range(10))
_APT_TIMEOUT_S = 300


def cache_folder() -> Path:
    """Return the folder where recordings are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "teachertape" / "asterisk-numbers"


def digest(files: dict[str, bytes]) -> str:
    """Return the SHA-256 of named files, independent of their order."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name} {len(files[name])}\n".encode() + files[name])
    return total.hexdigest()


def load(say: Callable[[str], None]) -> RecordingSet:
    """Return the prompts, from the cache or from Debian.

    Raises:
        RecordingsError: there is no apt-get, or no network, or a package lacks a number.
    """
    files = _cached()
    if files is None:
        files = _download(say)
        _keep(files)
    else:
        say(f"recordings are in the cache ({cache_folder()})")
    if digest(files) != KNOWN_DIGEST:
        say(
            "WARNING: these recordings are another release than the one measured; "
            "results may differ from the documented ones"
        )
    found = [
        Recording(
            number=number,
            speaker=speaker,
            language=language,
            wave=decode(files[f"{package}/digits/{number}.wav"]),
        )
        for package, (speaker, language) in PACKAGES.items()
        for number in range(10)
    ]
    return checked(
        RecordingSet(
            name="Debian's Asterisk prompts (CC-BY-SA)",
            note="ONE recording of each number and voice; Allison speaks English and Spanish",
            recordings=tuple(found),
        )
    )


def _cached() -> dict[str, bytes] | None:
    """Return the kept files, or None when they are absent or not what was kept."""
    mark = cache_folder() / "SHA256"
    if not mark.is_file():
        return None
    names = [f"{package}/{file}" for package in PACKAGES for file in _FILES]
    paths = {name: cache_folder() / name for name in names}
    if not all(path.is_file() for path in paths.values()):
        return None
    files = {name: path.read_bytes() for name, path in paths.items()}
    return files if digest(files) == mark.read_text().strip() else None


def _keep(files: dict[str, bytes]) -> None:
    """Write the files beside their place, then rename: the cache is whole or absent."""
    target = cache_folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".asterisk-", dir=target.parent))
    for name, data in files.items():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).write_bytes(data)
    (fresh / "SHA256").write_text(digest(files) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def _download(say: Callable[[str], None]) -> dict[str, bytes]:
    if shutil.which("apt-get") is None:
        raise RecordingsError("this system has no apt-get")
    with tempfile.TemporaryDirectory(prefix="teachertape-apt-") as folder:
        say("fetching five packages of recorded prompts with apt-get download (about 98 MB)")
        if not _apt_download(Path(folder), ()):
            say("no usable package lists here; making private ones (no root needed)")
            private = _private_lists(Path(folder))
            _apt("update", Path(folder), private)
            if not _apt_download(Path(folder), private):
                raise RecordingsError("apt-get cannot download the packages (no network?)")
        files: dict[str, bytes] = {}
        for package in PACKAGES:
            archive = next(Path(folder).glob(f"{package}_*.deb"))
            try:
                found = read_deb(archive, frozenset(_FILES))
            except DebError as error:
                raise RecordingsError(str(error)) from error
            if missing := [name for name in _FILES if name not in found]:
                raise RecordingsError(f"{archive.name} lacks {missing[0]}")
            files |= {f"{package}/{name}": data for name, data in found.items()}
    return files


def _private_lists(folder: Path) -> tuple[str, ...]:
    """Options that keep apt's state in a folder of ours."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return (
        f"-oDir::State::Lists={folder / 'lists'}",
        f"-oDir::Cache={folder}",
        f"-oDir::Cache::Archives={folder / 'archives'}",
        "-oDebug::NoLocking=1",
    )


def _apt_download(folder: Path, options: tuple[str, ...]) -> bool:
    _apt("download", folder, options, *PACKAGES)
    return all(any(folder.glob(f"{package}_*.deb")) for package in PACKAGES)


def _apt(command: str, folder: Path, options: tuple[str, ...], *packages: str) -> None:
    """Run apt-get quietly; the caller looks at what arrived, not at the exit status."""
    try:
        subprocess.run(
            ["apt-get", "-qq", *options, command, *packages],
            cwd=folder,
            check=False,
            capture_output=True,
            timeout=_APT_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise RecordingsError(f"apt-get {command} took longer than {_APT_TIMEOUT_S} s") from error
