"""One at a time: the second is told who holds the lease, children share it, and it dies with its holder."""

from __future__ import annotations

import getpass
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from psycopg2.extensions import connection as Connection

from lib.platform import postgres
from lib.platform.errors import LeaseHeld, Unavailable
from lib.platform.lease import lease, who

_HOLD = """
import sys
from lib.platform.lease import lease
with lease(sys.argv[1], "backup") as shared:
    print(shared["GOLIVE_LEASE"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def free(state: Connection) -> None:
    """The server may still be busy ending the session of the test before."""
    _wait_until_gone(state, "golive lease: %")


def test_a_person_is_named_with_their_machine() -> None:
    assert who() == f"{getpass.getuser()}@{socket.gethostname()}"


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_user_without_a_name_is_named_by_number(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise error("no such user")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert who() == f"uid{os.getuid()}@{socket.gethostname()}"


def test_the_second_taker_is_told_who_holds_the_lease_and_since_when(state: Connection, state_url: str) -> None:
    with lease(state_url, "backup"):
        with pytest.raises(LeaseHeld) as caught, lease(state_url, "restore"):
            pytest.fail("two hold the lease")
        assert re.fullmatch(
            rf"another run is at work: backup by {re.escape(who())}, pid {os.getpid()},"
            r" since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
            caught.value.message,
        )
        assert "run the same command again" in caught.value.hint


def test_the_loser_changes_nothing(state: Connection, state_url: str) -> None:
    with lease(state_url, "backup"):
        before = _row(state)
        with pytest.raises(LeaseHeld), lease(state_url, "restore"):
            pass
        assert _row(state) == before


def test_the_lease_is_free_again_after_the_block(state: Connection, state_url: str) -> None:
    with lease(state_url, "first") as shared:
        first = shared["GOLIVE_LEASE"]
    _wait_until_gone(state, "golive lease: first")
    with lease(state_url, "second") as shared:
        assert shared["GOLIVE_LEASE"] != first
        assert _row(state)["holder"].startswith("second by ")


def test_the_lease_is_free_again_after_an_error(state: Connection, state_url: str) -> None:
    with pytest.raises(RuntimeError), lease(state_url, "first"):
        raise RuntimeError
    _wait_until_gone(state, "golive lease: first")
    with lease(state_url, "second"):
        pass


def test_a_child_step_works_under_its_parents_lease(
    state: Connection, state_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(state_url, "golive") as shared:
        for name, value in shared.items():
            monkeypatch.setenv(name, value)
        with lease(state_url, "ingest") as inherited:
            assert inherited == shared
        monkeypatch.delenv("GOLIVE_LEASE")
        assert _row(state)["holder"].startswith("golive by ")
        with pytest.raises(LeaseHeld), lease(state_url, "other"):
            pytest.fail("the child gave its parent's lease away")


def test_a_child_process_works_under_its_parents_lease(state: Connection, state_url: str) -> None:
    with lease(state_url, "golive") as shared:
        done = subprocess.run(
            [sys.executable, "-c", _HOLD, state_url],
            env={**os.environ, **shared},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stdout.strip()) == (0, shared["GOLIVE_LEASE"])


def test_a_stale_token_takes_a_free_lease_anew(state: Connection, state_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with lease(state_url, "first") as shared:
        stale = shared["GOLIVE_LEASE"]
    _wait_until_gone(state, "golive lease: first")
    monkeypatch.setenv("GOLIVE_LEASE", stale)
    with lease(state_url, "second") as shared:
        assert shared["GOLIVE_LEASE"] != stale
        monkeypatch.delenv("GOLIVE_LEASE")
        with pytest.raises(LeaseHeld), lease(state_url, "third"):
            pytest.fail("a stale token was taken for a lease")


def test_a_stale_token_opens_nothing_that_another_holds(
    state: Connection, state_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(state_url, "first") as shared:
        stale = shared["GOLIVE_LEASE"]
    _wait_until_gone(state, "golive lease: first")
    with lease(state_url, "second"):
        monkeypatch.setenv("GOLIVE_LEASE", stale)
        with pytest.raises(LeaseHeld, match="second by"), lease(state_url, "third"):
            pytest.fail("a stale token opened another's lease")


def test_a_holder_that_was_killed_holds_nothing(state: Connection, state_url: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, state_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        token = holder.stdout.readline().strip()
        with pytest.raises(LeaseHeld, match=f"pid {holder.pid},"), lease(state_url, "restore"):
            pytest.fail("two hold the lease")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    _wait_until_gone(state, "golive lease: backup")
    with lease(state_url, "restore") as shared:
        assert shared["GOLIVE_LEASE"] not in ("", token)


def test_a_step_that_lost_its_lease_does_not_end_as_done(state: Connection, state_url: str) -> None:
    with pytest.raises(Exception, match="lease"), lease(state_url, "backup"):
        _end_session(state, "golive lease: backup")
        with lease(state_url, "restore"):
            pass


def test_a_child_whose_parent_lost_the_lease_does_not_end_as_done(
    state: Connection, state_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unavailable, match="lost"), lease(state_url, "golive") as shared:
        monkeypatch.setenv("GOLIVE_LEASE", shared["GOLIVE_LEASE"])
        with lease(state_url, "ingest"):
            _end_session(state, "golive lease: golive")
        pytest.fail("the child ended as done")


def _row(state: Connection) -> dict[str, str]:
    with state:
        found = postgres.one(state, "SELECT token, holder FROM golive.leases")
    assert found is not None
    return found


def _end_session(state: Connection, application: str) -> None:
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
    with state:
        postgres.every(state, end, (application,))
    _wait_until_gone(state, application)


def _wait_until_gone(state: Connection, application: str) -> None:
    """Asks until the server has noticed that a session ended."""
    for _ in range(100_000):
        with state:
            if not postgres.every(state, "SELECT FROM pg_stat_activity WHERE application_name LIKE %s", (application,)):
                return
    pytest.fail(f"{application} is still there")
