"""Exit codes, the error tree, and the redaction of secrets: one table each, used by every script."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from enum import IntEnum
from typing import Any
from urllib.parse import unquote


class ExitCode(IntEnum):
    """What a script's exit status means; shown in every ``--help`` and in the README."""

    DONE = 0
    BUG = 1
    USAGE = 2
    FAIL = 3
    INCONCLUSIVE = 4
    CONFIG_INVALID = 10
    LEASE_HELD = 11
    NOT_FOUND = 12
    UNAVAILABLE = 13
    INTEGRITY = 14
    REFUSED = 15
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.DONE: "done, or PASS",
    ExitCode.BUG: "a bug in Golive",
    ExitCode.USAGE: "wrong usage",
    ExitCode.FAIL: "FAIL",
    ExitCode.INCONCLUSIVE: "INCONCLUSIVE: too little data to say",
    ExitCode.CONFIG_INVALID: "a config, case or input file is invalid",
    ExitCode.LEASE_HELD: "another run holds the lease",
    ExitCode.NOT_FOUND: "not found",
    ExitCode.UNAVAILABLE: "a dependency is unavailable, or a check could not run (ERROR): retry",
    ExitCode.INTEGRITY: "integrity mismatch",
    ExitCode.REFUSED: "refused",
    ExitCode.INTERRUPTED: "interrupted",
}

VERDICT_CODES: dict[str, ExitCode] = {
    "PASS": ExitCode.DONE,
    "FAIL": ExitCode.FAIL,
    "INCONCLUSIVE": ExitCode.INCONCLUSIVE,
    "ERROR": ExitCode.UNAVAILABLE,
}


class GoliveError(Exception):
    """An error that a person can act on.

    ``message`` is a lower-case line that says what is wrong, ``detail`` the facts, ``hint`` the next thing to type.
    """

    exit_code = ExitCode.BUG

    def __init__(self, message: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def to_dict(self) -> dict[str, object]:
        return {
            "error": redact(self.message),
            "detail": redact(self.detail),
            "hint": redact(self.hint),
            "exit_code": int(self.exit_code),
        }


class UsageError(GoliveError):
    exit_code = ExitCode.USAGE


class ConfigInvalid(GoliveError):
    exit_code = ExitCode.CONFIG_INVALID


class LeaseHeld(GoliveError):
    exit_code = ExitCode.LEASE_HELD


class NotFound(GoliveError):
    exit_code = ExitCode.NOT_FOUND


class Unavailable(GoliveError):
    exit_code = ExitCode.UNAVAILABLE


class IntegrityMismatch(GoliveError):
    exit_code = ExitCode.INTEGRITY


class Refused(GoliveError):
    exit_code = ExitCode.REFUSED


def exit_code_table() -> str:
    return "exit codes: " + " · ".join(f"{int(code)} {meaning}" for code, meaning in MEANINGS.items())


# A port and a path are no password, even where an @ follows. An ampersand ends one in a query, but not one in a DSN.
_PASSWORDS = re.compile(
    r"(?P<url>[a-z][a-z0-9+.-]{0,20}://[^\s:/@]*:)(?!\d+[/?#])(?P<in_url>[^\s@]+)(?=@)"
    r"|(?P<query>[?&]\w*password=)(?P<in_query>[^\s&]+)"
    r"|(?P<dsn>password\s*=\s*)(?P<in_dsn>'(?:[^'\\]|\\.)*'|\S+)",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(
    r"(^|_)(\w*PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|ACCESS_KEY|PRIVATE_KEY)(_|$)|(^|_)PASS$|_PWD$|(SIGNING|BACKUP)_KEY$",
    re.IGNORECASE,
)
_SHORTEST_SECRET = 6


def secrets_of_environment(environ: dict[str, str] | None = None) -> list[str]:
    """Secret values the environment holds, longest first: by the variable's name, or as the password of an address."""
    found: set[str] = set()
    for name, value in (os.environ if environ is None else environ).items():
        if _SECRET_NAME.search(name):
            found.add(value)
        for match in _PASSWORDS.finditer(value):
            secret = (match["in_url"] or match["in_query"] or match["in_dsn"]).strip("'")
            found |= {secret, unquote(secret)}
    return sorted((s for s in found if len(s) >= _SHORTEST_SECRET), key=len, reverse=True)


def redact(text: str) -> str:
    """``text`` without passwords: in URLs, in DSNs, and wherever a secret of the environment is repeated."""
    return redactor()(text)


def redactor() -> Callable[[str], str]:
    """``redact`` for many texts: the environment is looked through once."""
    secrets = secrets_of_environment()

    def clean(text: str) -> str:
        text = _PASSWORDS.sub(r"\g<url>\g<query>\g<dsn>***", text)
        for secret in secrets:
            text = text.replace(secret, "***")
        return text

    return clean


def redact_all(value: Any) -> Any:
    """A JSON value with every text in it redacted: once it is serialised, escapes would hide a secret."""
    clean = redactor()

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return clean(value)
        if isinstance(value, dict):
            return {walk(key): walk(item) for key, item in value.items()}
        return [walk(item) for item in value] if isinstance(value, (list, tuple)) else value

    return walk(value)
