"""Forms of a trace: its tags, its parts, and where its answer stands.

- ``cota``: the structured form of CoTA (arXiv 2503.02318), four sections inside ``<THINK>``, then
  ``<RESPONSE>``.
- ``think``: ``<think>...</think>``, then the answer alone.
- ``plain``: whatever the teacher writes; thinking and ``<RESPONSE>`` are seen if they are there.

Models keep to a form more or less, so nothing here fails: what is not as it should be is told.
Every text is read once, tag by tag; the time grows with its length, whatever it holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cache_schema.commands.recipes import one_of

FORMS: dict[str, tuple[str, ...]] = {
    "cota": ("planning", "caption", "reasoning", "summary"),
    "think": (),
    "plain": (),
}
"""Form -> the sections inside its thinking, in order."""

THINK, RESPONSE = "think", "response"
_TAG = re.compile(
    r"<(/?)(think|thinking|planning|caption|reasoning|summary|response)>", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """What a trace consists of.

    Attributes:
        parts: tag in lower case -> its text, outer spaces gone: those that are there, of a
            repeated one the last. ``think`` holds the thinking of the forms without sections.
        answer: the answer; empty if there is none.
        complete: whether every part of the form is there and closed, and there is an answer.
        problems: what is not as the form says, each once, in the order it was met.
    """

    parts: dict[str, str]
    answer: str
    complete: bool
    problems: tuple[str, ...]


_OPENED = re.compile(r"<think(?:ing)?>\s*\Z", re.IGNORECASE)


def opens_thinking(prompt: str) -> bool:
    """Whether a prompt, or its end, leaves a thinking open: some chat templates do."""
    return _OPENED.search(prompt) is not None


def parse_trace(text: str, form: str, *, truncated: bool = False, opened: bool = False) -> Parsed:
    """Take a trace apart.

    The answer is the last ``<RESPONSE>`` if there is one, otherwise what follows the thinking.
    Tags are matched in any case. A ``</think>`` that nothing opened ends a thinking that began with
    the trace. A response inside the thinking counts only if it is closed and nothing but tags
    follows: elsewhere a model talks about the form. A trace that ends inside its thinking has no
    answer: so does, in every form, one without ``</think>`` whose prompt opened the thinking. From
    its text alone it cannot be told from one whose thinking was left out, which is answer as a
    whole: hence ``opened``.

    Args:
        text: the decoded trace.
        form: one of ``FORMS``.
        truncated: whether the trace was cut at its length. An answer that reaches the end of the
            text may then be half of one, and is none.
        opened: whether the prompt left the thinking open, see ``opens_thinking``.

    Raises:
        UsageError: no such form.
    """
    one_of("form", form, tuple(FORMS))
    scan = _Scan(text, FORMS[form])
    if opened:
        scan.open(THINK, 0, 0)
    for tag in _TAG.finditer(text):
        name = THINK if tag[2].lower() == "thinking" else tag[2].lower()
        if name in scan.order:
            (scan.close if tag[1] else scan.open)(name, tag.start(), tag.end())
    scan.finish()
    start, end, closed = scan.answer_span()
    answer = "" if truncated and not closed else text[start:end].strip()
    if truncated:
        scan.tell("truncated")
    if not answer:
        scan.tell("no answer")
    needed = {"cota": scan.order, "think": (THINK,), "plain": ()}[form]
    for name in needed:
        if name not in scan.spans:
            scan.tell(f"missing {_shown(name)}")
    return Parsed(
        parts={
            name: text[slice(*scan.spans[name])].strip()
            for name in scan.order
            if name in scan.spans and not (name == THINK and scan.sections)
        },
        answer=answer,
        complete=bool(answer) and scan.closed.issuperset(needed),
        problems=tuple(scan.problems),
    )


class _Scan:
    """One pass over the tags of a text.

    Spans are (start, end) offsets into the text, responses (start, end, whether the end is marked).

    Attributes:
        sections: the sections inside the thinking.
        order: the tags of the form, as they should come.
        spans: tag -> where its text stands, the last one of each.
        closed: tags whose last text is between its two tags; of THINK the end alone counts.
        problems: an ordered set; bounded, for names are few and each problem is kept once.
    """

    def __init__(self, text: str, sections: tuple[str, ...]) -> None:
        self._text = text
        self.sections = sections
        self.order = (THINK, *sections, RESPONSE)
        self.spans: dict[str, tuple[int, int]] = {}
        self.closed: set[str] = set()
        self.problems: dict[str, None] = {}
        self._thinking: int | None = None
        self._inner = ""  # the open section or response
        self._start = 0  # where its text begins
        self._rest = 0  # where the text after the last closed tag begins
        self._latest = 0  # place in the order of the latest tag that opened
        self._response: tuple[int, int, bool] | None = None
        self._inside: tuple[int, int, bool] | None = None

    def tell(self, problem: str) -> None:
        """Note a problem, once."""
        self.problems[problem] = None

    def open(self, name: str, begin: int, end: int) -> None:
        """Take an opening tag."""
        self._end_inner(begin, marked=False)
        place = self.order.index(name)
        if name in self.spans or (name == THINK and self._thinking is not None):
            self.tell(f"repeated {_shown(name)}")
        elif place < self._latest:
            self.tell(f"{_shown(name)} out of order")
        if name == THINK:  # sections may come anew in a second one: native thinking, then the form
            self._latest = place
            self._thinking = end if self._thinking is None else self._thinking
            return
        self._latest = max(self._latest, place)
        if (self._thinking is not None) != (name != RESPONSE):
            self.tell(f"{_shown(name)} {'inside' if name == RESPONSE else 'outside'} THINK")
        self._inner, self._start = name, end

    def close(self, name: str, begin: int, end: int) -> None:
        """Take a closing tag."""
        if name == THINK:
            self._close_think(begin)
        elif name == self._inner:
            self._end_inner(begin, marked=True)
        else:
            self.tell(f"unopened {_shown(name)}")
            self._end_inner(begin, marked=False)
            if name == RESPONSE and self._thinking is None:
                self._inner, self._start = RESPONSE, self._rest
                self._end_inner(begin, marked=True)
                self.closed.discard(RESPONSE)
        self._rest = end

    def _close_think(self, begin: int) -> None:
        """End the thinking; where nothing opened it, it began with the trace."""
        self._end_inner(begin, marked=False)
        if self._thinking is None:
            self.tell("unopened THINK")
            self._thinking = 0
            self._inside = self._response or self._inside
            self._response = None  # what came before was thinking after all
        self.spans[THINK] = (self._thinking, begin)
        self.closed.add(THINK)
        self._thinking = None

    def _end_inner(self, at: int, *, marked: bool) -> None:
        """End the open section or response, if there is one."""
        name, self._inner = self._inner, ""
        if not name:
            return
        self.spans[name] = (self._start, at)
        if marked:
            self.closed.add(name)
        else:
            self.closed.discard(name)
            self.tell(f"unclosed {_shown(name)}")
        if name == RESPONSE and self._thinking is None:
            self._response = (self._start, at, marked)
        elif name == RESPONSE:
            self._inside = (self._start, at, marked)

    def finish(self) -> None:
        """End what the text leaves open."""
        if self._inner:
            self._rest = len(self._text)  # a text that ends in a section has nothing after it
        self._end_inner(len(self._text), marked=False)
        if self._thinking is not None:
            self.spans[THINK] = (self._thinking, len(self._text))
            self.closed.discard(THINK)
            self.tell("unclosed THINK")

    def answer_span(self) -> tuple[int, int, bool]:
        """Return where the answer stands and whether its end is marked; call ``finish`` before."""
        if self._response is not None:
            return self._response
        if self._inside is not None and self._inside[2]:
            after = self._text[self._inside[1] :]
            if not _TAG.sub("", after).strip():
                return self._inside
        if self._thinking is not None:
            return 0, 0, False
        return self._rest, len(self._text), False


def _shown(name: str) -> str:
    return name.upper()
