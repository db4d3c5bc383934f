"""Times are UTC, in one form."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from lib.platform.clock import age, now, timestamp

_NOON = datetime(2025, 9, 7, 12, 0, tzinfo=UTC)


def test_the_clock_is_in_utc() -> None:
    assert now().utcoffset() == timedelta(0)


def test_a_timestamp_is_utc_whatever_the_zone_of_the_moment() -> None:
    # 16:30:22 two hours east of Greenwich is 14:30:22 in Greenwich
    moment = datetime(2025, 9, 7, 16, 30, 22, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert timestamp(moment) == "2025-09-07T14:30:22Z"


def test_a_timestamp_without_a_moment_is_now() -> None:
    before = timestamp(now())
    assert before <= timestamp() <= timestamp(now())


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (119.9, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172_799, "47 h"),
        (172_800, "2 d"),
        (864_000, "10 d"),
    ],
)
def test_an_age_is_told_in_its_largest_whole_unit(seconds: float, shown: str) -> None:
    assert age(_NOON, _NOON + timedelta(seconds=seconds)) == shown
