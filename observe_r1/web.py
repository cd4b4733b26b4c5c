"""Requests over http(s): retried with back-off, within a time limit."""

from urllib3 import PoolManager, Retry, Timeout

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

    The client raises `urllib3.exceptions.HTTPError`.
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
