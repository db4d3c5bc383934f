"""``make faults``: every row of the fault matrix, longer than ``make test`` does it, and its table in docs/promises.md.

Exits with 0 only where every row ran and held. Arguments are handed to pytest, after its own: ``--fault-rounds 3``.
"""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import PROJECT
from tests.faults.promises import is_a_test
from tests.faults.rows import ROWS

ROUNDS = "20"


def main() -> int:
    elsewhere = sorted({name for row in ROWS for name in row.elsewhere if is_a_test(name)})
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "tests/faults", *elsewhere]
    options = ["--fault-rounds", ROUNDS, "--fault-table", "docs/promises.md", *sys.argv[1:]]
    return subprocess.call([*command, *options], cwd=PROJECT)


if __name__ == "__main__":
    sys.exit(main())
