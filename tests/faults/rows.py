"""The rows of the fault matrix, out of ``rows.yaml``. A test says with ``@pytest.mark.fault("id")`` which row it is of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib.config.strict_yaml import load

_AGAIN = "the same command, run again, ends as if nothing had happened"


@dataclass(frozen=True)
class Row:
    """``elsewhere``: tests of this row outside of this folder."""

    row_id: str
    step: str
    fault: str
    must_hold: str
    elsewhere: tuple[str, ...] = ()


def _row(row_id: str, *, must_hold: str, again: bool = False, elsewhere: tuple[str, ...] = (), **texts: str) -> Row:
    return Row(row_id, must_hold=f"{must_hold}; {_AGAIN}" if again else must_hold, elsewhere=tuple(elsewhere), **texts)


ROWS = tuple(_row(row_id, **values) for row_id, values in load(Path(__file__).with_suffix(".yaml"), "rows").values.items())
IDS = {row.row_id for row in ROWS}
