"""Who makes the textual signals, and which they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache_schema.layers import parse_layers
from cache_schema.maker import GroupInfo
from cache_schema.types import TEXT_SOURCE
from pipeline.facts import NOTE_KEYS, hidden_facts, logits_facts
from pipeline.prompts import Prompt
from pipeline.recipe import ExtractRecipe
from pipeline.replay.note import recipe_note
from pipeline.step import kept_logits, notes
from pipeline.teachers.base import Wanted
from pipeline.textual_recipe import TextualRecipe

CHATS = ("model", "none")
"""Values of ``textual.chat`` that are no file."""

SAMPLING = (
    "traces",
    "max_new_tokens",
    "temperature",
    "top_p",
    "sample_top_k",
    "min_p",
    "repetition_penalty",
)
"""Settings of the recipe that decide what a teacher writes; without meaning for given traces."""


def wanted_signals(textual: TextualRecipe, about: Mapping[str, Any]) -> Wanted:
    """Return which signals to record of a teacher.

    Raises:
        UsageError: it has no such layers.
    """
    lens = parse_layers(textual.lens, about["num_layers"])
    lens_top_k = textual.lens_top_k
    if lens:
        lens_top_k = kept_logits("textual lens", lens_top_k, about["vocab_size"])
    return Wanted(
        top_k=kept_logits("textual", textual.top_k, about["vocab_size"]),
        layers=parse_layers(textual.layers, about["num_layers"]),
        lens=lens,
        lens_top_k=lens_top_k,
        draws=textual.draws,
    )


def group_info(
    recipe: ExtractRecipe,
    about: Mapping[str, Any],
    wanted: Wanted,
    prompt: Prompt,
    descriptions: str,
) -> GroupInfo:
    """Return who makes the textual signals.

    Args:
        recipe: of the run.
        about: what the teacher says of itself.
        wanted: the signals.
        prompt: what it is asked.
        descriptions: fingerprint of what it reads.
    """
    textual = recipe.textual
    return GroupInfo(
        group=TEXT_SOURCE,
        kind=TEXT_SOURCE,
        signals=_signals(recipe, about, wanted),
        identity={
            **{key: value for key, value in about.items() if key not in NOTE_KEYS},
            "prompt_digest": prompt.digest,
            "form": prompt.form,
            # Which template it is says its digest.
            "chat": "none" if textual.chat == "none" else "template",
            "template_args": dict(textual.template_args),
            "date": textual.date,
            "descriptions": descriptions,
            "select": textual.select,
            "judge": textual.judge,
            "rationales": textual.rationales,
            "given": textual.given,
            **({} if textual.given else {name: getattr(textual, name) for name in SAMPLING}),
            "seed": recipe.seed,
        },
        notes=notes(
            {key: about[key] for key in NOTE_KEYS}
            | _names(textual, prompt)
            | recipe_note(recipe, "textual")
        ),
    )


def _names(textual: TextualRecipe, prompt: Prompt) -> dict[str, str]:
    """Return what prompt and template are called; their digests say what they are."""
    chat = textual.chat if textual.chat in CHATS else Path(textual.chat).name
    return {"prompt": prompt.name, "chat_name": chat}


def _signals(
    recipe: ExtractRecipe, about: Mapping[str, Any], wanted: Wanted
) -> dict[str, dict[str, Any]]:
    """Return the facts of each signal; one that is not recorded is not there."""
    signals = {"trace": {}, **logits_facts(recipe, wanted)}
    if wanted.layers:
        signals["hidden"] = hidden_facts(recipe, wanted.layers, about["width"])
    return signals
