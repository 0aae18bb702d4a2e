"""Addresses of sources, and the part of them that records and messages may show."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from histopipe.core.errors import SourceError

_SECRET = re.compile(r"token|secret|passw|signature|credential|^sig$|^key$|apikey|api_key|access_?key", re.IGNORECASE)


def is_url(source: str) -> bool:
    """Return whether a source is an http or https address."""
    return source.lower().startswith(("http://", "https://"))


def public_source(source: str) -> str:
    """Return a source as messages and records may show it, without secrets.

    Raises:
        SourceError: the source can't be read as a URL.
    """
    return public_url(source) if is_url(source) else source


def public_url(url: str) -> str:
    """Return a URL without user name, password, fragment and the values of query keys that sound secret.

    Raises:
        SourceError: the source can't be read as a URL.
    """
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        raise SourceError("a source that starts like a URL can't be read as one: check its host and port") from None
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, _public_query(parts.query, query), ""))


def _public_query(written: str, pairs: list[tuple[str, str]]) -> str:
    if not any(_SECRET.search(key) for key, _ in pairs):
        return written
    return urlencode([(key, "..." if _SECRET.search(key) else value) for key, value in pairs], quote_via=quote)
