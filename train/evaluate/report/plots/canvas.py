"""What all plots share: size, colours of a light and a dark page, text that cannot hurt, PNG bytes.

A plot is 440 CSS pixels wide, drawn at twice that: on a phone it is shown at four fifths of its
size and its letters are still 10 pixels high. Only objects of matplotlib are used, never
``pyplot``, so nothing global changes.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font
from matplotlib.lines import Line2D

WIDTH_IN = 4.4
DPI = 200
FONT_PT = 9
LABEL_LETTERS = 26
"""Longer names are cut in a plot; the tables hold them whole."""


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of one kind of page.

    Attributes:
        name: ``light`` or ``dark``.
        background: of the figure, the page's own.
        ink: text and axes.
        faint: grid and what stands behind.
        series: a colour a series, those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which
            colour-blind readers tell apart, as light or dark as the background needs.
        shades: matplotlib's map for amounts, from the background's side on.
    """

    name: str
    background: str
    ink: str
    faint: str
    series: tuple[str, ...]
    shades: str


LIGHT = Theme(
    name="light",
    background="#ffffff",
    ink="#1c1f23",
    faint="#c9ced6",
    series=("#0072b2", "#d55e00", "#00805e", "#a8588b", "#8a6d00", "#2a8fc4", "#000000"),
    shades="Blues",
)
DARK = Theme(
    name="dark",
    background="#16181c",
    ink="#e6e8eb",
    faint="#454b54",
    series=("#56b4e9", "#ff9248", "#2fc79b", "#e39ac9", "#e6b422", "#8fb8ff", "#ffffff"),
    shades="cividis",
)
THEMES = (LIGHT, DARK)

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One plot as it is saved and shown.

    Attributes:
        name: of its file, without an ending.
        title: what it shows.
        alt: what can be read from it, in words.
        width_px: as shown at full size.
        height_px: the same.
        png: theme -> file.
    """

    name: str
    title: str
    alt: str
    width_px: int
    height_px: int
    png: dict[str, bytes]


Draw = Callable[[Axes, Theme], None]


def draw_plot(name: str, title: str, alt: str, draw: Draw, height_in: float = 3.1) -> Plot:
    """Return a plot in both themes.

    Args:
        name: of its file.
        title: heading on the page; not drawn.
        alt: what can be read from it.
        draw: draws on the axes it is given, in the theme's colours.
        height_in: height, 100 CSS pixels an inch.
    """
    png = {theme.name: _png(draw, theme, height_in) for theme in THEMES}
    width_px, height_px = round(WIDTH_IN * 100), round(height_in * 100)
    return Plot(name=name, title=title, alt=alt, width_px=width_px, height_px=height_px, png=png)


def _png(draw: Draw, theme: Theme, height_in: float) -> bytes:
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.set_facecolor(theme.background)
    axes = figure.add_subplot()
    _dress(axes, theme)
    draw(axes, theme)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})  # equal figures, equal files
    return buffer.getvalue()


def _dress(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.background)
    axes.set_axisbelow(True)
    axes.grid(visible=True, color=theme.faint, linewidth=0.5, alpha=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)
    axes.tick_params(colors=theme.ink, labelsize=FONT_PT, length=3, color=theme.faint)


def label_axes(axes: Axes, theme: Theme, x: str, y: str) -> None:
    """Name both axes, with units."""
    axes.set_xlabel(drawable(x, 60), fontsize=FONT_PT, color=theme.ink, parse_math=False)
    axes.set_ylabel(drawable(y, 60), fontsize=FONT_PT, color=theme.ink, parse_math=False)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Give the y axis a name a row, the first on top, and no lines between."""
    axes.set_yticks(range(len(names)), [drawable(name) for name in names], parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def add_legend(axes: Axes, theme: Theme, handles: Sequence[Line2D], names: Sequence[str]) -> None:
    """Explain the series, above the plot."""
    legend = axes.figure.legend(
        list(handles),
        [drawable(name) for name in names],
        loc="outside upper left",
        fontsize=FONT_PT,
        ncols=2,
        frameon=False,
        handlelength=2.2,
        columnspacing=1.4,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
        text.set_color(theme.ink)


def drawable(text: str, letters: int = LABEL_LETTERS) -> str:
    """Return a name as a plot can show it: one short line of letters that its font has.

    Names come from datasets: a dollar would begin a formula (callers turn that off), an underscore
    hides a series from the legend, a letter without a glyph warns.
    """
    glyphs = _glyphs()
    line = " ".join(text.split())
    known = "".join(one if ord(one) in glyphs else "\N{REPLACEMENT CHARACTER}" for one in line)
    cut = known if len(known) <= letters else known[: letters - 1] + "…"
    return f" {cut}" if cut.startswith("_") else cut


@functools.cache
def _glyphs() -> frozenset[int]:
    return frozenset(FT2Font(findfont(FontProperties())).get_charmap())
