"""What can be said of the settings of traces before any model is loaded."""

from __future__ import annotations

from pathlib import Path

from audio_models.config import load_config
from cache_schema.errors import UsageError
from cache_schema.layers import parse_layers
from pipeline.prompts import load_prompt
from pipeline.teachers.describe import text_shape
from pipeline.textual_recipe import TextualRecipe
from pipeline.traces.group import CHATS, SAMPLING


def check_traces(recipe: TextualRecipe) -> None:
    """Refuse a prompt, a template or layers that are not there, and settings that contradict.

    Raises:
        ModelError: the model does not exist.
        UsageError: naming the setting.
    """
    if recipe.given:
        _refuse_writing(recipe)
    load_prompt(recipe.prompt)
    if recipe.chat not in CHATS and not Path(recipe.chat).is_file():
        raise UsageError(
            f"textual.chat {recipe.chat!r}: expected {' or '.join(CHATS)}, or the path of a Jinja "
            "template; there is no such file"
        )
    parse_layers(recipe.lens, text_shape(load_config(recipe.teacher)).num_layers)


def check_teacher(recipe: TextualRecipe) -> None:
    """Refuse what the textual step would, before hours of work that it would waste.

    Raises:
        ModelError: there is no tokenizer or no chat template, or vLLM is to run it and is missing.
        UsageError: the template cannot be read, or the engine has no such setting.
    """
    from pipeline.teachers.text_model import TextModel

    TextModel(recipe)
    if recipe.engine == "vllm":
        from pipeline.teachers import vllm_options as options

        options.vllm_version()
        if recipe.vllm:  # only then is it imported, which takes seconds
            options.quiet()
            options.check_settings(recipe.vllm)


def _refuse_writing(recipe: TextualRecipe) -> None:
    """Refuse settings of how traces are written where they are given."""
    default = TextualRecipe()
    for name in ("rationales", *SAMPLING):
        value = getattr(recipe, name)
        if value != getattr(default, name):
            raise UsageError(
                f"textual.{name} = {value!r}: means nothing where textual.given names the column "
                f"of the traces ({recipe.given!r}), for nothing is written; leave one of them out"
            )
