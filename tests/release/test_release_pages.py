"""Pages that can load nothing, and Markdown in which every value is letters."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from lib.release import pages


@pytest.fixture
def template(tmp_path, monkeypatch):
    """Renders a template of the test's own, with the real style and script."""
    for name in ("page.css", "filter.js"):
        (tmp_path / name).write_bytes((pages._TEMPLATES / name).read_bytes())
    monkeypatch.setattr(pages, "_TEMPLATES", tmp_path)

    def write(text):
        (tmp_path / "t.j2").write_text(text, encoding="utf-8")
        return "t.j2"

    return write


def test_the_policy_allows_just_the_style_and_the_script_of_the_page(template):
    page = pages.render_html(
        template("{{ policy | safe }}<style>{{ style | safe }}</style><script>{{ script | safe }}</script>")
    )
    policy = page[: page.index("<style>")]
    for tag in ("style", "script"):
        found = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert found is not None
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    "value",
    [
        "[text](http://host)",
        "![image](http://host/x.png)",
        "<img src=x>",
        "a | b",
        "`code`",
        "**bold** and _slanted_ and ~~gone~~",
        "$x$",
        "&lt;",
        "\\| \\`",
    ],
)
def test_no_value_is_markup_in_markdown(template, value):
    text = pages.render_markdown(template("{{ value }}"), value=value)
    assert not re.search(r"[\[\]<>|`*~$\\!]|\b_|_\b", text)
    decoded = re.sub(r"&#(\d+);", lambda match: chr(int(match[1])), text).replace("\u200b", "")
    assert decoded == value


def test_nobody_is_told_and_nothing_is_linked(template):
    text = pages.render_markdown(template("{{ value }}"), value="@someone #12 https://host/")
    assert text == "&#64;\u200bsomeone &#35;\u200b12 https:\u200b//host/"


@pytest.mark.parametrize(("value", "shown"), [("- item", "\u200b- item"), ("1. item", "\u200b1. item"), ("0.5", "0.5")])
def test_no_value_begins_a_list(template, value, shown):
    assert pages.render_markdown(template("{{ value }}"), value=value) == shown


def test_a_name_in_code_cannot_end_it_or_the_cell(template):
    assert pages.render_markdown(template("{{ value | code }}"), value="a`b|c\nd") == "`a'b/c d`"


def test_a_value_stays_on_its_line_and_is_cut(template):
    text = pages.render_markdown(template("{{ value }}"), value="a\n\nb" + "x" * 1000)
    assert text.startswith("a bxxx")
    assert len(text) < 450


@pytest.mark.parametrize("render", [pages.render_html, pages.render_markdown])
def test_a_secret_is_shown_nowhere(template, monkeypatch, render):
    monkeypatch.setenv("SOME_API_TOKEN", "hunter`2<secret>")
    assert "hunter" not in render(template("{{ value }} {{ value | code }}"), value="with hunter`2<secret>")
