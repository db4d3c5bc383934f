"""The audit of the pinned packages for known vulnerabilities: what pip-audit said, and whether it looked at all.

pip-audit ends with 0 and "no known vulnerabilities" where its source knows none of the packages, or cannot be reached. So a
package with known vulnerabilities is asked for in the same run: if that one is not reported, nothing was looked up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib.platform.errors import ExitCode, IntegrityMismatch

CANARY = ("django", "1.11")  # has dozens, and is none of ours
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;+]+)")


@dataclass(frozen=True)
class Audit:
    """``vulnerable``: a line a vulnerability. ``unknown``: not looked up. ``reached``: the source told of the canary's."""

    packages: int
    vulnerable: list[str]
    unknown: list[str]
    reached: bool

    @property
    def exit_code(self) -> ExitCode:
        """Nothing unknown passes: without a source, or with a package that it does not know, the audit did not run."""
        if self.vulnerable:
            return ExitCode.FAIL
        return ExitCode.DONE if self.reached and not self.unknown else ExitCode.UNAVAILABLE

    def to_dict(self) -> dict[str, Any]:
        return {
            "packages": self.packages,
            "vulnerable": self.vulnerable,
            "not_looked_up": self.unknown,
            "source_reached": self.reached,
        }

    def to_text(self) -> str:
        lines = [f"VULNERABLE: {line}" for line in self.vulnerable]
        if not self.reached:
            lines.append(
                f"COULD NOT AUDIT: the source does not report {CANARY[0]} {CANARY[1]}, which has known vulnerabilities:"
                " it was not reached, or knows nothing"
            )
        if self.unknown:
            lines.append(f"COULD NOT AUDIT: {len(self.unknown)} packages were not looked up: {', '.join(self.unknown)}")
        if self.exit_code is ExitCode.DONE:
            lines.append(f"{self.packages} packages looked up, none with a known vulnerability")
        return "\n".join(lines)


def pins_of(texts: Sequence[str]) -> dict[str, str]:
    """Normalised name → version of every pin in requirements files.

    Raises:
        IntegrityMismatch: a package is pinned to two versions.
    """
    found: dict[str, str] = {}
    for name, version in (match for text in texts for match in _PIN.findall(text)):
        if found.setdefault(_normal(name), version) != version:
            raise IntegrityMismatch(
                f"{name} is pinned to {found[_normal(name)]} and to {version}", hint="make requirements"
            )
    return found


def judge(pins: Mapping[str, str], document: Mapping[str, Any]) -> Audit:
    """What pip-audit's JSON document says of these pins. Pure."""
    told: dict[str, list[str] | None] = {}
    for entry in document.get("dependencies", []):
        problems = entry.get("vulns")
        told[_normal(entry["name"])] = None if problems is None else [_line(entry, problem) for problem in problems]
    vulnerable = [line for name in sorted(pins) for line in told.get(name) or []]
    unknown = sorted(name for name in pins if told.get(name) is None)
    return Audit(len(pins), vulnerable, unknown, bool(told.get(CANARY[0])))


def _line(entry: Mapping[str, Any], problem: Mapping[str, Any]) -> str:
    fixed = ", ".join(problem.get("fix_versions", [])) or "no version yet"
    return f"{entry['name']} {entry['version']}: {problem['id']}, fixed in {fixed}"


def _normal(name: str) -> str:
    """As PEP 503 writes a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()
