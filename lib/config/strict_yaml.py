"""YAML without surprises: YAML 1.1's traps are errors or plain strings here.

Duplicate keys, aliases and tags are errors; only ``true``/``false`` are booleans, only plain decimals are numbers
(``012``, ``1e3``, ``12:30:00``, ``.nan`` stay strings, which the schema then refuses by name).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from lib.platform.errors import ConfigInvalid, holds_password, names_secret
from lib.platform.files import read_text

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
_LONGEST_NUMBER = 100


@dataclass(frozen=True)
class YamlFile:
    """A parsed file: its values, and the line (from 1) on which each dotted key stands."""

    path: Path
    values: dict[str, Any]
    lines: dict[str, int]


class _PlainLoader(yaml.SafeLoader):
    """The safe loader with no implicit types at all; ``_scalar`` below decides instead."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  # declared by the base class


def load(path: Path, what: str) -> YamlFile:
    """Reads a YAML mapping.

    Raises:
        NotFound: there is no such file.
        ConfigInvalid: it is not strict YAML, or not a mapping; file and line are named.
    """
    text = read_text(path, what)  # a config is copied into backups and evidence: what holds a secret is refused here
    try:
        node = yaml.compose(text, Loader=_PlainLoader)
        for event in yaml.parse(text, Loader=_PlainLoader):
            _refuse_magic(event, f"{path}:{_line(event.start_mark)}")
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{_line(mark)}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigInvalid(f"{path}{line}: {what} is not valid YAML: {problem}") from error
    if node is None:
        return YamlFile(path, {}, {})
    if not isinstance(node, yaml.MappingNode):
        raise ConfigInvalid(f"{path}: {what} is not a mapping of names to values")
    lines: dict[str, int] = {}
    return YamlFile(path, _value(node, path, "", lines), lines)


def _refuse_magic(event: yaml.Event, where: str) -> None:
    if isinstance(event, yaml.AliasEvent):
        raise ConfigInvalid(f"{where}: YAML aliases are not allowed", hint="write the value out")
    if getattr(event, "tag", None) is not None:
        raise ConfigInvalid(f"{where}: YAML tags are not allowed")


def _value(node: yaml.Node, path: Path, dotted: str, lines: dict[str, int]) -> Any:
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = _line(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigInvalid(f"{path}:{line}: a key must be a plain name")
            key = key_node.value
            if holds_password(key):
                raise _secret_inside(f"{path}:{line}", "a key")
            inner = f"{dotted}.{key}" if dotted else key
            if key in found:
                raise ConfigInvalid(f"{path}:{line}: duplicate key {key!r}", detail=f"first on line {lines[inner]}")
            lines[inner] = line
            found[key] = _value(value_node, path, inner, lines)
            if names_secret(key, found[key]):
                raise _secret_inside(f"{path}:{line}", inner)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, path, f"{dotted}.{index}", lines) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    if holds_password(node.value):
        raise _secret_inside(f"{path}:{_line(node.start_mark)}", dotted)
    return scalar(node.value, f"{path}:{_line(node.start_mark)}") if node.style is None else node.value


def _secret_inside(where: str, dotted: str) -> ConfigInvalid:
    return ConfigInvalid(
        f"{where}: {dotted} holds a password or key, and configs are copied into backups and evidence",
        hint="give secrets in environment variables, or in files that <NAME>_FILE names",
    )


def _line(mark: Any) -> int:
    return int(mark.line) + 1


def dump(values: Any) -> str:
    """YAML that ``load`` reads back as the same values: numbers are written out, because an exponent would be text."""
    return str(yaml.dump(values, Dumper=_PlainDumper, allow_unicode=True))


def plain(number: float) -> str:
    """A number without an exponent; a float keeps its point."""
    text = format(Decimal(repr(number)), "f")
    return text if "." in text or isinstance(number, int) else f"{text}.0"


class _PlainDumper(yaml.SafeDumper):
    pass


_PlainDumper.add_representer(
    float, lambda dumper, number: dumper.represent_scalar("tag:yaml.org,2002:float", plain(number))
)


def scalar(text: str, where: str = "value") -> Any:
    """The value of an unquoted YAML scalar: bool, int, float, None or the string itself.

    Raises:
        ConfigInvalid: a number too long to be meant; ``where`` names its place.
    """
    if text in ("true", "false"):
        return text == "true"
    if text in ("", "null", "~"):
        return None
    if not _NUMBER.fullmatch(text):
        return text
    if len(text) > _LONGEST_NUMBER:
        raise ConfigInvalid(f"{where}: a number of {len(text)} characters", hint=f"{_LONGEST_NUMBER} are possible")
    return float(text) if "." in text else int(text)
