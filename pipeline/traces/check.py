"""What can be said of the settings of traces before any model is loaded."""

from __future__ import annotations

from pathlib import Path

from cache_schema.errors import UsageError
from cache_schema.layers import parse_layers
from pipeline.prompts import load_prompt
from pipeline.teachers.describe import load_config, text_shape
from pipeline.textual_recipe import TextualRecipe
from pipeline.traces.group import CHATS


def check_traces(recipe: TextualRecipe) -> None:
    """Refuse a prompt, a template or layers that are not there, and settings that contradict.

    Raises:
        ModelError: the model does not exist.
        UsageError: naming the setting.
    """
    if recipe.given and recipe.rationales != "none":
        raise UsageError(
            f"textual.rationales {recipe.rationales!r}: nothing is written where textual.given "
            f"names a column ({recipe.given!r}); leave one of them out"
        )
    load_prompt(recipe.prompt)
    if recipe.chat not in CHATS and not Path(recipe.chat).is_file():
        raise UsageError(
            f"textual.chat {recipe.chat!r}: expected {' or '.join(CHATS)}, or the path of a Jinja "
            "template; there is no such file"
        )
    parse_layers(recipe.lens, text_shape(load_config(recipe.teacher)).num_layers)
