"""The recipe by which a recorded source is run again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cache_schema import Tape
from cache_schema.commands.recipes import load_recipe, toml_value
from cache_schema.errors import UsageError, nearest
from cache_schema.maker import GroupInfo, recorded
from cache_schema.types import AUDIO_SOURCE, TEXT_SOURCE
from pipeline.acoustic_recipe import AcousticRecipe
from pipeline.recipe import DatasetRecipe, ExtractRecipe, FailureRecipe, TapeRecipe
from pipeline.replay.note import SECTIONS, noted_recipe
from pipeline.textual_recipe import TextualRecipe

_ENGINE = "textual.vllm."


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the user says of the teachers.

    Attributes:
        teachers: source -> where its teacher lies now; others lie where the tape's recipe says.
        recipe: the recipe the tape was recorded with, in place of the one in its notes.
        overrides: ``section.key=value`` items over either.
        sources: the sources to replay; all by default.
    """

    teachers: Mapping[str, str] = field(default_factory=dict)
    recipe: Path | None = None
    overrides: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


def given_of(
    tape: Tape,
    text_teacher: str | None,
    acoustic_teachers: list[str],
    recipe: Path | None,
    overrides: list[str],
    sources: list[str],
) -> Given:
    """Return what the flags of the command say, names of sources checked.

    Raises:
        UsageError: a source is not on the tape, or it is not said whose teacher a model is.
    """
    known = {name: info.kind for name, info in tape.groups.items() if info.kind in SECTIONS}
    unknown = [name for name in sources if name not in known]
    if unknown:
        raise UsageError(
            f"--source {unknown[0]}: {tape.location} has {', '.join(known) or 'no sources'}"
            f"{nearest(unknown[0], known)}"
        )
    for override in overrides:
        if not override.lstrip().startswith(("textual.", "acoustic.", "seed")):
            raise UsageError(
                f"--set {override}: a replay takes settings of teachers only (textual., acoustic., "
                "seed); the rest is as on the tape"
            )
    replayed = {name: kind for name, kind in known.items() if name in sources or not sources}
    teachers = {} if text_teacher is None else _teacher(text_teacher, TEXT_SOURCE, replayed)
    for one in acoustic_teachers:
        teachers |= _teacher(one, AUDIO_SOURCE, replayed)
    return Given(
        teachers=teachers, recipe=recipe, overrides=tuple(overrides), sources=tuple(replayed)
    )


def _teacher(value: str, kind: str, replayed: Mapping[str, str]) -> dict[str, str]:
    """Return source -> model of ``NAME=MODEL``, or of a model where one source can be meant."""
    flag = "--text-teacher" if kind == TEXT_SOURCE else "--acoustic-teacher"
    mine = [name for name, its in replayed.items() if its == kind]
    name, separator, model = value.partition("=")
    if separator and name in mine:
        return {name: model}
    if len(mine) != 1:
        raise UsageError(
            f"{flag} {value}: {len(mine)} sources that are replayed could be meant "
            f"({', '.join(mine) or 'there is none of this kind'}); give {flag} NAME=MODEL, or "
            "choose with --source NAME"
        )
    return {mine[0]: value}


def recipe_of(info: GroupInfo, given: Given, out: Path) -> ExtractRecipe:
    """Return the recipe that runs a source again, onto another tape.

    Args:
        info: the source as the tape has it.
        given: what the user says.
        out: that other tape.

    Raises:
        UsageError: the tape does not say how the source was made, and neither does the user.
    """
    overrides = []
    if given.recipe is None:
        confirmed = frozenset(
            one.partition("=")[0].strip().removeprefix(_ENGINE).partition(".")[0]
            for one in given.overrides
            if one.strip().startswith(_ENGINE)
        )
        noted = noted_recipe(info, confirmed) or {}
        overrides += [f"{key}={toml_value(value, key)}" for key, value in noted.items()]
    overrides += given.overrides
    if info.group in given.teachers:
        overrides.append(f"{info.kind}.teacher={toml_value(given.teachers[info.group], 'teacher')}")
    overrides.append(f"tape.out={toml_value(str(out), 'tape.out')}")
    recipe = load_recipe(ExtractRecipe, given.recipe, overrides)
    if not getattr(recipe, info.kind).teacher:
        flag = "--text-teacher" if info.kind == TEXT_SOURCE else "--acoustic-teacher"
        raise UsageError(
            f"source {info.group!r} was recorded without a note of its recipe (by an earlier "
            "version, or by other software), so how to make it again is not on the tape; give the "
            f"recipe it was recorded with (--recipe R.toml), or its teacher ({flag} M) and every "
            f"setting that was no default (--set {info.kind}.KEY=VALUE); --source NAME leaves "
            "other sources out"
        )
    return _alone(recipe, info, out)


def _alone(recipe: ExtractRecipe, info: GroupInfo, out: Path) -> ExtractRecipe:
    """Return the recipe with this one source, stored as it is compared: nothing more is lost.

    Top-k keeps its codec, which gives the same bytes for the same values; states are kept whole.
    """
    facts = recorded(info)
    codec = next((facts[name].get("codec") for name in ("topk", "lens") if name in facts), None)
    dtype = facts.get("hidden", {}).get("dtype")
    is_text = info.kind == TEXT_SOURCE
    return ExtractRecipe(
        dataset=DatasetRecipe(),
        textual=recipe.textual if is_text else TextualRecipe(),
        acoustic=AcousticRecipe() if is_text else replace(recipe.acoustic, name=info.group),
        tape=TapeRecipe(
            out=str(out),
            profile="hot",
            topk=codec or "hot",
            states_dtype=dtype or TapeRecipe.states_dtype,
        ),
        failures=FailureRecipe(max_fraction=1.0),
        seed=recipe.seed,
    )
