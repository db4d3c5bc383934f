"""Rendering templates so that no value can bring in markup, a secret, or a request to the network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.platform.errors import redact, redactor

_TEMPLATES = Path(__file__).parent / "templates"
# What Markdown, GitHub or a table would read as markup. As entities they are letters wherever they stand.
_MARKUP = re.compile(r"[\\`*\[\]<>|~#@$&!]|(?<![^\W_])_|_(?![^\W_])")
_AT_START = re.compile(r"^([-+=]|\d+[.)])(?=\s|$)")  # would begin a list
_NOTHING = "\u200b"  # a blank of no width
_LONGEST = 400  # characters of one value in Markdown


def render_html(template: str, **values: Any) -> str:
    """A page that may load nothing: its policy allows the one style and the one script that it holds, by their hashes."""
    environment = _environment(autoescape=True, finalize=_without_secrets(redactor()))
    style = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
    script = (_TEMPLATES / "filter.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; base-uri 'none'; form-action 'none'"
    )
    return str(environment.get_template(template).render(style=style, script=script, policy=policy, **values))


def render_markdown(template: str, **values: Any) -> str:
    """Markdown in which every value is letters alone: no link, no mention, no table cell of its own."""
    environment = _environment(autoescape=False, finalize=_as_letters(redactor()))
    return str(environment.get_template(template).render(**values))


def as_code(value: Any) -> Any:
    """A value as a code span, for names and ids; nothing in it is markup."""
    from markupsafe import Markup

    text = " ".join(redact(str(value)).split()).replace("`", "'").replace("|", "/")
    return Markup(f"`{text or ' '}`")  # nosec B704  # of a Markdown page, where a code span holds no markup


def _breakable(value: str) -> Any:
    """A name that a narrow screen may break after an underscore."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=_)", redact(value)))


def _environment(*, autoescape: bool, finalize: Any) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # nosec B701  # on for HTML; Markdown has letters of its own (finalize)
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=autoescape,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["short"] = lambda value: "–" if value is None else f"{value:.2f}".removesuffix(".00")
    environment.filters["signed"] = lambda value: f"{value:+.3f}".replace("-", "−")
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    environment.filters["size"] = lambda value: f"{value / 1e6:.1f} MB"
    environment.filters["code"] = as_code
    environment.filters["breakable"] = _breakable
    return environment


def _without_secrets(clean: Callable[[str], str]) -> Callable[[Any], Any]:
    """A printed value, redacted before it is escaped: in HTML a secret would look different. Markup is ours and stays."""
    return lambda value: clean(value) if _is_foreign(value) else value


def _as_letters(clean: Callable[[str], str]) -> Callable[[Any], Any]:
    """A printed value as letters that Markdown leaves alone."""

    def letters(value: Any) -> Any:
        if not _is_foreign(value):
            return value
        text = " ".join(clean(value).split())
        if len(text) > _LONGEST:
            text = f"{text[:_LONGEST]} […]"
        text = _MARKUP.sub(lambda match: f"&#{ord(match[0])};", text)
        # else GitHub would tell a person, and link a number or an address
        for before, after in (("&#64;", ""), ("&#35;", ""), (":", "//")):
            text = text.replace(before + after, f"{before}{_NOTHING}{after}")
        return _AT_START.sub(rf"{_NOTHING}\1", text)

    return letters


def _is_foreign(value: Any) -> bool:
    return isinstance(value, str) and not hasattr(value, "__html__")


def _source(text: str) -> str:
    """The hash by which a content security policy allows an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
