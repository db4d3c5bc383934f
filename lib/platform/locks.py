"""Taking a lock within bounds: each try has a lock_timeout, and between tries whoever waits behind it has a turn."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg2.errors
from psycopg2.extensions import connection as Connection

_PAUSE_S = (0.1, 0.5)  # drawn anew each time, so that two that collide do not collide again

Taken = TypeVar("Taken")


def take(connection: Connection, lock: Callable[[], Taken], *, timeout: str, tries: int) -> Taken:
    """What ``lock`` returns, which takes locks in the caller's transaction; ``timeout`` holds for each lock of each try.

    The timeout stands until the transaction ends, or until the next call.

    Raises:
        psycopg2.errors.LockNotAvailable: somebody else held one of them through every try.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", (timeout,))
        for left in reversed(range(tries)):
            cursor.execute("SAVEPOINT take_lock")
            try:
                taken = lock()
                cursor.execute("RELEASE SAVEPOINT take_lock")
                return taken
            except psycopg2.errors.LockNotAvailable:
                if not left:
                    raise
                cursor.execute("ROLLBACK TO SAVEPOINT take_lock")
                time.sleep(random.uniform(*_PAUSE_S))
    raise AssertionError("a lock is tried at least once")
