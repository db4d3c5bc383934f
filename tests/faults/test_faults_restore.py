"""Restores: full disks of PostgreSQL, an older server, a machine that has nothing but the backup."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from lib.index.seal import content_of
from lib.platform import embedded
from tests.conftest import PROJECT
from tests.faults import killing
from tests.faults.cases import Case
from tests.faults.disks import small_disk
from tests.faults.older import older_server
from tests.faults.steps import newest_backup
from tests.platform.managed import _server_user


@pytest.mark.fault("restore.disk")
def test_a_restore_for_which_postgresql_has_no_room_leaves_what_is_live(
    open_own: Callable[[str], Case], tmp_path: Path
) -> None:
    case = open_own("restore table")
    with small_disk(tmp_path / "disk", 65_536) as disk:
        place = disk.folder / "tables"
        place.mkdir()
        if user := _server_user():
            os.chown(place, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        connection = case.project.connection
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLESPACE small LOCATION %s", (str(place),))
            cursor.execute("ALTER ROLE postgres SET default_tablespace = small")
        case.reconnect()
        done = case.run()
        assert done.code == 13, done
        assert "No space left on device" in done.err
        assert case.project.pointer().generation == case.before.generation
        disk.grow()
        case.repeat()
        case.project.connection.close()
        embedded.stop(case.project.workspace)


@pytest.mark.fault("restore.older")
def test_a_server_with_an_older_pgvector_is_told_and_nothing_is_made_there(open_case: Callable[[str], Case]) -> None:
    case = open_case("restore fresh")
    with older_server() as url:
        done = case.run(DATABASE_URL=url)
        assert done.code == 13, done
        assert "pgvector 0.6.2 is too old" in done.err
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT nspname FROM pg_namespace WHERE nspname = 'golive'")
            assert cursor.fetchall() == []
            cursor.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
            assert cursor.fetchall() == []
    case.repeat()


@pytest.mark.fault("restore.fresh")
def test_a_machine_that_has_nothing_but_the_backup_restores_it(
    open_case: Callable[[str], Case], empty_database: str, tmp_path: Path
) -> None:
    case = open_case("restore fresh")
    backup_id, release_id = newest_backup(case.project), case.before.then
    machine = tmp_path / "machine"
    shutil.copytree(PROJECT / "configs", machine / "configs", ignore=shutil.ignore_patterns("locked_configs", "*.pub"))
    shutil.copytree(case.project.workspace.backups / backup_id, machine / ".local" / "backups" / backup_id)
    where = {"DATABASE_URL": empty_database, "GOLIVE_HOME": str(machine)}
    command = case.step.command(case.project)
    done = killing.run(command, **where)
    assert done.code == 0, done
    assert killing.run(killing.script("validate_rollback", "--backup-id", backup_id), **where).code == 0
    with closing(psycopg2.connect(empty_database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT release_id, table_schema, table_name FROM golive.route()")
        live, schema, table = cursor.fetchone()
        assert live == release_id
        cursor.execute("SELECT content_digest FROM golive.releases WHERE release_id = %s", (live,))
        found = content_of(connection, schema, table)
        assert found is not None and (found.digest,) == cursor.fetchone()
