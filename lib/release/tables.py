"""Plain text tables for a terminal, and how values stand in them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows (the first one is the head) in aligned columns, without lines around them."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def interval(difference: Mapping[str, Any]) -> str:
    """A paired difference's mean and interval."""
    return f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"


def status_of(item: Mapping[str, Any]) -> str:
    """A metric's status as it is shown: what does not decide is a warning, and no failure."""
    decides = item["critical"] if "critical" in item else item.get("level", "block") == "block"
    return str(item["status"]) if decides or item["status"] == "PASS" else "warning"
