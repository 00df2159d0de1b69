"""Prompts are versioned files: a form, a user turn, and one for rationales told the answer.

The bytes of the file are what the tape remembers (``digest``), so a prompt that ships is never
edited; a new wording is a new file.
"""

from __future__ import annotations

import hashlib
import string
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from cache_schema.answers.forms import FORMS
from cache_schema.answers.questions import question_text
from cache_schema.commands.recipes import build, one_of
from cache_schema.errors import UsageError, nearest

Messages = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class PromptFile:
    """What a prompt's TOML file holds.

    Attributes:
        form: what the trace should look like, one of ``cache_schema.answers.forms.FORMS``.
        user: the user turn, with the fields ``{description}`` and ``{question}`` (which has the
            line of choices, if there are any).
        rationale: the user turn that tells the answer too, ``{answer}`` (STaR, arXiv 2203.14465).
    """

    form: str
    user: str
    rationale: str

    def __post_init__(self) -> None:
        one_of("form", self.form, tuple(FORMS))
        _check_fields("user", self.user, ("description", "question"))
        _check_fields("rationale", self.rationale, ("description", "question", "answer"))


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a textual teacher is asked.

    Attributes:
        name: of a prompt that ships, or of the user's file.
        digest: sha256 of the file's bytes, in hexadecimal.
        file: what it holds.
    """

    name: str
    digest: str
    file: PromptFile

    @property
    def form(self) -> str:
        """What the trace should look like."""
        return self.file.form

    def ask(self, description: str, question: str, choices: Sequence[str]) -> Messages:
        """Return the chat messages for one sample: one user turn.

        Args:
            description: the textualized audio.
            question: what is asked about it.
            choices: the permitted answers, empty for an open question.
        """
        text = question_text(question, choices)
        return _user_turn(self.file.user.format(description=description, question=text))

    def ask_why(
        self, description: str, question: str, choices: Sequence[str], answer: str
    ) -> Messages:
        """Return the chat messages that tell the right answer and ask for the way to it."""
        text = question_text(question, choices)
        content = self.file.rationale.format(description=description, question=text, answer=answer)
        return _user_turn(content)


def shipped_prompts() -> list[str]:
    """Return the names of the prompts that come with this software."""
    names = [item.name for item in files("pipeline.prompts").iterdir()]
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load_prompt(prompt: str) -> Prompt:
    """Read a prompt.

    Args:
        prompt: the name of one that ships (``cota.v1``), or the path of a TOML file.

    Raises:
        UsageError: there is none, it cannot be read, or a key or field of it is unknown or missing.
    """
    shipped = shipped_prompts()
    if prompt in shipped:
        content = files("pipeline.prompts").joinpath(f"{prompt}.toml").read_bytes()
        name = prompt
    elif prompt.endswith(".toml"):
        path = Path(prompt).expanduser()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"textual.prompt {prompt!r}: {error.strerror}") from error
        name = path.name
    else:
        raise UsageError(
            f"textual.prompt: expected {', '.join(shipped)} or the path of a .toml file, got "
            f"{prompt!r}{nearest(prompt, shipped)}"
        )
    try:
        values = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"prompt {prompt}: {error}") from error
    file = build(PromptFile, values, where=f"prompt {prompt}")
    return Prompt(name=name, digest=hashlib.sha256(content).hexdigest(), file=file)


def _check_fields(key: str, template: str, fields: Sequence[str]) -> None:
    """Refuse a template with fields other than these, or without one of them.

    Raises:
        UsageError: naming the field.
    """
    known = ", ".join(f"{{{name}}}" for name in fields)
    try:
        found = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        for name in sorted(found - set(fields)):
            raise UsageError(
                f"prompt.{key}: unknown field {{{name}}}{nearest(name, fields)} (known: {known}; "
                "write a brace of the text itself twice)"
            )
        template.format(**dict.fromkeys(fields, ""))
    except (ValueError, IndexError, KeyError) as error:
        raise UsageError(f"prompt.{key}: {error} (fields: {known})") from error
    missing = [name for name in fields if name not in found]
    if missing:
        raise UsageError(f"prompt.{key}: lacks the field {{{missing[0]}}} (it needs {known})")


def _user_turn(content: str) -> Messages:
    return [{"role": "user", "content": content}]
