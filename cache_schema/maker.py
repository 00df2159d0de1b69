"""Who made what: the file of the tape and the files of its groups, and refusing other makers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cache_schema import layout
from cache_schema.codecs.sealed_json import seal, unseal
from cache_schema.compare.apart import apart
from cache_schema.errors import ProvenanceError, TapeError
from cache_schema.facts import check_facts
from cache_schema.fingerprint import fingerprint
from cache_schema.signals import FORMAT_NAME, FORMAT_VERSION, GROUP_TABLES, HEARD
from cache_schema.types import AUDIO_SOURCE, TEXT_SOURCE

MAX_DATASET_BYTES = 1 << 20
MAX_TOLD = 200
"""Characters of a value that is told: of names of classes there are up to 4 MiB."""

_FIXED = {kind: kind for kind in ("samples", "descriptions", TEXT_SOURCE, AUDIO_SOURCE)}
"""Names of groups that say their kind; every other source may be called anything."""


PART_NOTE = "part"
"""The note that says what of a group was left out: see ``cache_schema.parts.part``."""


@dataclass(frozen=True, kw_only=True)
class PartNote:
    """What of a group is not here.

    Attributes:
        left_out: its signals, and ``audio`` of the group of samples.
        layers: those of its states that are here; ``None`` for all.
    """

    left_out: tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return not self.left_out and self.layers is None

    def as_json(self) -> dict[str, Any]:
        """Return the note."""
        layers = None if self.layers is None else list(self.layers)
        return {"left_out": list(self.left_out), "layers": layers}


@dataclass(frozen=True, kw_only=True)
class GroupInfo:
    """Who made a group.

    Attributes:
        group: its name.
        kind: ``samples``, ``descriptions``, ``heard``, ``textual`` or ``acoustic``.
        signals: signal -> facts about it (``layers``, ``width``, ``dtype``, ``k``, ...).
        identity: what must be equal for more to be added: model, tokenizer, prompt, dtype, ...
        notes: what may differ: names, versions of tools, dates; and what was left out.
        whole: ``signals`` as they were recorded, where only a part of them is here.
    """

    group: str
    kind: str
    signals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    whole: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of everything that must be equal."""
        return fingerprint({"signals": recorded(self), "identity": self.identity})

    def to_json(self) -> bytes:
        """Return the group's file."""
        values = {**asdict(self), "signals": recorded(self), "fingerprint": self.fingerprint}
        del values["whole"]
        return seal(values, indent=2)


def recorded(info: GroupInfo) -> Mapping[str, Mapping[str, Any]]:
    """Return the signals that a group's maker recorded, those that are not here included."""
    return info.signals if info.whole is None else info.whole


def part_note(info: GroupInfo) -> PartNote:
    """Return what of a group is not here.

    Raises:
        ValueError: its note is none.
    """
    note = info.notes.get(PART_NOTE)
    if note is None:
        return PartNote()
    left_out, layers = note["left_out"], note["layers"]
    texts = isinstance(left_out, list) and all(isinstance(name, str) for name in left_out)
    numbers = layers is None or (
        isinstance(layers, list) and all(type(layer) is int for layer in layers)
    )
    if not texts or not numbers:
        raise ValueError(f"its note {PART_NOTE!r} is none")
    return PartNote(left_out=tuple(left_out), layers=None if layers is None else tuple(layers))


def narrowed(info: GroupInfo) -> GroupInfo:
    """Return a group whose ``signals`` are those that are here, as its note says.

    Raises:
        ValueError: its note is none.
    """
    part = part_note(info)
    if part.is_whole or info.whole is not None:
        return info
    signals = {name: facts for name, facts in info.signals.items() if name not in part.left_out}
    if part.layers is not None and "hidden" in signals:
        known = signals["hidden"].get("layers", ())
        layers = [layer for layer in known if layer in part.layers]
        signals["hidden"] = {**signals["hidden"], "layers": layers}
    return replace(info, signals=signals, whole=info.signals)


def group_from_json(content: bytes, where: str) -> GroupInfo:
    """Read a group's file.

    Raises:
        TapeError: it is damaged, or not the file of a group this software knows.
    """
    values = unseal(content, where)
    try:
        told = values.pop("fingerprint")
        info = GroupInfo(**values)
        parts = (info.signals, info.identity, info.notes, *info.signals.values())
        sound = all(isinstance(part, dict) for part in parts) and info.fingerprint == told
        sound &= all(isinstance(name, str) for name in (values["group"], values["kind"]))
        sound &= "whole" not in values
        info = narrowed(info) if sound else info
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TapeError(f"{where}: not the file of a group ({error})") from error
    if not sound:
        raise TapeError(f"{where}: its fields or its fingerprint are not those of a group")
    if info.kind not in GROUP_TABLES:
        raise TapeError(
            f"{where}: group {info.group!r} is of kind {info.kind!r}, this software knows "
            f"{', '.join(GROUP_TABLES)}"
        )
    check_group(info, where)
    if not where.endswith(f"/{info.group}.json"):
        raise TapeError(f"{where} is the file of group {info.group!r}")
    return info


