"""Readers of zip and tar archives: members are read in place, nothing is unpacked to disk.

Archives come from outside, so nothing in them is trusted: sizes are limited while inflating, checksums are compared,
and no name is used as a path on this machine.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

from histopipe.core.errors import ArchiveError, one_line
from histopipe.core.names import CONTROL_IN_NAME, has_control_characters, with_slashes
from histopipe.ingest.archives.limits import DEFAULT_LIMIT, MemberLimit, ReadBudget
from histopipe.ingest.archives.links import LONGEST_TARGET, Link, follow_links
from histopipe.ingest.archives.member import Member
from histopipe.ingest.datasets import MemberRejected

MAX_MEMBER_BYTES = 16 * 2**20  # an uncompressed RGBA image of 4 million pixels, the largest that is decoded
MAX_PACKING_BYTES = 64 * 2**10  # that compression may add to a member; at worst, deflate adds 5 bytes to every 16 kB
MAX_TAR_HEADER_BYTES = 256 * 2**10  # long names and extended attributes, each at most 64 kB on Linux
MAX_GLOBAL_ATTRIBUTES = 64  # of a tar; they are applied to each of its members

SPECIAL_FILE = "device, pipe or socket"
SPARSE_FILE = "sparse file"

DAMAGE = (  # what the standard library raises for damaged archives
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,
    MemoryError,  # LZMA may ask for a dictionary of 4 GiB
)

Payload = Callable[[], bytes]
"""A function that returns the content of a member, in any process, and raises MemberRejected if it is damaged."""


class Archive(Protocol):
    """An open archive. Its members' payloads may be sent to other processes."""

    @property
    def members(self) -> Sequence[Member]:
        """Return the files in the archive's order."""
        ...

    def payloads(self, members: Sequence[Member]) -> Iterator[Payload]:
        """Return one payload per member; `members` must be in the archive's order."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def open_archive(path: Path, limit: MemberLimit = DEFAULT_LIMIT) -> Archive:
    """Open a zip or tar archive, compressed or not, and list its members.

    Raises:
        ArchiveError: the file is no archive, is empty, truncated or damaged, or has too many members.

    Example:
        >>> archive = open_archive(Path("patches.zip"))
        >>> contents = [read() for read in archive.payloads(archive.members)]
        >>> archive.close()
    """
    if path.stat().st_size == 0:
        raise ArchiveError(f"{path} is empty (0 bytes): download the archive again")
    if is_zip(path):
        return ZipArchive(path, limit)
    with path.open("rb") as stream:
        start = stream.read(4)
    if start == b"PK\x03\x04":
        raise ArchiveError(f"{path} is a truncated zip (its directory is missing): download it again")
    if start[:2] == b"\x1f\x8b" or start[:3] == b"BZh" or start == b"\xfd7zX" or _is_plain_tar(path):
        return TarArchive(path, limit)
    raise ArchiveError(f"{path} is neither a zip nor a tar archive: set the source to the archive itself")


def require_usable_member(member: Member) -> None:
    """Check that a member may be read.

    Raises:
        MemberRejected: the path is unsafe, the name isn't text or contains a control character, or the member is a
            link or device that can't be read, encrypted or absurdly large.
    """
    name = member.name
    if not name.isascii() and not _is_text(name):
        raise MemberRejected("name is not valid text")
    if not name.isprintable() and has_control_characters(name):
        raise MemberRejected(CONTROL_IN_NAME)
    # most names contain neither, so the quick search of the whole name comes first
    climbs = ".." in name and ".." in name.split("/")
    drive = ":" in name and ":" in name.partition("/")[0]
    if climbs or drive or "\\" in name or name in ("", ".") or name.startswith("/") or name.endswith("/."):
        raise MemberRejected("unsafe path")
    if member.fault:
        raise MemberRejected(member.fault)
    if member.encrypted:
        raise MemberRejected("encrypted")
    if member.size > MAX_MEMBER_BYTES:
        raise MemberRejected("too large for a patch")
    if member.stored > MAX_MEMBER_BYTES + MAX_PACKING_BYTES:
        raise MemberRejected("damaged member")


def _is_text(name: str) -> bool:
    """Return whether a name can be encoded. Tar names that aren't UTF-8 are read with lone surrogates, which can't."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_zip(path: Path) -> bool:
    """Return whether a file ends with a zip's directory."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # a zip in several parts; opening it explains that better
        return True


def is_tar(path: Path) -> bool:
    """Return whether a file starts with the header of a tar, compressed or not."""
    try:
        with _open_tar(path):
            return True
    except DAMAGE:
        return False


class ZipArchive:
    """An open zip file. Members are read by position, so other processes needn't list it again."""

    def __init__(self, path: Path, limit: MemberLimit = DEFAULT_LIMIT) -> None:
        self._path = path
        self._size = path.stat().st_size
        budget = ReadBudget(path, limit)
        try:
            with path.open("rb") as stream:
                members = _resolve_links(stream, _list_directory(stream, budget), budget)
                self.members = _expand_nested_zips(stream, members, budget)
        except DAMAGE as problem:
            raise ArchiveError(f"{path} is a damaged zip ({one_line(problem)}): download it again") from None

    def payloads(self, members: Sequence[Member]) -> Iterator[Payload]:
        """Return one payload per member; they may be in any order."""
        return (ZipPayload(self._path, self._size, member) for member in members)  # type: ignore[misc]  # callable

    def close(self) -> None:
        """Close the file."""
        _close_shared_files()


