"""What holds of every page a report writes."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

PAGE_BYTES = 10_000_000
VOID = {"meta", "link", "img", "source", "br"}


class Parsed(HTMLParser):
    """A page's elements, checked to be nested as they should."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.words: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style" and data.strip():
            self.words.append((self.open[-1], data.strip()))

    @property
    def text(self) -> str:
        return "\n".join(data for _, data in self.words)

    def all(self, tag: str) -> list[str]:
        return [data for its, data in self.words if its == tag]

    def values(self, name: str) -> list[str]:
        return [value for _, its, value in self.attributes if its == name]


def check(path: Path) -> Parsed:
    """What holds of every page."""
    page = Parsed(path)
    assert path.stat().st_size < PAGE_BYTES
    assert page.tags["script"] == page.tags["iframe"] == page.tags["base"] == 0
    assert page.tags["h1"] == 1
    for name in ("src", "srcset", "href"):
        assert all(value.startswith(("data:", "#")) for value in page.values(name))
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    content = path.read_text(encoding="utf-8")
    outside = re.sub(r"data:[a-z/]+;base64,[A-Za-z0-9+/=]+", "", content)
    style = outside[outside.index("<style>") : outside.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in content
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    assert {value[1:] for value in page.values("href") if value.startswith("#")} <= set(ids)
    alts = page.values("alt")
    assert len(alts) == page.tags["img"]
    assert all(alts)
    for plot in sorted((path.parent / "plots").glob("*.png")):
        with Image.open(plot) as image:
            image.verify()
            assert image.format == "PNG"
            assert image.width == 880
    assert len(list((path.parent / "plots").glob("*.png"))) == 2 * page.tags["img"]
    return page
