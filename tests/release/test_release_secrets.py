"""Secrets: planted in every place that may hold one, then looked for in everything that was written."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from lib.platform import signing
from lib.release.table_copies import decompressing
from tests.conftest import PROJECT, Finished
from tests.release import forked
from tests.release.staged import Project

PASSWORD = "pa ss/wörd%41!"  # as an address must quote it
SECRETS = {
    "PGPASSWORD": "libpq-secret-0001",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED000000001",
    "AWS_SECRET_ACCESS_KEY": "aws/secret+key=0002",
    "AWS_SESSION_TOKEN": "aws-session-token-0003==",
    "OPENAI_API_KEY": "sk-planted-0004-0004-0004",
    "GOLIVE_SIGNING_KEY_PASSPHRASE": "passphrase 0005 'quoted\"",
    "GOLIVE_BACKUP_KEY": base64.b64encode(b"planted backup key of 32 bytes!!").decode(),
    "ALERTS_WEBHOOK_URL": "https://hooks.example.org/services/T0006/planted-path-0006",
}
COMMANDS = {
    "status": ("status",),
    "monitor": ("production_health_monitor", "--json"),
    "backup": ("backup_production_state",),
    "backup as JSON": ("backup_production_state", "--json"),
    "list": ("restore_production_state", "--list"),
    "stop": ("emergency_stop", "--reason"),
    "resume": ("resume_operations", "--reason"),
    "validate": ("validate_rollback", "--json"),
    "verify the log": ("verify_audit_log",),
    "prune": ("prune_backups", "--keep", "1", "--dry-run"),
    "promote": ("promote_production_config",),
}


@pytest.fixture
def planted(open_synthetic, tmp_path_factory) -> tuple[Project, dict[str, str]]:
    """A live release, and the environment of a run that holds every secret, some of them in files."""
    project = open_synthetic("live")
    private, _, _ = signing.new_pair(SECRETS["GOLIVE_SIGNING_KEY_PASSPHRASE"])
    key = tmp_path_factory.mktemp("outside") / "signing.pem"
    key.write_bytes(private)
    key.chmod(0o600)
    token = key.parent / "token"
    token.write_text("token-in-a-file-0007\n")
    environment = {
        **os.environ,
        **SECRETS,
        "DATABASE_URL": project.url.replace("postgres@", f"postgres:{quote(PASSWORD, safe='')}@"),
        "GOLIVE_HOME": str(project.workspace.root),
        "GOLIVE_SIGNING_KEY_FILE": str(key),
        "SERVICE_TOKEN_FILE": str(token),
    }
    return project, environment


def all_secrets(environment: dict[str, str]) -> list[str]:
    lines = Path(environment["GOLIVE_SIGNING_KEY_FILE"]).read_text().splitlines()
    longest = max(lines, key=len)  # of the key: its first line is the same in every PEM
    return [PASSWORD, *SECRETS.values(), "token-in-a-file-0007", longest]


def forms(secret: str) -> set[bytes]:
    """A secret as it is, and as addresses, JSON, Python and base64 write it."""
    written = {secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    return {text.encode() for text in written} | {base64.b64encode(secret.encode())}


def assert_nothing_leaked(project: Project, environment: dict[str, str], runs: list[Finished]) -> None:
    written = {f"output of run {number}": (done.out + done.err).encode() for number, done in enumerate(runs)}
    for path in project.workspace.root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            written[str(path)] = data
            if path.name.endswith(".zst"):
                written[f"{path}, decompressed"] = decompressing(io.BytesIO(data))(-1)
    for row in project.ask("SELECT relname FROM pg_class WHERE relnamespace = 'golive'::regnamespace AND relkind = 'r'"):
        rows = project.ask(f"SELECT t::text AS row FROM golive.{row['relname']} t")
        written[f"golive.{row['relname']}"] = "\n".join(item["row"] for item in rows).encode()
    leaks = [
        f"{place} holds {secret!r}"
        for secret in all_secrets(environment)
        for form in forms(secret)
        for place, data in written.items()
        if form in data
    ]
    assert leaks == []


def run(command: tuple[str, ...], environment: dict[str, str], **more: str) -> Finished:
    script, *arguments = command
    reason = [" and ".join(all_secrets(environment))] if arguments[-1:] == ["--reason"] else []
    return forked.run(script, *arguments, *reason, environment={**environment, **more})


def test_no_command_that_succeeds_writes_a_secret_anywhere(planted):
    project, environment = planted
    runs = [run(command, environment) for command in COMMANDS.values()]
    codes = dict(zip(COMMANDS, (done.code for done in runs), strict=True))
    assert set(codes.values()) <= {0, 4}, codes
    assert len(project.ask("SELECT FROM golive.backups")) >= 3
    assert_nothing_leaked(project, environment, runs)


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_no_command_that_fails_writes_a_secret_anywhere(planted, flags):
    project, environment = planted
    nowhere = f"postgresql://someone:{quote(PASSWORD, safe='')}@127.0.0.1:1/nowhere"
    unknown = environment["DATABASE_URL"].replace("/test_", "/missing_")
    broken = f"postgresql://someone:{quote(PASSWORD, safe='')}@127.0.0.1:not-a-port/x"
    runs = [run(("status", *flags), environment, DATABASE_URL=url) for url in (nowhere, unknown, broken)]
    assert [done.code for done in runs] == [13, 13, 13]
    bug = run(("backup_production_state", *flags), environment, GOLIVE_FAILPOINT="backup.begin=NO_SUCH_ERROR")
    assert bug.code == 1 and "NO_SUCH_ERROR" in bug.out + bug.err
    full = run(("backup_production_state", *flags), environment, GOLIVE_FAILPOINT="file.write=ENOSPC@2")
    assert full.code == 13
    assert_nothing_leaked(project, environment, [*runs, bug, full])


def test_what_the_server_says_back_is_cleaned_too(planted):
    project, environment = planted
    project.execute(
        "CREATE FUNCTION golive.tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" RAISE EXCEPTION 'cannot log in with {SECRETS['AWS_SECRET_ACCESS_KEY']}'; END $$;"
        " CREATE TRIGGER tell BEFORE INSERT ON golive.backups FOR EACH ROW EXECUTE FUNCTION golive.tell()"
    )
    done = run(("backup_production_state",), environment)
    assert done.code != 0 and "cannot log in with ***" in done.out + done.err
    assert SECRETS["AWS_SECRET_ACCESS_KEY"] not in done.out + done.err


def test_no_secret_stands_in_a_command_line_while_a_backup_is_made(planted, tmp_path):
    _, environment = planted
    mark = tmp_path / "mark"
    script = PROJECT / "scripts" / "backup_production_state.py"
    environment["GOLIVE_FAILPOINT"] = f"backup.copy=wait:{mark}"
    process = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.DEVNULL)
    while not mark.exists() and process.poll() is None:
        time.sleep(0.01)
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    mark.unlink()
    assert process.wait(60) == 0
    assert any(b"backup_production_state" in line for line in lines)
    shown = [secret for secret in all_secrets(environment) for form in forms(secret) if any(form in line for line in lines)]
    assert shown == []


def test_a_password_inside_a_config_is_refused_and_nothing_is_touched(planted):
    project, environment = planted
    config = project.workspace.configs / "monitoring.yaml"
    config.write_text(config.read_text() + f"\ndatabase_password: {SECRETS['PGPASSWORD']}\n")
    before = project.ask("SELECT count(*) AS rows FROM golive.audit_log")
    done = run(("production_health_monitor",), environment)
    assert done.code == 10 and "monitoring.yaml" in done.err
    assert SECRETS["PGPASSWORD"] not in done.out + done.err
    assert project.ask("SELECT count(*) AS rows FROM golive.audit_log") == before


def test_a_password_that_is_wrong_is_not_told(planted):
    _, environment = planted
    done = run(("status",), environment, DATABASE_URL=f"host=127.0.0.1 port=1 password='{PASSWORD}'")
    assert done.code == 13 and PASSWORD not in done.err