class ZipPayload(NamedTuple):
    """A callable that reads one member of a zip.

    Attributes:
        path: path of the zip.
        size: size of the zip in bytes.
        member: the member to read.
    """

    path: Path
    size: int
    member: Member

    def __call__(self) -> bytes:
        """Return the content of the member."""
        return read_zip_member(*self)


def read_zip_member(path: Path, size: int, member: Member) -> bytes:
    """Read and inflate one member of a zip.

    Args:
        path: path of the zip.
        size: size of the zip in bytes.
        member: the member to read.

    Raises:
        MemberRejected: the position, header, length or checksum of the member is wrong.
    """
    if member.offset < 0 or member.offset + member.stored > size:
        raise MemberRejected("damaged member")
    return _read_zip_member(_open_shared_file(path).fileno(), member)


def _read_zip_member(descriptor: int, member: Member) -> bytes:
    header = os.pread(descriptor, 30, member.offset)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise MemberRejected("damaged member")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = member.offset + 30 + name_length + extra_length
    return _inflate(os.pread(descriptor, member.stored, start), member)


def read_range(path: Path, start: int, length: int) -> bytes:
    """Read `length` bytes of a file, which stays open until its archive is closed or the worker process ends."""
    return os.pread(_open_shared_file(path).fileno(), length, start)


@lru_cache(maxsize=2)
def _open_shared_file(path: Path) -> BinaryIO:
    return path.open("rb")


def _close_shared_files() -> None:
    _open_shared_file.cache_clear()


def list_zip(path: Path, limit: MemberLimit = DEFAULT_LIMIT) -> list[Member]:
    """List the files in a zip's directory, without following links or opening nested zips.

    Raises:
        ArchiveError: the zip has too many members.
        Exception: one of `DAMAGE`, if the directory can't be read.
    """
    with path.open("rb") as stream:
        return _list_directory(stream, ReadBudget(path, limit))


def _list_directory(file: BinaryIO, budget: ReadBudget) -> list[Member]:
    counted = _count_entries(file, budget)
    with zipfile.ZipFile(file) as archive:  # closed at once: its list takes three times the memory of ours
        budget.count_members(len(archive.filelist) - counted)
        # not entry.is_dir(), which fails on an empty name
        return [member for entry in archive.filelist if not (member := _make_zip_member(entry)).name.endswith("/")]


_ENTRY_BYTES = 46  # of a member in a zip's directory, without name, attributes and comment


def _count_entries(file: BinaryIO, budget: ReadBudget) -> int:
    """Count the members of a zip that may have too many, before the standard library creates an object for each.

    Returns:
        The number of members; 0 if the directory is too short to hold too many, or can't be found.

    Raises:
        ArchiveError: the zip has too many members.
    """
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # [0] signature, [5] size, [9] position
    if not end:
        return 0
    size, start = end[5], end[9] - end[5] - (76 if end[0] == b"PK\x06\x06" else 0)  # zip64 has two more records
    if start < 0:
        return 0  # opening the zip explains the damage better
    budget.count_listing(size)
    if size // _ENTRY_BYTES <= budget.members:
        return 0
    file.seek(start)
    directory, position, count = file.read(size), 0, 0
    while position + _ENTRY_BYTES <= len(directory) and count <= budget.members:
        position += _ENTRY_BYTES + sum(_NAME_LENGTHS.unpack_from(directory, position + 28))
        count += 1
    budget.count_members(count)
    return count


