"""One file of an archive, as its listing tells."""

from __future__ import annotations

import zipfile
from typing import NamedTuple


class Member(NamedTuple):
    """One file in an archive; a tuple, since there are hundreds of thousands, which go to other processes.

    Attributes:
        size: bytes when inflated, as the archive claims.
        offset: where its header (zip) or its bytes (tar) start in the archive.
        stored: bytes it takes in the archive.
        crc: CRC-32 of its content, where the archive tells.
        fault: why it can't be used, where that shows without its content; such as a link that leads nowhere.
    """

    name: str
    size: int
    offset: int
    stored: int
    method: int = zipfile.ZIP_STORED
    crc: int | None = None
    encrypted: bool = False
    fault: str | None = None
