"""What the fault tests share: cases to break, how often to break them, and the table that ``make faults`` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.cases import open_case, open_own
from tests.faults.rows import IDS
from tests.release.staged import empty_database, live, open_stage, ready, sealed, second

__all__ = ["empty_database", "live", "open_case", "open_own", "open_stage", "ready", "sealed", "second"]


def pytest_configure(config: pytest.Config) -> None:
    target = config.getoption("--fault-table")
    if target and not hasattr(config, "workerinput"):  # several workers report to the one that writes
        config.pluginmanager.register(table.Recorder(Path(target)), "fault table")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("fault"):
            assert set(mark.args) <= IDS, f"{item.nodeid}: no row {mark.args}"
            item.user_properties += [("fault", row_id) for row_id in mark.args]


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    """At how many moments a test kills where it picks them; 1 in ``make test``."""
    return int(request.config.getoption("--fault-rounds"))