_NAME_LENGTHS = struct.Struct("<HHH")  # of name, attributes and comment
_LINK = ""  # the fault of a link whose target hasn't been read yet


def _resolve_links(file: BinaryIO, members: list[Member], budget: ReadBudget) -> list[Member]:
    """Replace the symbolic links of a zip by what they point to; the content of a link is the path of its target."""
    links = [member for member in members if member.fault == _LINK]
    if not links:
        return members
    size = os.fstat(file.fileno()).st_size
    readable, damaged = [], []
    for link in links:
        try:
            readable.append(Link(link._replace(fault=None), _read_link_target(file.fileno(), size, link)))
        except MemberRejected as reason:
            damaged.append(link._replace(fault=str(reason)))
    return follow_links([member for member in members if member.fault != _LINK] + damaged, readable, budget)


def _read_link_target(descriptor: int, size: int, link: Member) -> str:
    if link.encrypted:
        raise MemberRejected("encrypted")
    inside = 0 <= link.offset <= size - link.stored
    if not inside or link.size > LONGEST_TARGET or link.stored > LONGEST_TARGET + MAX_PACKING_BYTES:
        raise MemberRejected("damaged member")
    return with_slashes(_read_zip_member(descriptor, link).decode("utf-8", "surrogateescape"))


def _expand_nested_zips(file: BinaryIO, members: list[Member], budget: ReadBudget) -> list[Member]:
    """Replace each zip among the members by its own members; fetch packs a folder of archives into such a zip.

    Only an uncompressed member can be read in place. A compressed or damaged zip remains a member itself.
    """
    if not any(member.name.endswith(_ZIPS) for member in members):
        return members
    return [nested for member in members for nested in _list_nested_zip(file, member, budget) or [member]]


def _list_nested_zip(file: BinaryIO, member: Member, budget: ReadBudget) -> list[Member]:
    """List the files of a nested zip as members of the outer one; the list is empty if it can't be read in place."""
    if not member.name.endswith(_ZIPS) or member.method != zipfile.ZIP_STORED or member.encrypted or member.fault:
        return []
    start = _find_content_start(file.fileno(), member)
    try:
        entries = _list_directory(io.BufferedReader(_FileSection(file.fileno(), start, member.stored)), budget)
    except DAMAGE:
        return []
    # a position beyond the end of the nested zip becomes one that is invalid in the outer zip too
    nested = [
        entry._replace(offset=start + entry.offset if 0 <= entry.offset <= member.stored - entry.stored else -1)
        for entry in entries
    ]
    folder = member.name[: -len(".zip")]
    return [entry._replace(name=f"{folder}/{entry.name}") for entry in _resolve_links(file, nested, budget)]


def _find_content_start(descriptor: int, member: Member) -> int:
    """Return the position of a member's content, which follows its header."""
    header = os.pread(descriptor, 30, member.offset) if member.offset >= 0 else b""
    lengths = struct.unpack("<HH", header[26:30]) if len(header) == 30 else (0, 0)
    return member.offset + 30 + sum(lengths)


_ZIPS = (".zip", ".ZIP")


class _FileSection(io.RawIOBase):
    """A section of an open file, readable as a file."""

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        self._descriptor, self._start, self._length = descriptor, start, length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise ValueError("before the start")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._length - self._position))
        content = os.pread(self._descriptor, size, self._start + self._position)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _make_zip_member(entry: zipfile.ZipInfo) -> Member:
    name = entry.filename
    return Member(
        with_slashes(name) if "\\" in name else name,
        entry.file_size,
        entry.header_offset,
        entry.compress_size,
        entry.compress_type,
        entry.CRC,
        bool(entry.flag_bits & 1),
        _find_zip_fault(entry.external_attr >> 16) if entry.external_attr >> 28 else None,
    )


def _find_zip_fault(mode: int) -> str | None:
    """Return the fault of a member with this Unix mode; None for files, folders and mode 0 (other systems)."""
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        return _LINK
    return SPECIAL_FILE if kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK) else None


def _inflate(packed: bytes, member: Member) -> bytes:
    if member.method == zipfile.ZIP_STORED:
        return _verify(packed, member)
    inflater = _INFLATERS.get(member.method)
    if inflater is None:
        raise MemberRejected("unsupported compression method")
    try:
        content = inflater(packed, member.size + 1)
    except DAMAGE:
        raise MemberRejected("damaged member") from None
    return _verify(content, member)


