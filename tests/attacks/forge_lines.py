# ruff: noqa: E501 - an attack a line, or several, is what one reads here
"""Hostile lines of the manifest, groups and ``dataset.json``; see ``forge``."""

from __future__ import annotations

import shutil

from attacks.forge import ATTACKS, BAD_COUNTS, NESTED, Forge, _set, attack, sealed_by_hand
from whole_tape import WIDTH

for _keys in (("samples",), ("rows", "trace"), ("totals", "trace_tokens"), ("states", "positions"),
              ("states", "width"), ("states", "layers", 0), ("files", "trace.arrow", "bytes")):  # fmt: skip
    for _title, _value in BAD_COUNTS.items():
        ATTACKS[f"{'.'.join(map(str, _keys))} {_title}"] = lambda forge, keys=_keys, value=_value: (
            forge.change("textual", lambda line: _set(line, keys, value))
        )
for _keys, _value in (
    (("rows", "trace"), 1 << 40), (("states", "positions"), 1 << 40), (("states", "width"), 1 << 19),
    (("states", "width"), WIDTH + 1), (("states", "positions"), 0), (("states", "dtype"), "float64"),
    (("states", "dtype"), "float16"), (("states", "dtype"), ["bfloat16"]), (("states", "profile"), "quantum"),
    (("states", "profile"), None), (("states", "layers"), [3, 1]), (("states", "layers"), "13"),
    (("states",), None), (("states",), []), (("states", "more"), 1), (("files",), []), (("files",), {}),
    (("rows",), {}), (("rows",), []), (("type",), "hologram"), (("type",), None), (("type",), "quarantine"),
    (("group",), "samples"), (("group",), ["textual"]), (("fingerprint",), "0"), (("future",), 1),
    (("files", "trace.arrow", "xxh3_128"), 7), (("files", "trace.arrow"), {}), (("path",), 7),
):  # fmt: skip
    ATTACKS[f"line {'.'.join(map(str, _keys))} = {_value!r}"] = (
        lambda forge, keys=_keys, value=_value: forge.change(
            "textual", lambda line: _set(line, keys, value)
        )
    )
for _file, _keys, _value in (
    ("dataset.json", ("version",), 2), ("dataset.json", ("version",), True), ("dataset.json", ("format",), "other"),
    ("dataset.json", ("requires",), ["telepathy"]), ("dataset.json", ("requires",), None),
    ("dataset.json", ("licence",), None), ("dataset.json", ("licence",), {"a": 1}),
    ("groups/textual.json", ("kind",), "olfactory"), ("groups/textual.json", ("kind",), ["textual"]),
    ("groups/textual.json", ("group",), "acoustic"), ("groups/textual.json", ("group",), "../textual"),
    ("groups/textual.json", ("signals",), []), ("groups/textual.json", ("signals", "topk"), 3),
    ("groups/textual.json", ("identity",), None), ("groups/textual.json", ("notes",), "n"),
    ("groups/textual.json", ("more",), 1), ("groups/textual.json", ("identity", "model_digest"), "other"),
):  # fmt: skip
    ATTACKS[f"{_file} {'.'.join(_keys)} = {_value!r}"] = (
        lambda forge, file=_file, keys=_keys, value=_value: forge.put_json(
            file, lambda values: _set(values, keys, value)
        )
    )


@attack("a group under another name")
def _(forge: Forge) -> None:
    (forge.root / "groups" / "textual.json").rename(forge.root / "groups" / "other.json")


for _file in ("dataset.json", "groups/textual.json", "manifest/w0.jsonl"):
    ATTACKS[f"deep nesting in {_file}"] = lambda forge, file=_file: (
        forge.drop_index(),
        (forge.root / file).write_bytes(sealed_by_hand(NESTED)),
    )
    ATTACKS[f"100 MB in {_file}"] = lambda forge, file=_file: (
        forge.drop_index(),
        (forge.root / file).write_bytes(b'{"a": "' + b" " * (100 << 20) + b'"}\n'),
    )
    ATTACKS[f"NaN in {_file}"] = lambda forge, file=_file: (
        forge.drop_index(),
        (forge.root / file).write_bytes(sealed_by_hand(b'{"a": NaN')),
    )
    ATTACKS[f"a list in {_file}"] = lambda forge, file=_file: (
        forge.drop_index(),
        (forge.root / file).write_bytes(b"[1, 2]\n"),
    )
    ATTACKS[f"invalid UTF-8 in {_file}"] = lambda forge, file=_file: (
        forge.drop_index(),
        (forge.root / file).write_bytes(sealed_by_hand(b'{"a": "\xff\xfe"')),
    )


@attack("100 MB without an end in the manifest")
def _(forge: Forge) -> None:
    with forge.manifest.open("ab") as file:
        file.truncate(100 << 20)


@attack("quarantine of numbers")
def _(forge: Forge) -> None:
    line = {"type": "quarantine", "group": "samples", "sample_id": 3, "row_index": "x"}
    forge.write_lines([*forge.lines(), {**line, "reason": None, "detail": []}])


@attack("manifest and tables of another tape under this index")
def _(forge: Forge) -> None:
    lines = forge.lines()
    index = forge.root / "index"
    shutil.copytree(index, forge.root.parent / "kept")
    forge.write_lines(lines[::-1])
    shutil.move(forge.root.parent / "kept", index)


@attack("shards of one size swapped")
def _(forge: Forge) -> None:
    one, two = (forge.file(group, "hidden.zarr/L001") for group in ("acoustic", "textual"))
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
