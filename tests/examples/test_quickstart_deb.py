import io
import lzma
import tarfile

import pytest

from examples.quickstart.deb import AR_MAGIC, DebError, ar_members, read_deb


def ar(*members):
    parts = [AR_MAGIC]
    for name, data in members:
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n"
        parts += [header.encode(), data, b"\n" if len(data) % 2 else b""]
    return b"".join(parts)


def tar_xz(files):
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w") as tree:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tree.addfile(entry, io.BytesIO(data))
    return lzma.compress(blob.getvalue())


def test_reads_wanted_files_of_a_package(tmp_path):
    data = tar_xz(
        {
            "./usr/share/sounds/en/digits/3.wav": b"three",
            "./usr/share/sounds/en/digits/30.wav": b"thirty",
            "./usr/share/sounds/en/letters/3.wav": b"other",
        }
    )
    package = tmp_path / "sounds.deb"
    package.write_bytes(
        ar(("debian-binary", b"2.0\n"), ("control.tar.xz/", b"odd"), ("data.tar.xz/", data))
    )
    assert read_deb(package, frozenset({"digits/3.wav"})) == {"digits/3.wav": b"three"}


def test_members_of_odd_length_are_padded():
    assert list(ar_members(ar(("a", b"1"), ("b/", b"22")))) == [("a", b"1"), ("b", b"22")]


@pytest.mark.parametrize(
    ("blob", "complaint"),
    [
        (b"PK\x03\x04", "magic"),
        (AR_MAGIC + b"short", "header"),
        (ar(("a", b"12345"))[:-3], "past the end"),
        (ar(("debian-binary", b"2.0\n")), "no data.tar"),
        (ar(("data.tar.xz", b"not xz")), "cannot be unpacked"),
    ],
)
def test_a_broken_package_is_named(tmp_path, blob, complaint):
    package = tmp_path / "broken.deb"
    package.write_bytes(blob)
    with pytest.raises(DebError, match=complaint):
        read_deb(package, frozenset({"digits/3.wav"}))