def _inflate_deflate(packed: bytes, limit: int) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, limit)


def _inflate_bzip2(packed: bytes, limit: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(packed, limit)


def _inflate_lzma(packed: bytes, limit: int) -> bytes:
    """Inflate an LZMA member: version, length of the properties, five bytes of them, stream (APPNOTE 5.8.8).

    A stream may ask for a dictionary of up to 4 GiB; only as much is allocated as the content can refer to.
    """
    _, properties, packing, dictionary = struct.unpack_from("<HHBI", packed)
    lc, lp, pb = packing % 9, packing // 9 % 5, packing // 45
    chain = [{"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": min(dictionary, max(4096, limit))}]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=chain).decompress(packed[4 + properties :], limit)


_INFLATERS = {
    zipfile.ZIP_DEFLATED: _inflate_deflate,
    zipfile.ZIP_BZIP2: _inflate_bzip2,
    zipfile.ZIP_LZMA: _inflate_lzma,
}


def _verify(content: bytes, member: Member) -> bytes:
    if len(content) != member.size or zlib.crc32(content) != member.crc:
        raise MemberRejected("damaged member")
    return content


class TarArchive:
    """An open tar file. An uncompressed tar is read by position, a compressed one as one stream from start to end."""

    def __init__(self, path: Path, limit: MemberLimit = DEFAULT_LIMIT) -> None:
        self._path = path
        self._plain = _is_plain_tar(path)
        self._limit = limit
        budget = ReadBudget(path, limit)
        try:
            with _open_tar(path, budget=budget) as archive:
                members, links = _list_tar(archive)
                if not self._plain:
                    _read_to_end(archive, budget)
        except DAMAGE as problem:
            damage = f"a truncated or damaged tar ({one_line(problem)})"
            raise ArchiveError(f"{path} is {damage}: download it again") from None
        self.members = follow_links(members, links, budget)

    def payloads(self, members: Sequence[Member]) -> Iterator[Payload]:
        """Return one payload per member; those of a compressed tar are read as they are iterated over."""
        if self._plain:
            return (partial(read_range, self._path, member.offset, member.size) for member in members)
        return self._stream_payloads(members)

    def _stream_payloads(self, members: Sequence[Member]) -> Iterator[Payload]:
        counts = Counter(member.offset for member in members)  # a file and the links to it have the same offset
        with _open_tar(self._path, budget=ReadBudget(self._path, self._limit)) as archive:
            for entry in _iterate_entries(archive):
                if entry.offset_data in counts and entry.isreg():
                    stream = archive.extractfile(entry)
                    content = stream.read() if stream else b""
                    yield from [partial(_return_content, content)] * counts[entry.offset_data]

    def close(self) -> None:
        """Close the file."""
        _close_shared_files()


