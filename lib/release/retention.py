"""Which backups may be deleted: a pure decision, with a reason for each of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lib.platform.clock import age
from lib.release.tables import text_table


@dataclass(frozen=True)
class Held:
    """A backup as it lies in one place.

    ``problem``: why it cannot be read as one. ``remains``: why what is there is but the rest of a backup, of no use to
    anybody. ``proven``: complete, with a manifest that says that a restore was done.
    """

    backup_id: str
    bytes: int
    created_at: datetime | None = None
    proven: bool = False
    releases: tuple[str, ...] = ()
    problem: str = ""
    remains: str = ""
    locked_until: datetime | None = None

    @property
    def is_sound(self) -> bool:
        return self.proven and self.created_at is not None and not self.problem and not self.remains


@dataclass(frozen=True)
class Decision:
    """``reason`` says why the backup is deleted, or why it is kept."""

    backup_id: str
    deletes: bool
    reason: str
    bytes: int
    created_at: datetime | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "backup_id": self.backup_id,
            "action": "delete" if self.deletes else "keep",
            "reason": self.reason,
            "bytes": self.bytes,
        }


def plan(
    backups: Sequence[Held],
    now: datetime,
    *,
    keep: int,
    older_than: timedelta,
    referenced: Mapping[str, str],
    running: Collection[str] = (),
) -> list[Decision]:
    """A decision for each backup, newest first. One is deleted only where nothing at all speaks for it.

    Args:
        keep: so many of the newest proven ones stay (at least one), and so do all that are younger than ``older_than``.
        referenced: backup id → who needs it.
        running: ids that another run is copying or reading.
    """
    newest_first = sorted(backups, key=lambda item: (item.created_at or now, item.backup_id), reverse=True)
    counted = [item.backup_id for item in newest_first if item.is_sound and item.created_at and item.created_at <= now]
    newest = set(counted[: max(keep, 1)])
    decisions = []
    for item in newest_first:
        kept = _why_kept(item, now, older_than, referenced, running, counted, newest)
        reason = kept or item.remains or f"older than {_days(older_than)}, and {len(newest)} newer ones stay"
        decisions.append(Decision(item.backup_id, not kept, reason, item.bytes, item.created_at))
    return decisions


def references(held: Sequence[Held], needed: Mapping[str, str], named: Mapping[str, str]) -> dict[str, str]:
    """Backup id → who needs it: what receipts name, and for each needed release the newest proven backup that holds it.

    Args:
        needed: release id → its part (``the live release``).
        named: backup id → what names it.
    """
    found = dict(named)
    newest_first = sorted((item for item in held if item.is_sound), key=_created, reverse=True)
    for release_id, part in needed.items():
        for item in newest_first:
            if release_id in item.releases:
                found.setdefault(item.backup_id, f"holds {part}")
                break
    return found


def plan_text(where: str, decisions: Sequence[Decision], now: datetime) -> str:
    """The plan as a table."""
    if not decisions:
        return f"no backups in {where}"
    rows = [["backup", "age", "size", "", "because"]]
    for item in decisions:
        shown_age = age(item.created_at, now) if item.created_at and item.created_at <= now else ""
        action = "DELETE" if item.deletes else "keep"
        rows.append([item.backup_id, shown_age, f"{item.bytes / 1e6:.1f} MB", action, item.reason])
    doomed = [item for item in decisions if item.deletes]
    freed = sum(item.bytes for item in doomed) / 1e6
    return f"{where}\n{text_table(rows)}\n{len(doomed)} to delete, {freed:.1f} MB; {len(decisions) - len(doomed)} stay"


def _why_kept(
    item: Held,
    now: datetime,
    older_than: timedelta,
    referenced: Mapping[str, str],
    running: Collection[str],
    counted: Sequence[str],
    newest: Collection[str],
) -> str:
    """Empty where nothing speaks for the backup; the order is that of importance."""
    if item.backup_id in running:
        return "another run is at work on it"
    if item.locked_until and item.locked_until > now:
        return f"under object lock until {item.locked_until:%Y-%m-%d %H:%M}"
    if item.remains:
        return ""
    if item.created_at is None or not item.is_sound:
        return f"cannot be judged: {item.problem or 'nothing says that it was proven'}"
    if item.created_at > now:
        return f"dated {_days(item.created_at - now)} in the future: check the clocks"
    if counted and item.backup_id == counted[0]:
        return "the newest proven backup"
    if item.backup_id in referenced:
        return referenced[item.backup_id]
    if item.backup_id in newest:
        return f"one of the newest {len(newest)}"
    if now - item.created_at < older_than:
        return f"younger than {_days(older_than)}"
    return ""


def _created(item: Held) -> tuple[datetime, str]:
    assert item.created_at is not None
    return item.created_at, item.backup_id


def _days(duration: timedelta) -> str:
    hours = duration / timedelta(hours=1)
    return f"{hours / 24:.0f} d" if hours >= 48 else f"{hours:.1f} h"
