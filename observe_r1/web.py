"""Requests over http(s): retried with back-off, within a time limit."""

from collections.abc import Callable
from typing import Any, TypeVar

from urllib3 import BaseHTTPResponse, PoolManager, Retry, Timeout
from urllib3.exceptions import ProtocolError, ReadTimeoutError

T = TypeVar("T")

_BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which asking again may help."""


def http_client(*, retries: int, timeout: float, connections: int = 1) -> PoolManager:
    """Return a thread-safe client that tries a failed request again: at once, then after 1, 2, 4, … seconds.

    Connections that fail or break and answers of a server that is busy are tried again, `Retry-After` is honoured
    up to 30 seconds, redirects are followed. Answers other than 2xx are for the caller to judge (`response.status`).

    Args:
        retries: tries after the first.
        timeout: seconds to connect, and seconds of silence while reading.
        connections: kept open to one host, for as many threads that ask it at once.

    Ask it with `request`; it raises `urllib3.exceptions.HTTPError`.
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
    return PoolManager(maxsize=connections, retries=retry, timeout=Timeout(connect=timeout, read=timeout))


def request(client: PoolManager, method: str, url: str, read: Callable[[BaseHTTPResponse], T], **options: Any) -> T:
    """Return what `read` makes of the answer, whose body is still to come.

    An answer that breaks off is asked for again, as often as one that never comes: urllib3 itself does so only where it
    reads the whole body, whatever its length. `options` are those of `PoolManager.request`.
    """
    retries: Retry = client.connection_pool_kw["retries"]
    while True:
        response = client.request(method, url, preload_content=False, retries=retries, **options)
        try:
            return read(response)
        except (ProtocolError, ReadTimeoutError) as error:
            retries = retries.increment(method, url, error=error)
            retries.sleep()
        finally:
            response.close()