_TAR_HEADERS = (  # extended headers, which precede the member that they describe
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_NO_FILES = (b"V", b"D")  # GNU: name of a volume, and list of a folder's content
_DIGITS = re.compile(rb"[0-9]{100}")


class _StrictTarInfo(tarfile.TarInfo):
    """A tar header that is parsed more strictly than tarfile does.

    tarfile mistakes an unreadable header, or a file that just stops, for the end of the archive, which is a block of
    zeros. It also reads any number of headers of any length into memory, loops forever after a negative size
    (CVE-2025-8194), takes hours for a header of digits (CVE-2024-6232), and trusts the map of a sparse file.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _StrictTarInfo:
        try:
            entry = super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as problem:
            raise tarfile.ReadError(f"{problem} at byte {archive.offset}") from None
        if entry.size < 0 or archive.offset < entry.offset_data:
            raise tarfile.ReadError(f"negative size at byte {entry.offset}")
        if not isinstance(archive.fileobj, io.BufferedReader):  # compressed
            _get_budget(archive).check_inflated(archive.offset)
        return entry

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        # tarfile documents this method as the one to override; it sees every header before its content is read
        extended = self.type in _TAR_HEADERS
        if self.size < 0 or (extended and self.size > MAX_TAR_HEADER_BYTES):
            raise tarfile.ReadError(f"header of absurd size at byte {self.offset}")
        if len(archive.pax_headers) > MAX_GLOBAL_ATTRIBUTES:
            raise tarfile.ReadError(f"header of absurd size before byte {self.offset}")
        _get_budget(archive).count_members()
        _get_budget(archive).count_listing(self.size if extended else 0)
        return super()._proc_member(archive)  # type: ignore[misc]

    def _proc_pax(self, archive: tarfile.TarFile) -> Any:
        stream = archive.fileobj
        assert stream is not None
        header = stream.read(self._block(self.size))  # type: ignore[attr-defined]
        if _DIGITS.search(header):
            raise tarfile.ReadError(f"damaged header at byte {self.offset}")
        archive.fileobj = _ReplayedHeader(archive, stream, header)  # type: ignore[assignment]
        return super()._proc_pax(archive)  # type: ignore[misc]

    def _proc_sparse(self, archive: tarfile.TarFile) -> _StrictTarInfo:
        _, extended, _ = self._sparse_structs  # type: ignore[attr-defined]
        stream = archive.fileobj
        assert stream is not None
        while extended:
            _get_budget(archive).count_listing(tarfile.BLOCKSIZE)
            block = stream.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("unexpected end of data")
            extended = bool(block[504])
        self.sparse = []  # type: ignore[assignment]
        self.offset_data = stream.tell()
        archive.offset = self.offset_data + self._block(self.size)  # type: ignore[attr-defined]
        return self

    def _proc_gnusparse_00(self, entry: Any, *_: Any) -> None:
        entry.sparse = []

    _proc_gnusparse_01 = _proc_gnusparse_10 = _proc_gnusparse_00


class _ReplayedHeader:
    """A file object that returns a header that was already read, then puts the tar's stream back in place."""

    def __init__(self, archive: tarfile.TarFile, stream: Any, header: bytes) -> None:
        self._archive, self._stream, self._header = archive, stream, header

    def read(self, size: int) -> bytes:
        """Return the header, whatever `size` is, and restore the stream."""
        self._archive.fileobj = self._stream
        return self._header


class _BudgetedTarFile(tarfile.TarFile):
    """A tar file with a budget for what may be listed of it."""

    tarinfo = _StrictTarInfo
    members: list[Any]  # the headers read so far

    def __init__(self, *args: Any, budget: ReadBudget, **options: Any) -> None:
        self.budget = budget  # must be set before the first header is read
        super().__init__(*args, **options)


def _get_budget(archive: tarfile.TarFile) -> ReadBudget:
    assert isinstance(archive, _BudgetedTarFile)
    return archive.budget


def _open_tar(path: Path, mode: Literal["r:*", "r:"] = "r:*", budget: ReadBudget | None = None) -> _BudgetedTarFile:
    return _BudgetedTarFile.open(path, mode, budget=budget or ReadBudget(path, DEFAULT_LIMIT))  # type: ignore[call-overload]


def _is_plain_tar(path: Path) -> bool:
    try:
        with _open_tar(path, "r:"):
            return True
    except DAMAGE:
        return False


def _iterate_entries(archive: _BudgetedTarFile) -> Iterator[tarfile.TarInfo]:
    """Yield each header and free it; tarfile keeps all, which takes ten times the memory of our members."""
    while (entry := archive.next()) is not None:
        archive.members.clear()
        yield entry


def _list_tar(archive: _BudgetedTarFile) -> tuple[list[Member], list[Link]]:
    """List the files (including devices, pipes and sparse files, with a fault) and the links."""
    members, links = [], []
    for entry in _iterate_entries(archive):
        if entry.issym() or entry.islnk():
            links.append(Link(_make_tar_member(entry), entry.linkname, entry.islnk()))
        elif not entry.isdir() and entry.type not in _NO_FILES:
            members.append(_make_tar_member(entry))
    return members, links


def _read_to_end(archive: tarfile.TarFile, budget: ReadBudget) -> None:
    """Read the padding after the last member, so that the checksum of the compressed stream is verified."""
    while archive.fileobj and archive.fileobj.read(2**16):
        budget.check_inflated(archive.fileobj.tell())


def _make_tar_member(entry: tarfile.TarInfo) -> Member:
    name = entry.name
    while name.startswith("./"):  # `tar c .//10253` writes it several times
        name = name[2:].lstrip("/")
    name = with_slashes(name)
    return Member(name, entry.size, entry.offset_data, entry.size, fault=_find_tar_fault(entry))


def _find_tar_fault(entry: tarfile.TarInfo) -> str | None:
    if entry.issparse():
        return SPARSE_FILE
    return None if entry.isreg() or entry.issym() or entry.islnk() else SPECIAL_FILE


def _return_content(content: bytes) -> bytes:
    return content
