"""Where HTTP requests may go: addresses are judged, and the connection is made to the very address that was judged."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from lib.platform.errors import Refused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the IPv4 address is the last 32 bits
# Where clouds give out credentials to whoever asks from inside; no service to be evaluated stands there.
_METADATA = (
    ipaddress.ip_network("169.254.0.0/16"),
    ipaddress.ip_network("fd00:ec2::/32"),
    ipaddress.ip_network("100.100.100.200/32"),
    ipaddress.ip_network("192.0.0.192/32"),
    ipaddress.ip_network("168.63.129.16/32"),
)


def problem_with(address: str, *, allow_internal: bool) -> str:
    """Why no request may go to an IP address; empty where one may.

    ``allow_internal`` lets loopback, private and shared ranges through, never link-local, metadata, multicast or none.
    """
    found: Address = ipaddress.ip_address(address.partition("%")[0])
    for inner in _all_of(found):
        if any(inner in network for network in _METADATA) or inner.is_link_local:
            return "link-local or a metadata service"
        if inner.is_multicast or inner.is_unspecified:
            return "no address of one host"
        if not allow_internal and (not inner.is_global or getattr(inner, "is_site_local", False)):
            return "internal"
        if inner.is_reserved and not inner.is_loopback:
            return "reserved"
    return ""


def _all_of(found: Address) -> list[Address]:
    """The address that packets go to: IPv4 inside IPv6 counts as what is inside; a 6to4 tunnel as both of its ends."""
    if isinstance(found, ipaddress.IPv4Address):
        return [found]
    if found.ipv4_mapped:
        return [found.ipv4_mapped]
    if found in _NAT64:
        return [ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)]
    tunnel: list[Address] = [found.sixtofour] if found.sixtofour else list(found.teredo or ())
    return [found, *tunnel]


def connected(connection: Any, *, allow_internal: bool) -> socket.socket:
    """A socket to the host of a urllib3 connection, which is looked up once: all of its addresses must be allowed.

    Raises:
        Refused: one is not. urllib3's errors: no such name, nothing answers.
    """
    host = connection.host.strip("[]")
    try:
        found = socket.getaddrinfo(host, connection.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        reason = error if isinstance(error, socket.gaierror) else socket.gaierror(str(error))
        raise NameResolutionError(host, connection, reason) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if problem := problem_with(address, allow_internal=allow_internal):
            shown = f"{host} ({address})" if host != address else address
            hint = "allow_internal: true in the config of this service, if it is meant" if problem == "internal" else ""
            raise Refused(f"no request may go to {shown}, which is {problem}", hint=hint)
    failed: OSError = OSError("it has no address")
    for address in addresses:
        try:
            return create_connection(
                (address, connection.port), connection.timeout, connection.source_address, connection.socket_options
            )
        except OSError as error:
            failed = error
    if isinstance(failed, TimeoutError):
        raise ConnectTimeoutError(connection, f"no connection to {host} in time") from failed
    raise NewConnectionError(connection, f"no connection: {failed}") from failed


class _Http(HTTPConnection):
    allow_internal = False

    def _new_conn(self) -> socket.socket:
        return connected(self, allow_internal=self.allow_internal)


class _Https(HTTPSConnection):
    """The certificate is verified for the name, whatever address it was looked up as."""

    allow_internal = False

    def _new_conn(self) -> socket.socket:
        return connected(self, allow_internal=self.allow_internal)


class _HttpAllowed(_Http):
    allow_internal = True


class _HttpsAllowed(_Https):
    allow_internal = True


def pool(*, max_in_flight: int, allow_internal: bool) -> urllib3.PoolManager:
    """Connections that go to allowed addresses alone; no proxy of the environment is asked, nothing is tried again."""

    class Plain(HTTPConnectionPool):
        ConnectionCls = _HttpAllowed if allow_internal else _Http

    class Secure(HTTPSConnectionPool):
        ConnectionCls = _HttpsAllowed if allow_internal else _Https

    made = urllib3.PoolManager(maxsize=max_in_flight, retries=False)
    made.pool_classes_by_scheme = {"http": Plain, "https": Secure}
    return made
