"""The page: its parts as data, and the one template that writes them as HTML.

Everything is escaped where it is written: texts come from models and datasets. The page holds no
script and forbids itself any connection, so a text that got through could still do nothing.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cache_schema.codecs.files import write_atomic
from cache_schema.commands.console import printable
from train.evaluate.report.plots.canvas import Plot
from train.evaluate.report.samples import Card

PAGE_FILE = "report.html"
PLOTS_DIR = "plots"
KEPT = "\n\t\u00a0\u3000\u200d"
"""Not printable by Python's rule, and shown as they are: line ends, wide and joining spaces."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; its first column names the rows.

    Attributes:
        caption: what it holds.
        head: names of the columns.
        rows: cells as they are shown.
        words: columns that hold words: they wrap and start at the left.
        note: what is left out or has to be known; may be empty.
        folded: whether the reader has to open it.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[int] = (0,)
    note: str = ""
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page under its own heading.

    Attributes:
        title: its heading.
        text: paragraphs before everything else.
        tables: tables, in order.
        plots: plots, after the tables.
        cards: samples, last.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    cards: Sequence[Card] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """All of it.

    Attributes:
        title: of the browser's tab.
        result: the first line: the result in words.
        alarm: whether the first line tells of forgetting.
        detail: a few sentences after it.
        sections: the rest.
    """

    title: str
    result: str
    alarm: bool = False
    detail: Sequence[str] = ()
    sections: Sequence[Section] = ()


def write_page(page: Page, directory: Path) -> Path:
    """Write the page and its plots.

    Args:
        page: the page.
        directory: gets ``report.html`` and ``plots/``.

    Returns:
        The HTML file.
    """
    for section in page.sections:
        for plot in section.plots:
            for theme, png in plot.png.items():
                ending = "" if theme == "light" else f"-{theme}"
                write_atomic(directory / PLOTS_DIR / f"{plot.name}{ending}.png", png)
    path = directory / PAGE_FILE
    write_atomic(path, render(page).encode())
    return path


def render(page: Page) -> str:
    """Return the page as HTML that refers to nothing outside itself."""
    return _environment().get_template("page.html.j2").render(page=page)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("train.evaluate.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.loader.get_source(environment, "style.css")[0]  # type: ignore[union-attr]
    environment.globals["style"] = Markup(style)
    environment.filters["data_url"] = data_url
    environment.finalize = _shown
    return environment


def _shown(value: object) -> object:
    """Write out what is not printable: half characters, which no file holds, and turned writing."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return printable(value, keep=KEPT)


def data_url(content: bytes, kind: str) -> Markup:
    """Return bytes as a ``data:`` URL of a media type."""
    url = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return Markup(url)
