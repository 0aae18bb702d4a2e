"""A member of an archive, as the archive's directory describes it."""

from __future__ import annotations

import zipfile
from typing import NamedTuple


class Member(NamedTuple):
    """A file in an archive. It is a tuple because hundreds of thousands of them are sent to other processes.

    Attributes:
        name: path in the archive, with forward slashes.
        size: inflated size in bytes, as the archive claims.
        offset: position in the archive of its header (zip) or of its content (tar).
        stored: bytes that its content takes in the archive.
        method: compression method of a zip.
        crc: CRC-32 of its content; None if the archive doesn't state it.
        encrypted: whether a password is needed.
        fault: why the member can't be used, if that is known before its content is read; for example a broken link.
    """

    name: str
    size: int
    offset: int
    stored: int
    method: int = zipfile.ZIP_STORED
    crc: int | None = None
    encrypted: bool = False
    fault: str | None = None
