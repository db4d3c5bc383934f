"""Catches up and kills itself on the way; test_release_catching_up.py runs it in a process of its own.

Argument: before which call of the database, counted from the first vector on, it dies.
"""

from __future__ import annotations

import os
import signal
import sys

from lib.index import changed_chunks
from lib.platform import postgres
from lib.platform.workspace import Workspace
from lib.release import catching_up
from tests.index.killed_build import FixedEmbedder


class DyingCursor(postgres.psycopg2.extensions.cursor):
    left = -1

    def execute(self, *arguments: object) -> None:
        if type(self).left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        type(self).left -= 1
        super().execute(*arguments)


def main() -> None:
    die_before = int(sys.argv[1])
    workspace = Workspace.find()
    catching_up.load_embedder = lambda *_: FixedEmbedder()
    catching_up._BATCH_DOCUMENTS = 2
    real_apply = changed_chunks.apply

    def apply(*arguments: object) -> None:
        if DyingCursor.left < 0:
            DyingCursor.left = die_before
        real_apply(*arguments)

    changed_chunks.apply = apply
    with postgres.database(workspace, "killed", write=True) as connection:
        connection.cursor_factory = DyingCursor
        catching_up.catch_up(workspace, connection)


if __name__ == "__main__":
    main()
