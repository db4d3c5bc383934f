"""Exit codes, the error tree, and the redaction of secrets: one table each, used by every script."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit


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
    r"|(?P<query>[?&](?:[\w-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key|signature)|sig)=)"
    r"(?P<in_query>[^\s&#]+)"
    r"|(?P<dsn>password\s*=\s*)(?P<in_dsn>'(?:[^'\\]|\\.)*'|\S+)",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(
    r"(^|_)(\w*PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIALS)(_|$)"
    r"|(^|_)PASS$|_PWD$|(SIGNING|BACKUP|ENCRYPTION)_KEY$",
    re.IGNORECASE,
)
_WEBHOOK_NAME = re.compile(r"(^|_)WEBHOOK(_URL)?$", re.IGNORECASE)
_AWS_ASSIGNMENT = re.compile(r"^\s*aws_(?:secret_access_key|session_token|access_key_id)\s*=\s*(\S+)", re.MULTILINE)
_SHORTEST_SECRET = 6
_SHORTEST_LINE = 16  # of a key in lines: base64 lines are longer, and a shorter last one tells little
_LONGEST_SECRET_FILE_BYTES = 1 << 16
_FILE = "_FILE"


def secrets_of_environment(environ: dict[str, str] | None = None) -> list[str]:
    """Secret values the environment holds or names as a file, longest first.

    They are known by the variable's name (``*_TOKEN``, ``*_TOKEN_FILE``), as the password of an address, as the path of a
    webhook, and out of libpq's password file and AWS's credentials file, where the environment names one.
    """
    found: set[str] = set()
    for name, value in (os.environ if environ is None else environ).items():
        found.update(_secrets_of(name, value))
    return sorted((s for s in found if len(s) >= _SHORTEST_SECRET), key=len, reverse=True)


def _secrets_of(name: str, value: str) -> Iterator[str]:
    if name in ("PGPASSFILE", "AWS_SHARED_CREDENTIALS_FILE"):
        content = _content_of(value)
        yield from _AWS_ASSIGNMENT.findall(content)
        if name == "PGPASSFILE":
            yield from (
                re.sub(r"\\(.)", r"\1", line.split(":")[-1]) for line in content.splitlines() if line.count(":") >= 4
            )
    elif name.endswith(_FILE):
        if content := _content_of(value):
            yield from _secrets_of(name.removesuffix(_FILE), content)
    else:
        yield from _secrets_in(name, value)


@lru_cache(maxsize=256)  # a file of 64 KB takes 50 ms to search, and every line that is written asks
def _secrets_in(name: str, value: str) -> tuple[str, ...]:
    found: list[str] = []
    if _SECRET_NAME.search(name):
        found.append(value)
        lines = value.splitlines()
        found += [line for line in lines if len(lines) > 1 and len(line) >= _SHORTEST_LINE and "-----" not in line]
    if _WEBHOOK_NAME.search(name):
        parts = urlsplit(value)
        found += [value, parts.path.strip("/"), parts.query, parts.path.rpartition("/")[2]]
    for match in _PASSWORDS.finditer(value):
        secret = (match["in_url"] or match["in_query"] or match["in_dsn"]).strip("'")
        found += [secret, unquote(secret)]
    return tuple(found)


def _content_of(path: str) -> str:
    """The text of a file that holds a secret; nothing where it cannot be read: whoever needs it says so."""
    try:
        found = Path(path).stat()
        return _read_secret(path, found.st_mtime_ns, found.st_size) if Path(path).is_file() else ""
    except (OSError, ValueError):
        return ""


@lru_cache(maxsize=64)
def _read_secret(path: str, changed_ns: int, size: int) -> str:
    with Path(path).open("rb") as stream:
        return stream.read(_LONGEST_SECRET_FILE_BYTES).decode(errors="replace").strip()


def secret(name: str, environ: Mapping[str, str] | None = None) -> str:
    """The secret in the variable ``name``, or in the file that ``<name>_FILE`` names; empty where neither is set.

    Raises:
        ConfigInvalid: both are set, or the file holds nothing. NotFound: it cannot be read.
    """
    environ = os.environ if environ is None else environ
    value, file = environ.get(name, "").strip(), environ.get(name + _FILE, "")
    if not file:
        return value
    if value:
        raise ConfigInvalid(f"{name} and {name}{_FILE} are both set", hint="unset one of them")
    try:
        content = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "not text").lower()
        raise NotFound(f"the file in {name}{_FILE} cannot be read: {file}", detail=reason) from None
    if not content:
        raise ConfigInvalid(f"the file in {name}{_FILE} is empty: {file}")
    return content


def holds_password(text: str) -> bool:
    """Whether a text holds the password of an address or a DSN, or a key that is known by its form."""
    return bool(_PASSWORDS.search(text) or _KEY_FORMS.search(text))


def names_secret(key: str, value: object) -> bool:
    """Whether ``value`` under ``key`` would be a secret itself: no name of its variable, file or header, and no count."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[-. ]", "_", key)  # clientSecret, api-key
    named = _SECRET_NAME.search(words)
    if not named or re.search(r"_(variable|file|header|name)$", words, re.IGNORECASE):
        return False
    if isinstance(value, list):
        return any(names_secret(key, item) for item in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return named.end() == len(words)  # token, not token_count
    return isinstance(value, str) and value != ""


_KEY_FORMS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}"
)


def _forms(secret: str) -> Iterator[str]:
    """A secret as it stands, and as addresses, JSON, Python and base64 write it."""
    yield secret
    yield from (quote(secret, safe=""), quote(secret), quote_plus(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1])
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    encoded = base64.b64encode(secret.encode(errors="surrogateescape")).decode()
    yield from (encoded, encoded.rstrip("="), encoded.translate({43: "-", 47: "_"}))


def redact(text: str) -> str:
    """``text`` without passwords: in URLs, in DSNs, and wherever a secret of the environment is repeated."""
    return redactor()(text)


def redactor() -> Callable[[str], str]:
    """``redact`` for many texts: the environment is looked through once."""
    forms = {form for secret in secrets_of_environment() for form in _forms(secret)}
    secrets = sorted(forms, key=len, reverse=True)

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
