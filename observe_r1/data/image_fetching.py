"""Images behind http(s) addresses: fetched once, checked, and kept on disk."""

from __future__ import annotations

import os
from functools import cache
from hashlib import sha256
from http.client import responses
from pathlib import Path
from threading import get_ident

from urllib3 import BaseHTTPResponse, PoolManager
from urllib3.exceptions import HTTPError, MaxRetryError

from observe_r1.config import QuestionSettings
from observe_r1.data.image_decoding import decoded_image
from observe_r1.errors import UserError
from observe_r1.files import write_atomic
from observe_r1.web import DeadlineError, PrivateAddressError, http_client, request, without_password

MAX_BYTES = 100 * 2**20
"""Larger answers are not read to their end."""

TIMEOUT = 20.0
"""Seconds to connect, and seconds of silence."""

DEADLINE = 120.0
"""Seconds for one try, from the name's look-up to the last byte, however steadily they drip."""

_RETRIES = 4
_CHUNK = 1 << 16


def fetch_image(url: str, place: str, settings: QuestionSettings) -> tuple[bytes, str]:
    """Return the image at `url`, encoded, from `image_cache` if it is kept there, else from the network; and its place.

    Only what decodes is kept: under a hash of the address, written whole or not at all, so that several threads and
    processes may fetch at once. Kept images are never asked for again.

    Errors: `UserError`, beginning with `place`, where it cannot be fetched or kept, is not at a public address (unless
    `allow_private_addresses`), has more than `MAX_BYTES`, or is no image.
    """
    folder = Path(settings.image_cache).expanduser()
    kept = folder / sha256(url.encode()).hexdigest()
    try:
        if kept.exists():
            return kept.read_bytes(), f"{place} (kept as {str(kept)!r})"
        data = _download(url, place, public_only=not settings.allow_private_addresses)
        with decoded_image(data, place):
            pass  # only what decodes is kept
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{place}: data.image_cache = {str(folder)!r} cannot be used: {error.strerror}") from error
    new = kept.with_name(f"{kept.name}-{os.getpid()}-{get_ident()}")
    write_atomic(new, data)
    new.replace(kept)
    return data, place


@cache
def _client(*, public_only: bool) -> PoolManager:
    return http_client(retries=_RETRIES, timeout=TIMEOUT, deadline=DEADLINE, public_only=public_only)


def _download(url: str, place: str, *, public_only: bool) -> bytes:
    try:
        return request(_client(public_only=public_only), "GET", url, lambda response: _read(response, place))
    except DeadlineError as error:
        raise UserError(
            f"{place} cannot be fetched: incomplete after {DEADLINE:g} s: download it and name the file"
        ) from error
    except PrivateAddressError as error:
        raise UserError(
            f"{place} is not fetched: {error}: download it and name the file, or, if you trust this dataset, "
            "set data.allow_private_addresses"
        ) from error
    except HTTPError as error:
        reason = error.reason if isinstance(error, MaxRetryError) else error
        raise UserError(f"{place} cannot be fetched: {without_password(' '.join(str(reason).split()))}") from error


def _read(response: BaseHTTPResponse, place: str) -> bytes:
    if response.status != 200:
        meaning = responses.get(response.status, "")
        raise UserError(f"{place} cannot be fetched: the server answers {response.status} {meaning}".rstrip())
    data = bytearray()
    while part := response.read1(_CHUNK):
        data += part
        if len(data) > MAX_BYTES:
            raise UserError(f"{place} has more than {MAX_BYTES:,} bytes: shrink it, or download it and name the file")
    return bytes(data)
