"""How much an archive may list and inflate to: an archive of 200 kB can claim millions of members and terabytes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from histopipe.core.errors import ArchiveError
from histopipe.core.params import MAX_MEMBERS

MAX_INFLATION = 100  # times the archive's own size; compressed images hardly shrink, blank bitmaps do
LEAST_INFLATION = 2**30  # bytes that any archive may inflate to
LISTING_BYTES = 2**10  # of names and other headers to a member, on average
LEAST_LISTING = 64 * 2**20


class MemberLimit(NamedTuple):
    """How many members an archive may have.

    Attributes:
        most: files, folders and links, those of archives within it included.
        remedy: what to do about an archive that has more, as messages say it.
    """

    most: int = MAX_MEMBERS
    remedy: str = "raise ingest.max_members in params.yaml if that is right, or divide the archive"


USUAL_LIMIT = MemberLimit()


class Allowance:
    """What an archive may still list; counted while it is read, so that a hostile one is left before it costs much.

    Args:
        path: of the archive, for messages.
        limit: how many members it may have.
    """

    def __init__(self, path: Path, limit: MemberLimit) -> None:
        self._path, self._limit = path, limit
        self.members = limit.most
        self._listing = max(LEAST_LISTING, limit.most * LISTING_BYTES)
        self.inflated = max(LEAST_INFLATION, path.stat().st_size * MAX_INFLATION)

    def take_members(self, count: int = 1) -> None:
        """Count members.

        Raises:
            ArchiveError: there are too many.
        """
        self.members -= count
        if self.members < 0:
            raise ArchiveError(
                f"{self._path} holds more than {self._limit.most:,} files, folders and links: {self._limit.remedy}"
            )

    def take_listing(self, size: int) -> None:
        """Count bytes of names and headers.

        Raises:
            ArchiveError: there are too many.
        """
        self._listing -= size
        if self._listing < 0:
            raise ArchiveError(
                f"{self._path} takes absurdly much to say what it holds ({LISTING_BYTES:,} bytes a member are read): "
                "pack the files again"
            )

    def check_inflated(self, size: int) -> None:
        """Compare what a compressed archive has inflated to, or is about to, with what is read.

        Raises:
            ArchiveError: it is too much.
        """
        if size > self.inflated:
            raise ArchiveError(
                f"{self._path} inflates to more than {self.inflated:,} bytes, which no archive of images does: "
                "get it again, or pack the files without compression"
            )
