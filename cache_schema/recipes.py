"""Recipes: frozen dataclasses filled from TOML and ``--set section.key=value``; unknown keys fail.

One level of sections. The type of a value is the type of its field; an integer is accepted for a
float, nothing else is converted.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cache_schema.errors import UsageError, nearest

R = TypeVar("R")


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
        key, equals, text = override.partition("=")
        if not equals:
            raise UsageError(f"--set {override!r}: expected section.key=value")
        _assign(values, key.strip().split("."), _parse_value(text.strip()), override)
    return build(cls, values, where="recipe")


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


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
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: expected a section, got {value!r}")
        return build(hint, value, where)
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
    """Return the resolved recipe as TOML, every default written out (``None`` values left out)."""
    lines: list[str] = []
    _emit(recipe if isinstance(recipe, Mapping) else dataclasses.asdict(recipe), (), lines)
    return "\n".join(lines) + "\n"


def _emit(values: Mapping[str, Any], section: tuple[str, ...], lines: list[str]) -> None:
    if section:
        lines.append(f"\n[{'.'.join(section)}]")
    nested = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lines.extend(
        f"{key} = {_toml_value(value)}"
        for key, value in values.items()
        if key not in nested and value is not None
    )
    for key, value in nested.items():
        _emit(value, (*section, key), lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # JSON's escapes are TOML's
    return repr(value)