def check_group(info: GroupInfo, where: str) -> None:
    """Refuse a group that cannot be called so, or whose signals nobody could read.

    Raises:
        TapeError: it is no name, says nothing of the column that a listening model fills, or is
            that of a group of another kind; or facts of a signal are missing.
    """
    if not layout.GROUP_NAME.fullmatch(info.group):
        raise TapeError(f"{where}: group {info.group!r}, expected letters, digits and _ only")
    if info.kind == HEARD and not layout.heard_column(info.group):
        raise TapeError(
            f"{where}: group {info.group!r} of kind {HEARD!r}, expected the name "
            f"{layout.HEARD_PREFIX}<column>"
        )
    _refuse_other_kinds_name(info, where)
    check_facts(info.kind, info.signals, f"{where}: group {info.group!r}")


def _refuse_other_kinds_name(info: GroupInfo, where: str) -> None:
    """Refuse a source that is called as a group of another kind is; case does not count.

    Raises:
        TapeError: naming both.
    """
    if info.kind not in (TEXT_SOURCE, AUDIO_SOURCE):
        return
    name = info.group.lower()  # a file system may not tell "Samples" from "samples"
    other = _FIXED.get(name, info.kind)
    if name == HEARD or name.startswith(layout.HEARD_PREFIX):
        other = HEARD
    if other != info.kind:
        raise TapeError(
            f"{where}: group {info.group!r} of kind {info.kind!r} is called as groups of kind "
            f"{other!r} are; give the source another name, such as that of its model"
        )


def refuse_other_maker(known: GroupInfo, offered: GroupInfo) -> None:
    """Refuse to mix signals of different makers.

    Raises:
        ProvenanceError: naming each field that differs.
    """
    old = {**known.identity, **{f"signal {k}": v for k, v in known.signals.items()}}
    new = {**offered.identity, **{f"signal {k}": v for k, v in offered.signals.items()}}
    if part_note(known) != part_note(offered):  # its lines could not be widened any more
        old["left out"] = part_note(known).as_json()
        new["left out"] = part_note(offered).as_json()
    new = json.loads(json.dumps(new))
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if differing:
        told = [(key, *apart(old.get(key), new.get(key), MAX_TOLD)) for key in differing]
        lines = "\n".join(
            f"  {key}: tape {one}, now {two}{_named(key, known, offered)}" for key, one, two in told
        )
        named = known.kind == AUDIO_SOURCE
        or_name = ", or record another teacher under a name of its own (acoustic.name)" * named
        raise ProvenanceError(
            f"{known.group!r} was recorded differently:\n{lines}\n"
            f"Use the same settings to continue, or another --out{or_name}."
            + "".join(f" {advice}" for key, advice in _ADVICE.items() if key in differing)
            + _WIDER * any(key.startswith("signal ") for key in differing)
        )


_NAMES = {"dataset_digest": "dataset", "model_digest": "model"}
"""Digest -> the note that says what it is of."""

_ADVICE = {
    "dataset_digest": "Rows belong to one state of a data set: recordings may be mended, but what "
    "lists them, once changed, makes another tape."
}
_WIDER = " A source that is begun records the same signals and layers to its end."


def _named(key: str, known: GroupInfo, offered: GroupInfo) -> str:
    """Return what two digests are of, where notes say so."""
    names = [info.notes.get(_NAMES.get(key, "")) for info in (known, offered)]
    return f" (then {names[0]}, now {names[1]})" if all(names) else ""


def dataset_json(licence: str) -> bytes:
    """Return ``dataset.json``."""
    content = {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "requires": [],
        "licence": licence,
    }
    return seal(content, indent=2)


def check_format(content: bytes, where: str) -> dict[str, Any]:
    """Read ``dataset.json``, refusing what is not a tape this software can read.

    Raises:
        TapeError: another format, a newer version, or a feature this software does not know.
    """
    try:
        values = json.loads(content[:MAX_DATASET_BYTES])
    except (ValueError, RecursionError) as error:
        raise TapeError(f"{where}: dataset.json is not JSON ({error})") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT_NAME:
        raise TapeError(f"{where}: not a tape (dataset.json does not say {FORMAT_NAME!r})")
    version = values.get("version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise TapeError(
            f"{where}: tape version {version!r}, this software reads "
            f"{FORMAT_VERSION}; install a matching teachertape"
        )
    values = unseal(content, f"{where}/{layout.DATASET_FILE}")
    if values.get("requires") != []:
        raise TapeError(
            f"{where}: the tape requires {values.get('requires')!r}, which this software does not "
            "know; install a newer teachertape"
        )
    if not isinstance(values.get("licence"), str):
        raise TapeError(f"{where}: dataset.json names no licence")
    return values
