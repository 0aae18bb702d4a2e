"""Reading members of zip and tar archives where they lie: nothing is ever unpacked.

Archives come from outside, so nothing they say is trusted: sizes are bounded while inflating, checksums are
compared, and names are only names.
"""

from __future__ import annotations

import os
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

from histopipe.datasets import MemberRejected
from histopipe.errors import ArchiveError

MAX_MEMBER_BYTES = 32 * 2**20  # a patch or field of view; a BreakHis image takes 0.5 MB

Payload = Callable[[], bytes]
"""Gives a member's bytes when called, on whichever thread; raises MemberRejected for a damaged member."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive.

    Attributes:
        size: bytes when inflated, as the archive claims.
        offset: where its header (zip) or its bytes (tar) start in the archive.
        stored: bytes it takes in the archive.
        crc: CRC-32 of its content, where the archive tells.
    """

    name: str
    size: int
    offset: int
    stored: int
    method: int = zipfile.ZIP_STORED
    crc: int | None = None
    encrypted: bool = False


class Archive(Protocol):
    """An open archive. Its members' payloads may be read on several threads at once."""

    @property
    def members(self) -> Sequence[Member]:
        """Its files, in the archive's order."""
        ...

    def payloads(self, members: Sequence[Member]) -> Iterator[Payload]:
        """One payload for each of `members`, which stand in the archive's order."""
        ...

    def close(self) -> None:
        """Give the file back."""
        ...


def open_archive(path: Path) -> Archive:
    """Open a zip or tar archive, however compressed, and list its members.

    Raises:
        ArchiveError: not an archive, or one that is empty, truncated or damaged.
    """
    if path.stat().st_size == 0:
        raise ArchiveError(f"{path} is empty (0 bytes): get the archive again")
    if zipfile.is_zipfile(path):
        return ZipArchive(path)
    with path.open("rb") as stream:
        start = stream.read(4)
    if start == b"PK\x03\x04":
        raise ArchiveError(f"{path} is a truncated zip (its directory is missing): download it again")
    if start[:2] == b"\x1f\x8b" or start[:3] == b"BZh" or start == b"\xfd7zX" or tarfile.is_tarfile(path):
        return TarArchive(path)
    raise ArchiveError(f"{path} is neither a zip nor a tar archive: point the source at the archive itself")


def check_member(member: Member) -> None:
    """Refuse members that no patch archive needs.

    Raises:
        MemberRejected: an unsafe path, an encrypted member or one of absurd size.
    """
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in path.parts[0]:
        raise MemberRejected("unsafe path")
    if member.encrypted:
        raise MemberRejected("encrypted")
    if member.size > MAX_MEMBER_BYTES:
        raise MemberRejected("too large for a patch")


class ZipArchive:
    """A zip file. Members are read by position, so threads neither wait for each other nor list it again."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as problem:
            raise ArchiveError(f"{path} is a damaged zip ({problem}): download it again") from None
        self._file = path.open("rb")
        self._exclusive = threading.Lock()
        self.members = [_zip_member(entry) for entry in self._zip.infolist() if not entry.is_dir()]

    def payloads(self, members: Sequence[Member]) -> Iterator[Payload]:
        """One payload for each member, in any order."""
        return (partial(self.read, member) for member in members)

    def read(self, member: Member) -> bytes:
        """Inflate one member.

        Raises:
            MemberRejected: its header, length or checksum is wrong.
        """
        if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return self._read_rare(member)
        header = os.pread(self._file.fileno(), 30, member.offset)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise MemberRejected("damaged member")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = member.offset + 30 + name_length + extra_length
        return _inflated(os.pread(self._file.fileno(), member.stored, start), member)

    def _read_rare(self, member: Member) -> bytes:
        """Members packed with bzip2 or LZMA: slow, one at a time, through the standard library."""
        try:
            with self._exclusive, self._zip.open(member.name) as stream:
                content = stream.read(member.size + 1)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError):
            raise MemberRejected("damaged member") from None
        return _checked(content, member)

    def close(self) -> None:
        """Give the file back."""
        self._zip.close()
        self._file.close()


def _zip_member(entry: zipfile.ZipInfo) -> Member:
    return Member(
        name=entry.filename,
        size=entry.file_size,
        offset=entry.header_offset,
        stored=entry.compress_size,
        method=entry.compress_type,
        crc=entry.CRC,
        encrypted=bool(entry.flag_bits & 1),
    )


def _inflated(packed: bytes, member: Member) -> bytes:
    if member.method == zipfile.ZIP_STORED:
        return _checked(packed, member)
    try:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, member.size + 1)
    except zlib.error:
        raise MemberRejected("damaged member") from None
    return _checked(content, member)


def _checked(content: bytes, member: Member) -> bytes:
    if len(content) != member.size or zlib.crc32(content) != member.crc:
        raise MemberRejected("damaged member")
    return content


class TarArchive:
    """A tar file. Plain ones are read by position; compressed ones in one stream, from front to back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        self._plain = _is_plain_tar(path)
        try:
            with tarfile.open(path) as archive:
                self.members = [_tar_member(entry) for entry in archive if entry.isreg()]
        except (tarfile.TarError, OSError, EOFError, zlib.error) as problem:
            raise ArchiveError(f"{path} is a truncated or damaged tar ({problem}): download it again") from None
        if self._plain and self.members and _end(self.members[-1]) > path.stat().st_size:
            raise ArchiveError(f"{path} is a truncated tar: download it again")

    def payloads(self, members: Sequence[Member]) -> Iterator[Payload]:
        """One payload for each member; of a compressed tar, read when its turn comes."""
        if self._plain:
            return (partial(os.pread, self._file.fileno(), member.size, member.offset) for member in members)
        return self._streamed(members)

    def _streamed(self, members: Sequence[Member]) -> Iterator[Payload]:
        wanted = {member.offset for member in members}
        with tarfile.open(self._path) as archive:
            for entry in archive:
                if entry.offset_data in wanted and entry.isreg():
                    stream = archive.extractfile(entry)
                    yield partial(_given, stream.read() if stream else b"")

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def _is_plain_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:"):
            return True
    except (tarfile.TarError, OSError, EOFError):
        return False


def _tar_member(entry: tarfile.TarInfo) -> Member:
    return Member(entry.name.removeprefix("./"), entry.size, entry.offset_data, entry.size)


def _end(member: Member) -> int:
    return member.offset + member.stored


def _given(content: bytes) -> bytes:
    return content
