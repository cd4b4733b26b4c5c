"""Requests over http(s): retried with back-off, within a deadline, and if asked only to public addresses."""

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from math import inf
from time import monotonic
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from urllib3 import BaseHTTPResponse, HTTPConnectionPool, PoolManager, Retry, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    HTTPError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)
from urllib3.util import make_headers, parse_url

from observe_r1.threads import in_daemon_thread

T = TypeVar("T")

_BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which asking again may help."""

_PASSWORD = re.compile(r"(?<=://)[^/?#\s]*@")
_NAT64 = IPv6Network("64:ff9b::/96")


class DeadlineError(HTTPError):
    """A try exceeded its deadline; it is not repeated."""


class PrivateAddressError(HTTPError):
    """A server, perhaps one that another redirects to, has an address inside a private network."""


def http_client(
    *, retries: int, timeout: float, deadline: float, connections: int = 1, public_only: bool = False
) -> PoolManager:
    """Return a thread-safe client for `request`, which repeats failed requests: at once, then after 1, 2, 4, … seconds.

    It repeats a request if the connection fails or breaks, or the server is busy. It honours `Retry-After` up to 30
    seconds, and follows redirects. The caller has to look at the status of an answer (`response.status`).

    Args:
        retries: Tries after the first.
        timeout: Seconds to connect, and seconds of silence while reading.
        deadline: Seconds for one try in all, from looking up the name to the last byte of the answer, however steadily
            it arrives; then `DeadlineError`, and no further try. Each redirect has a deadline of its own.
        connections: Kept open to one host, for as many threads that ask it at once.
        public_only: Refuse servers, redirected ones too, whose address is loopback, link-local, private or reserved,
            with `PrivateAddressError`. The address that is checked is the one that is connected to.
    """
    retry = Retry(
        total=retries,
        backoff_factor=0.5,
        backoff_max=30,
        status_forcelist=_BUSY,
        allowed_methods=None,  # a POST that asks for rewards changes nothing and may be repeated
        raise_on_status=False,
        retry_after_max=30,
    )
    context = ssl.create_default_context()
    context.sslsocket_class = _TLSSocket
    patience = Timeout(connect=timeout, read=timeout)
    client = _Client(maxsize=connections, retries=retry, timeout=patience, ssl_context=context)
    client.deadline, client.public_only = deadline, public_only
    return client


def request(client: PoolManager, method: str, url: str, read: Callable[[BaseHTTPResponse], T], **options: Any) -> T:
    """Send a request, and return what `read` makes of the answer.

    An answer that breaks off is asked for again, as one that never comes is: urllib3 itself does so only while it reads
    the whole body, whatever its length. A name and password in the address are sent as basic authentication, to this
    host alone.

    Args:
        client: From `http_client`.
        method: `GET`, `HEAD` or `POST`.
        url: With name and password, if they are needed.
        read: Takes the answer, whose body is not read yet; called again for each answer.
        options: Of `PoolManager.request`.

    Raises:
        urllib3.exceptions.HTTPError: No try succeeded.
    """
    retries: Retry = client.connection_pool_kw["retries"]
    if auth := parse_url(url).auth:
        options["headers"] = {**options.get("headers", {}), **make_headers(basic_auth=unquote(auth))}
    while True:
        response = client.request(method, url, preload_content=False, retries=retries, **options)
        try:
            return read(response)
        except (ProtocolError, ReadTimeoutError) as error:
            retries = retries.increment(method, url, error=error)
            retries.sleep()
        finally:
            response.close()


def without_password(text: str) -> str:
    """Return `text` for a message: without the names and passwords in its addresses."""
    return _PASSWORD.sub("…@", text)


def without_passwords(value: Any) -> Any:
    """Return settings for others to see, as JSON has them: every text `without_password`, names of settings too."""
    if isinstance(value, dict):
        return {without_passwords(name): without_passwords(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_passwords(each) for each in value]
    return without_password(value) if isinstance(value, str) else value


def _is_public(address: str) -> bool:
    """Whether an IP address, or the IPv4 address inside an IPv6 address, is one of the open internet."""
    ip: IPv4Address | IPv6Address = ip_address(address)
    if isinstance(ip, IPv6Address):
        inside = IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.ipv4_mapped or ip.sixtofour
        if inside:
            return _is_public(str(inside))
        if ip.is_site_local or ip.teredo:
            return False
    return ip.is_global and not ip.is_multicast


class _Socket(socket.socket):
    """A socket on which no operation lasts beyond a deadline."""

    until = inf
    """As `monotonic` counts."""

    def recv_into(self, *args: Any) -> int:
        with self._in_time():
            return super().recv_into(*args)

    def send(self, *args: Any) -> int:
        with self._in_time():
            return super().send(*args)

    def sendall(self, *args: Any) -> None:
        with self._in_time():
            super().sendall(*args)

    def connect(self, address: Any) -> None:
        with self._in_time():
            super().connect(address)

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        patience, left = self.gettimeout(), self.until - monotonic()
        if left <= 0:
            raise DeadlineError("it took longer than its deadline")
        if patience is None or left < patience:
            self.settimeout(left)
        try:
            yield
        except TimeoutError:
            if monotonic() >= self.until:
                raise DeadlineError("it took longer than its deadline") from None
            raise
        finally:
            self.settimeout(patience)


class _TLSSocket(_Socket, ssl.SSLSocket):
    """The same with TLS."""


class _Connection(HTTPConnection):
    """A connection with a deadline for each try, whether the try opens the connection or finds it open."""

    def __init__(self, *args: Any, deadline: float, public_only: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limit, self._public_only = deadline, public_only
        self._until = inf
        self._is_new = True

    def request(self, *args: Any, **options: Any) -> None:
        if not self._is_new:
            self._until = monotonic() + self._limit
        if self.sock is not None:
            cast(_Socket, self.sock).until = self._until
        super().request(*args, **options)
        self._is_new = False

    def _new_conn(self) -> _Socket:
        """Connect to the first of the host's addresses that takes the connection."""
        self._until, self._is_new = monotonic() + self._limit, True
        problem: Exception | None = None
        for family, kind, protocol, _, address in self._addresses():
            if self._public_only and not _is_public(address[0]):
                problem = problem or PrivateAddressError(
                    f"{self.host} is {address[0]}, an address of a private network"
                )
                continue
            connection = _Socket(family, kind, protocol)
            connection.until = self._until
            try:
                for option in self.socket_options or ():
                    connection.setsockopt(*option)
                connection.settimeout(self.timeout)
                connection.connect(address)
                connection.settimeout(
                    max(0.001, min(self.timeout or inf, self._until - monotonic()))
                )  # TLS greets by it
            except OSError as error:
                connection.close()
                problem = NewConnectionError(self, f"Failed to establish a new connection: {error}")
            except DeadlineError:
                connection.close()
                raise
            else:
                return connection
        assert problem is not None  # a name that is found has an address
        raise problem

    def _addresses(self) -> list[Any]:
        host = self._dns_host.strip("[]")
        lookup = in_daemon_thread(socket.getaddrinfo, host, self.port, socket.AF_UNSPEC, socket.SOCK_STREAM)
        try:
            return lookup.result(self._until - monotonic())
        except TimeoutError as error:
            raise DeadlineError("it took longer than its deadline") from error
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except UnicodeError as error:
            raise LocationParseError(f"{host!r}: {error}") from error


class _TLSConnection(_Connection, HTTPSConnection):
    """The same with TLS."""


class _Client(PoolManager):
    """Passes the deadline and the choice of addresses to its connections."""

    deadline: float
    public_only: bool

    def _new_pool(self, scheme: str, *args: Any, **options: Any) -> HTTPConnectionPool:
        pool = super()._new_pool(scheme, *args, **options)
        pool.ConnectionCls = _TLSConnection if scheme == "https" else _Connection
        pool.conn_kw |= {"deadline": self.deadline, "public_only": self.public_only}
        return pool
