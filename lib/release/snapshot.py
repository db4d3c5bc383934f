"""One state of the database, read by several sessions at once."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_REPEATABLE_READ
from psycopg2.extensions import connection as Connection

from lib.platform import postgres
from lib.platform.errors import Unavailable

_LOCK_TRIES = 5
_LOCK_TIMEOUT = "2s"
# What texts of values depend on, and whether row security would hide rows: then reading is an error instead.
_PINNED = """
SET LOCAL row_security = off; SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD';
SET LOCAL IntervalStyle = 'postgres'; SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex';
SET LOCAL lock_timeout = '{lock_timeout}';
SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL synchronize_seqscans = off;
SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0; SET LOCAL jit = off
"""

Job = Callable[[Connection], Any]


class Crew:
    """Sessions that do jobs beside each other; the first failure ends them all.

    Args:
        begin: opens a session and its transaction, in which a job is run. It is undone afterwards unless the job commits.
    """

    def __init__(self, begin: Callable[[], Connection], workers: int) -> None:
        self._begin = begin
        self._workers = workers
        self._open: set[Connection] = set()
        self._guard = threading.Lock()
        self._broken = False

    def run(self, jobs: Sequence[Job], meanwhile: Callable[[], Any] | None = None) -> list[Any]:
        """Runs every job in a session of its own, in this order; what they return, in the order of ``jobs``.

        Args:
            meanwhile: done by the caller's own thread beside them.
        """
        with ThreadPoolExecutor(max_workers=self._workers) as pool:
            futures = [pool.submit(self._run, job) for job in jobs]
            try:
                if meanwhile:
                    meanwhile()
                wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                self._break_off(futures)
                raise
            if any(future.done() and future.exception() for future in futures):
                self._break_off(futures)
        failures = [error for future in futures if not future.cancelled() and (error := future.exception())]
        if failures:  # the first is the cause; those that it broke off come after it
            raise next((error for error in failures if not isinstance(error, psycopg2.errors.QueryCanceled)), failures[0])
        return [future.result() for future in futures]

    def _run(self, job: Job) -> Any:
        with closing(self._begin()) as connection:
            with self._guard:
                if self._broken:
                    return None
                self._open.add(connection)
            try:
                return job(connection)
            finally:
                with self._guard:
                    self._open.discard(connection)

    def _break_off(self, futures: Sequence[Future[Any]]) -> None:
        for future in futures:
            future.cancel()
        with self._guard:
            self._broken = True
            for connection in self._open:
                connection.cancel()


@contextmanager
def exported(connection: Connection, tables: Callable[[], Sequence[sql.Identifier]], workers: int) -> Iterator[Crew]:
    """Opens a transaction that sees one state, and a crew whose sessions see the same; both end with the block.

    Every table is locked by the first session before it reads anything: a TRUNCATE in between would read as empty. One that
    waits already would keep the others from their locks; then all let go of it, and begin again.

    Args:
        tables: which ones, asked anew at each try.

    Raises:
        Unavailable: a table is being changed all the time.
    """
    connection.set_session(isolation_level=ISOLATION_LEVEL_REPEATABLE_READ)
    try:
        yield _begin(connection, tables, workers)
        connection.commit()
    except BaseException:
        if not connection.closed:
            connection.rollback()
        raise
    finally:
        if not connection.closed:
            connection.set_session(isolation_level="DEFAULT")


def _begin(connection: Connection, tables: Callable[[], Sequence[sql.Identifier]], workers: int) -> Crew:
    for left in reversed(range(_LOCK_TRIES)):
        try:
            names = tables()
            pin(connection)
            _lock(connection, names)
            found = postgres.one(connection, "SELECT pg_export_snapshot() AS name")
            assert found is not None
            name = str(found["name"])
            # a first session proves that locks can be had beside the first one's
            with closing(_import(connection, name, names)):
                return Crew(partial(_import, connection, name, names), workers)
        except psycopg2.errors.LockNotAvailable as error:
            connection.rollback()
            if not left:
                raise Unavailable(
                    "a table that is backed up is being changed by another session",
                    detail=str(error).partition("\n")[0],
                    hint="run the same command again when it has ended",
                ) from error
            time.sleep(random.uniform(0.1, 0.5))
    raise AssertionError("the last try returns or raises")


def pin(connection: Connection) -> None:
    """Sets what the reading of values depends on, for the transaction."""
    with connection.cursor() as cursor:
        cursor.execute(_PINNED.format(lock_timeout=_LOCK_TIMEOUT))


def _lock(connection: Connection, tables: Sequence[sql.Identifier]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(sql.SQL(", ").join(tables)))


def _import(first: Connection, name: str, tables: Sequence[sql.Identifier]) -> Connection:
    connection = postgres.beside(first, "backup worker")
    try:
        connection.set_session(isolation_level=ISOLATION_LEVEL_REPEATABLE_READ, readonly=True)
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION SNAPSHOT %s", (name,))
        pin(connection)
        _lock(connection, tables)
    except BaseException:
        connection.close()
        raise
    return connection
