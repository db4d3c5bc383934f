"""JSON Schema checks (``configs/schemas/``), with errors that name the file, the line and the way out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from lib.platform.errors import ConfigInvalid
from lib.platform.files import read_json

_FOLDER = Path(__file__).resolve().parents[2] / "configs" / "schemas"
_SHOWN = 5


@cache
def schema(name: str) -> dict[str, Any]:
    """The schema ``configs/schemas/<name>.schema.json``; schemas belong to the code, not to a workspace."""
    found = read_json(_FOLDER / f"{name}.schema.json", "schema")
    assert isinstance(found, dict)
    return found


def check(value: Any, name: str, where: Callable[[str], str]) -> None:
    """Checks ``value`` against a schema.

    Args:
        where: turns a dotted key into the place that a person looks at (``configs/gates.yaml:12``).

    Raises:
        ConfigInvalid: every violation (the first five in full) is named with its place.
    """
    found = _validator(name).iter_errors(value)
    problems = sorted(found, key=lambda error: [str(part) for part in error.absolute_path])
    if not problems:
        return
    # each missing key is a problem of its own that describes all of them
    lines = list(dict.fromkeys(line for problem in problems for line in _describe(problem, where)))
    more = f" (and {len(lines) - _SHOWN} more)" if len(lines) > _SHOWN else ""
    raise ConfigInvalid(lines[0], detail="; ".join(lines[1:_SHOWN]) + more)


@cache
def _validator(name: str) -> Any:
    import jsonschema

    base = jsonschema.Draft202012Validator
    extend: Any = jsonschema.validators.extend
    # 40.0 is an integer to JSON Schema, but another value than 40 to a digest
    kinds = base.TYPE_CHECKER.redefine("integer", lambda _, found: type(found) is int)
    return extend(base, {"pattern": _pattern}, type_checker=kinds)(schema(name))


def _pattern(_: Any, pattern: str, found: Any, __: Any) -> Iterator[Any]:
    """To JSON Schema a final ``$`` is the very end of a text; to Python also the place before a last line break."""
    import jsonschema

    if isinstance(found, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), found):
        yield jsonschema.ValidationError(f"{found!r} does not match {pattern!r}")


def _describe(problem: Any, where: Callable[[str], str]) -> list[str]:
    dotted = ".".join(str(part) for part in problem.absolute_path)
    if problem.validator == "additionalProperties" and isinstance(problem.instance, dict):
        known = list(problem.schema.get("properties", {}))
        return [
            f"{where(_join(dotted, key))}: unknown key {key!r}{_suggest(key, known)}"
            for key in problem.instance
            if key not in known
        ]
    if problem.validator == "required":
        missing = [key for key in problem.validator_value if key not in problem.instance]
        return [f"{where(dotted)}: {_join(dotted, key)} is missing" for key in missing]
    return [f"{where(dotted)}: {dotted or 'the value'} {_expectation(problem)}"]


def _expectation(problem: Any) -> str:
    got = (
        repr(problem.instance) if not isinstance(problem.instance, (dict, list)) else f"a {type(problem.instance).__name__}"
    )
    limit = problem.validator_value
    words = {
        "type": f"must be of type {limit}",
        "enum": f"must be one of {limit}",
        "const": f"must be {limit!r}",
        "minimum": f"must be at least {limit}",
        "exclusiveMinimum": f"must be over {limit}",
        "maximum": f"must be at most {limit}",
        "exclusiveMaximum": f"must be under {limit}",
        "pattern": f"must match {limit}",
        "minLength": "must not be empty",
        "minItems": f"needs at least {limit} entries",
        "uniqueItems": "has an entry twice",
    }
    if problem.validator in ("minItems", "uniqueItems", "minLength"):
        return words[problem.validator]
    return f"{words.get(problem.validator, problem.message)}, not {got}"


def _suggest(key: str, known: list[str]) -> str:
    near = get_close_matches(key, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _join(dotted: str, key: str) -> str:
    return f"{dotted}.{key}" if dotted else key
