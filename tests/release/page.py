"""A page as a browser and a screen reader take it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

FETCHING = {"src", "srcset", "href", "xlink:href", "action", "formaction", "data", "poster", "background", "cite", "ping"}
VOID = {"meta", "br", "hr", "img", "input", "link", "col", "wbr", "base", "area", "embed", "source", "track"}


class Page(HTMLParser):
    """A page taken apart: elements with their attributes, tables as rows of cells, the words outside of plots."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self._state: list[str] | None = None
        self._open: list[str] = []
        self._paragraphs = 0
        self.feed(text)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._paragraphs += tag == "p"
        if tag == "p" and self._state is None:
            assert str(dict(attrs)["class"]).startswith("state "), "the first paragraph is the state"
            self._state = []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes what is open"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if {"svg", "style", "script"} & set(self._open):
            return
        self.words.append(data)
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data
        if self._paragraphs == 1 and "p" in self._open:
            assert self._state is not None
            self._state.append(data)

    @property
    def state(self) -> str:
        """The first paragraph: its bold word and why."""
        return " ".join(self._state or [])

    @property
    def prose(self) -> str:
        return " ".join(" ".join(self.words).split())

    def rows(self, *head: str) -> list[list[str]]:
        """The rows of the first table whose head begins with these words."""
        for table in self.tables:
            cells = [[" ".join(cell.split()) for cell in row] for row in table]
            if cells[0][: len(head)] == list(head):
                return cells[1:]
        raise AssertionError(f"no table {head}")

    def assert_alone(self) -> None:
        """It fetches nothing, and runs nothing but its own script."""
        tags = {tag for tag, _ in self.elements}
        assert not tags & {"link", "iframe", "object", "embed", "img", "base", "audio", "video", "source"}
        for tag, attributes in self.elements:
            for name, value in attributes.items():
                assert not name.startswith("on"), (tag, name)
                assert name != "style", "the policy would refuse it"
                assert name not in FETCHING or str(value).startswith("#"), (tag, name, value)
                assert not re.search(r"url\((?!#)", str(value)), (tag, name, value)
        assert not re.search(r"@import|url\(\s*['\"]?(?!#)", self.text)
