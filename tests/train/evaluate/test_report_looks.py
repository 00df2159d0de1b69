"""How a page looks: contrast of its colours, and in a real browser that nothing overflows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from made_evaluation import write_evaluation, write_run

from train.evaluate.report import write_report
from train.evaluate.report.plots.canvas import THEMES

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

PROBE = """<body style="margin:0"><iframe id="page" src="{url}" style="border:0;width:{width}px;
height:900px"></iframe><pre id="said"></pre><script>
page.onload = () => {{
  const page_document = page.contentDocument, found = [];
  for (const one of page_document.querySelectorAll("body *"))
    if (one.getBoundingClientRect().right > {width} && !one.closest(".scroll table"))
      found.push(one.tagName);
  const broken = [...page_document.images].filter(one => !one.naturalWidth).length;
  const silent = [...page_document.querySelectorAll("audio")].filter(one => !one.duration).length;
  said.textContent = `wide ${{page_document.documentElement.scrollWidth}} over ${{found.length}} `
    + `broken ${{broken}} silent ${{silent}} done`;
}}</script>"""


def luminance(color: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return sum(one * share for one, share in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_can_be_read_on_a_light_and_on_a_dark_page() -> None:
    style = files("train.evaluate.report").joinpath("templates/style.css").read_text()
    themes = [dict(re.findall(r"--(\w+): (#\w{6});", part)) for part in style.split("@media")[:2]]
    assert len(themes) == 2
    for colors in themes:
        for text in ("ink", "soft", "link", "right", "wrong", "failed"):
            for background in ("page", "panel"):
                # WCAG AA: 4.5 for text
                assert contrast(colors[text], colors[background]) >= 4.5, (text, background)
        assert contrast(colors["ink"], colors["alarm"]) >= 4.5


def test_series_of_plots_can_be_told_from_their_background() -> None:
    for theme in THEMES:
        # WCAG AA: 3 for graphics, 4.5 for text
        assert all(contrast(color, theme.background) >= 3 for color in theme.series)
        assert contrast(theme.ink, theme.background) >= 4.5


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_in_a_browser(tmp_path: Path, width: int) -> None:
    long = {"answer": "unbreakable" * 60, "text": "unbreakable" * 60, "finish": "stop"}
    made = write_evaluation(tmp_path / "e", "meld", 20, changes={0: long, 1: long})
    base = write_evaluation(tmp_path / "b", "meld", 20, skill=0.3)
    path = write_report(made, base, {"run": write_run(tmp_path / "run")})
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(url=path.as_uri(), width=width))
    assert CHROMIUM is not None
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--disable-gpu", "--disable-background-networking", *sandbox,
         "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=8000", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    said = re.search(r"wide (\d+) over (\d+) broken (\d+) silent (\d+) done", done.stdout)
    assert said, done.stdout[-500:]
    wide, over, broken, silent = map(int, said.groups())
    assert wide <= width
    assert (over, broken, silent) == (0, 0, 0)
