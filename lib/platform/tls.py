"""The rule of the production profile: a connection over a network is verified TLS, or there is none.

``sslmode=prefer``, libpq's default, takes whatever the other end offers, and ``require`` takes any certificate: both can be
read by whoever stands between. A Unix socket has no network and no certificate; it is let through.
"""

from __future__ import annotations

import os
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection

from lib.platform.errors import Refused
from lib.platform.workspace import ENVIRONMENT_VARIABLE

PRODUCTION = "production"
_VERIFIED = "verify-full"
_HINT = "in DATABASE_URL: sslmode=verify-full&sslrootcert=/path/to/authority.pem (or sslrootcert=system)"


def is_production() -> bool:
    return os.environ.get(ENVIRONMENT_VARIABLE, "").strip().lower() == PRODUCTION


def require_verified(asked: dict[str, Any]) -> None:
    """Looks at what libpq would connect with, before anything is sent, in the production profile alone.

    What the address leaves out comes from a service file, the environment or libpq's defaults, in an order that libpq alone
    knows. So it is asked: a connection that is begun and given up tells its parameters. Not a byte is sent on it.

    Raises:
        Refused: it would go over a network, and not by ``verify-full``. psycopg2.Error: as ``psycopg2.connect``.
    """
    if not is_production():
        return
    begun = psycopg2.connect(**asked, async_=1)
    try:
        effective = begun.info.dsn_parameters
    finally:
        begun.close()
    mode = effective.get("sslmode", "")
    if mode != _VERIFIED and not _is_local(effective):
        raise Refused(
            f"in production the database's certificate is verified: sslmode={mode or 'prefer'} is refused",
            detail=f"it comes from {_origin_of_mode(asked)}",
            hint=_HINT,
        )


def require_in_use(connection: Connection) -> None:
    """Raises Refused where a connection of the production profile goes over a network without TLS after all."""
    if is_production() and not connection.info.ssl_in_use and not _is_local(connection.info.dsn_parameters):
        raise Refused(
            "in production the database's certificate is verified, but this connection does not use TLS",
            detail="GSSAPI encryption takes precedence over it",
            hint="gssencmode=disable in DATABASE_URL",
        )


def _is_local(effective: dict[str, str]) -> bool:
    """Whether every host is a Unix socket: a folder, an abstract name, or none, which is libpq's own folder."""
    hosts = effective.get("host", "").split(",")
    return not effective.get("hostaddr") and all(not host or host[0] in "/@" for host in hosts)


def _origin_of_mode(asked: dict[str, Any]) -> str:
    if "sslmode" in asked:
        return "DATABASE_URL"
    if service := asked.get("service") or os.environ.get("PGSERVICE"):
        return f"the service {service!r}, or from PGSSLMODE where that has none"
    return "PGSSLMODE" if os.environ.get("PGSSLMODE") else "the default: DATABASE_URL has none"
