"""Recipes: frozen dataclasses filled from TOML and ``--set section.key=value``; unknown keys fail.

Sections may hold sections. The type of a value is the type of its field; an integer is accepted for
a float and a list for a tuple, nothing else is converted.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cache_schema.errors import UsageError, nearest

R = TypeVar("R")

_KEY = re.compile(r"""\"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s.="'\[\]{}#,]+""")
_KEYS = re.compile(rf"\s*((?:{_KEY.pattern})(?:\s*\.\s*(?:{_KEY.pattern}))*)\s*=")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def load_recipe(cls: type[R], path: Path | None, overrides: Sequence[str] = ()) -> R:
    """Build the recipe ``cls`` from a TOML file and ``key=value`` overrides.

    Args:
        cls: frozen dataclass; a field that is itself a dataclass is a section.
        path: TOML file, or ``None`` for the defaults.
        overrides: ``section.key=value`` items, the value in TOML syntax; a bare word is a string.

    Raises:
        UsageError: the file cannot be read, a key is unknown or a value has the wrong type.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"recipe {path}: {error}") from error
    for override in overrides:
        _assign(values, *_parse_override(override), override)
    return build(cls, values, where="recipe")


def _parse_override(override: str) -> tuple[list[str], Any]:
    """Return the keys and the value of ``section.key=value``; a key may be quoted, as in TOML."""
    match = _KEYS.match(override)
    if match is None:
        raise UsageError(
            f"--set {override!r}: expected section.key=value; a key with a space, a dot or a sign "
            """in it is quoted: section."a key"=value"""
        )
    text = override[match.end() :].strip()
    keys = [_unquoted(key, override) for key in _KEY.findall(match[1])]
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return keys, text
    return keys, parsed["value"] if list(parsed) == ["value"] else text


def _unquoted(key: str, override: str) -> str:
    if key[0] not in "\"'":
        return key
    try:
        return next(iter(tomllib.loads(f"{key} = 0")))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--set {override!r}: key {key}: {error}") from error


def _assign(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    node = values
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise UsageError(f"--set {override!r}: {key!r} is a value, not a section")
    node[keys[-1]] = value


def build(cls: type[R], values: Mapping[str, Any], where: str) -> R:
    """Build the dataclass ``cls`` from a mapping, checking every key and type.

    Raises:
        UsageError: a key is unknown, a value has the wrong type, or the dataclass refuses it.
    """
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            raise UsageError(
                f"{where}: unknown key {key!r}{nearest(key, hints)} (known: {', '.join(hints)})"
            )
        arguments[key] = _convert(hints[key], value, f"{where}.{key}")
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        return _convert(members[0], value, where)
    if hasattr(hint, "from_values") or dataclasses.is_dataclass(hint):
        return _section(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where}: expected a list, got {value!r}")
        return tuple(_convert(typing.get_args(hint)[0], item, where) for item in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: expected a section, got {value!r}")
        item = typing.get_args(hint)[1]
        return {key: _convert(item, inner, f"{where}.{key}") for key, inner in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wrong = hint is int and isinstance(value, bool)
    if hint is not Any and (wrong or not isinstance(value, hint)):
        quoted = f"; as text it is '\"{value}\"'" if hint is str else ""
        raise UsageError(f"{where}: expected {hint.__name__}, got {value!r}{quoted}")
    return value


def _section(hint: Any, value: Any, where: str) -> Any:
    """Build a section; one whose keys are no fixed set of fields builds itself."""
    if hasattr(hint, "from_values"):
        return hint.from_values(value, where)
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: expected a section, got {value!r}")
    return build(hint, value, where)


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is none of those allowed.

    Raises:
        UsageError: naming them.
    """
    if value not in allowed:
        raise UsageError(
            f"{name}: expected {' or '.join(allowed)}, got {value!r}{nearest(value, allowed)}"
        )


def as_toml(recipe: Any) -> str:
    """Return the resolved recipe as TOML, every default written out; ``load_recipe`` reads it back.

    ``None`` of a field of the recipe is left out: it is the default of every field that may be it.

    Raises:
        UsageError: a value that TOML cannot hold, such as a ``None`` inside a list or a dict.
    """
    lines: list[str] = []
    _emit(recipe, (), lines)
    return "\n".join(lines) + "\n"


def _emit(recipe: Any, section: tuple[str, ...], lines: list[str]) -> None:
    is_recipe = dataclasses.is_dataclass(recipe)
    where = ".".join(("recipe", *section))
    names = [field.name for field in dataclasses.fields(recipe)] if is_recipe else list(recipe)
    values = {name: getattr(recipe, name) if is_recipe else recipe[name] for name in names}
    for name in names:
        if is_recipe and values[name] is None:
            del values[name]
    if section:
        lines.append(f"\n[{'.'.join(_toml_key(key, where) for key in section)}]")
    nested = {name: value for name, value in values.items() if _is_table(value)}
    lines.extend(
        f"{_toml_key(name, where)} = {toml_value(value, f'{where}.{name}')}"
        for name, value in values.items()
        if name not in nested
    )
    for name, value in nested.items():
        _emit(value, (*section, name), lines)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or dataclasses.is_dataclass(value)


def _toml_key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise UsageError(f"{where}: key {key!r}: expected text")
    return key if _BARE.fullmatch(key) else _toml_text(key, where)


def _toml_text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: {text!r} is not UTF-8 ({error})") from error
    # JSON's escapes are TOML's, which wants DEL escaped besides
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_value(value: Any, where: str) -> str:
    """Return a value as TOML, on one line.

    Args:
        value: text, a number, true or false, a date or time, a list or a mapping of such.
        where: its name in a message.

    Raises:
        UsageError: TOML has no form for it.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return repr(int(value))
    if isinstance(value, float):
        return repr(float(value))  # nan and inf are TOML's words too
    if isinstance(value, str):
        return _toml_text(value, where)
    if isinstance(value, dt.date | dt.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, list | tuple):
        items = [toml_value(item, f"{where}[{at}]") for at, item in enumerate(value)]
        return f"[{', '.join(items)}]"
    if isinstance(value, Mapping):
        pairs = [
            f"{_toml_key(key, where)} = {toml_value(item, f'{where}.{key}')}"
            for key, item in value.items()
        ]
        return "{" + ", ".join(pairs) + "}"
    raise UsageError(
        f"{where}: {value!r} has no form in TOML, in which recipes are kept; "
        "expected text, a number, true or false, a date, a list or a table"
    )
