"""Limits on what an archive may list and inflate to.

An archive of 200 kB can claim to hold millions of members and terabytes of content.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from histopipe.core.errors import ArchiveError
from histopipe.core.params import MAX_MEMBERS

MAX_INFLATION = 100  # times the size of the archive; compressed images hardly shrink further, blank bitmaps do
MIN_INFLATED_BYTES = 2**30  # any archive may inflate to this size
LISTING_BYTES = 2**10  # names and other headers per member, on average
MIN_LISTING_BYTES = 64 * 2**20  # any archive may use this much for names and headers


class MemberLimit(NamedTuple):
    """The number of members that an archive may have.

    Attributes:
        maximum: maximum number of files, folders and links, including those of nested archives.
        remedy: advice in the error message for an archive that has more.
    """

    maximum: int = MAX_MEMBERS
    remedy: str = "raise ingest.max_members in params.yaml if that is intended, or split the archive"


DEFAULT_LIMIT = MemberLimit()


class ReadBudget:
    """A count of what an archive may still list.

    It is updated while the archive is read, so that a hostile archive is refused before it costs much time or memory.

    Args:
        path: path of the archive.
        limit: the number of members that it may have.
    """

    def __init__(self, path: Path, limit: MemberLimit) -> None:
        self._path, self._limit = path, limit
        self.members = limit.maximum
        self._listing_bytes = max(MIN_LISTING_BYTES, limit.maximum * LISTING_BYTES)
        self.inflated = max(MIN_INFLATED_BYTES, path.stat().st_size * MAX_INFLATION)

    def count_members(self, count: int = 1) -> None:
        """Subtract members from the budget.

        Raises:
            ArchiveError: the archive has too many.
        """
        self.members -= count
        if self.members < 0:
            raise ArchiveError(
                f"{self._path} holds more than {self._limit.maximum:,} files, folders and links: {self._limit.remedy}"
            )

    def count_listing(self, size: int) -> None:
        """Subtract bytes of names and headers from the budget.

        Raises:
            ArchiveError: the names and headers are too long.
        """
        self._listing_bytes -= size
        if self._listing_bytes < 0:
            raise ArchiveError(
                f"{self._path} has absurdly long names or headers (more than {LISTING_BYTES:,} bytes per member on "
                "average): pack the files again"
            )

    def check_inflated(self, size: int) -> None:
        """Check that a compressed archive inflates to no more than it may.

        Args:
            size: bytes that it has inflated to, or is about to.

        Raises:
            ArchiveError: `size` is above the limit.
        """
        if size > self.inflated:
            raise ArchiveError(
                f"{self._path} inflates to more than {self.inflated:,} bytes, which no archive of images does: "
                "download it again, or pack the files without compression"
            )
