"""The clock, in UTC. Whatever needs the time is given it; only scripts and the rim call these."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    return datetime.now(UTC)


def timestamp(moment: datetime | None = None) -> str:
    """``2025-09-07T14:30:22Z``."""
    return (moment or now()).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment_of(text: str) -> datetime:
    """What ``timestamp`` wrote."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def age(since: datetime, until: datetime) -> str:
    """A short duration: ``12 s``, ``5 min``, ``3 h``, ``4 d``."""
    seconds = max(0, int((until - since).total_seconds()))
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // divisor} {unit}"
    return f"{seconds // 86400} d"
