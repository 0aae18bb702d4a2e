"""Reading members of zip and tar archives where they lie: nothing is ever unpacked.

Archives come from outside, so nothing they say is trusted: sizes are bounded while inflating, checksums are
compared, and names are only names.
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
from histopipe.core.names import CONTROL_IN_NAME, holds_control, with_slashes
from histopipe.ingest.archives.limits import USUAL_LIMIT, Allowance, MemberLimit
from histopipe.ingest.archives.links import LONGEST_TARGET, Link, follow_links
from histopipe.ingest.archives.member import Member
from histopipe.ingest.datasets import MemberRejected

MAX_MEMBER_BYTES = 16 * 2**20  # an uncompressed image of 4 million pixels, the most that are decoded, with transparency
MAX_PACKING_BYTES = 64 * 2**10  # by which packing may lengthen a member; deflate adds 5 bytes to every 16 kB at worst
MAX_TAR_HEADER_BYTES = 256 * 2**10  # long names and extended attributes, which Linux bounds at 64 kB each
MAX_GLOBAL_ATTRIBUTES = 64  # of a tar as a whole, which are applied to each of its members

SPECIAL_FILE = "device, pipe or socket"
SPARSE_FILE = "sparse file, of which the archive holds parts"

DAMAGE = (  # what the standard library raises for archives that aren't what they say
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
"""Gives a member's bytes when called, in whichever process; raises MemberRejected for a damaged member."""


class Archive(Protocol):
    """An open archive. Its members' payloads may be sent to other processes."""

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


def open_archive(path: Path, limit: MemberLimit = USUAL_LIMIT) -> Archive:
    """Open a zip or tar archive, however compressed, and list its members.

    Raises:
        ArchiveError: not an archive, one that is empty, truncated or damaged, or one with too many members.
    """
    if path.stat().st_size == 0:
        raise ArchiveError(f"{path} is empty (0 bytes): get the archive again")
    if is_zip(path):
        return ZipArchive(path, limit)
    with path.open("rb") as stream:
        start = stream.read(4)
    if start == b"PK\x03\x04":
        raise ArchiveError(f"{path} is a truncated zip (its directory is missing): download it again")
    if start[:2] == b"\x1f\x8b" or start[:3] == b"BZh" or start == b"\xfd7zX" or _is_plain_tar(path):
        return TarArchive(path, limit)
    raise ArchiveError(f"{path} is neither a zip nor a tar archive: point the source at the archive itself")


def check_member(member: Member) -> None:
    """Refuse members that no patch archive needs.

    Raises:
        MemberRejected: an unsafe path, a name that isn't text or holds a control character, a link or device that
            can't be read, an encrypted member or one of absurd size.
    """
    name = member.name
    if not name.isascii() and not _is_text(name):
        raise MemberRejected("name is not valid text")
    if not name.isprintable() and holds_control(name):
        raise MemberRejected(CONTROL_IN_NAME)
    # looked for in the whole name first, which is quick where it isn't there
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
    """Whether it can be written down: tar names in another encoding than UTF-8 come with lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_zip(path: Path) -> bool:
    """Whether a file ends as a zip does."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # one in several parts, of which opening it says more
        return True


def is_tar(path: Path) -> bool:
    """Whether a file starts with a tar's first header, however compressed."""
    try:
        with _opened_tar(path):
            return True
    except DAMAGE:
        return False


class ZipArchive:
    """A zip file. Members are read by position, so other processes needn't list it again."""

    def __init__(self, path: Path, limit: MemberLimit = USUAL_LIMIT) -> None:
        self._path = path
        self._size = path.stat().st_size
        allowance = Allowance(path, limit)
        try:
            with path.open("rb") as stream:
                listed = _with_links(stream, _listed(stream, allowance), allowance)
                self.members = _with_inner(stream, listed, allowance)
        except DAMAGE as problem:
            raise ArchiveError(f"{path} is a damaged zip ({one_line(problem)}): download it again") from None

    def payloads(self, members: Sequence[Member]) -> Iterator[Payload]:
        """One payload for each member, in any order."""
        return (ZipPayload(self._path, self._size, member) for member in members)  # type: ignore[misc]  # it is called

    def close(self) -> None:
        """Give the file back."""
        _close_shared()


class ZipPayload(NamedTuple):
    """A member of the zip at `path`, which is `size` bytes long."""

    path: Path
    size: int
    member: Member

    def __call__(self) -> bytes:
        """Read and check it."""
        return read_zip_member(*self)


def read_zip_member(path: Path, size: int, member: Member) -> bytes:
    """Inflate one member of the zip at `path`, which is `size` bytes long.

    Raises:
        MemberRejected: its place, header, length or checksum is wrong.
    """
    if member.offset < 0 or member.offset + member.stored > size:
        raise MemberRejected("damaged member")
    return _read_zip_member(_shared_file(path).fileno(), member)


def _read_zip_member(descriptor: int, member: Member) -> bytes:
    header = os.pread(descriptor, 30, member.offset)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise MemberRejected("damaged member")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = member.offset + 30 + name_length + extra_length
    return _inflated(os.pread(descriptor, member.stored, start), member)


def read_range(path: Path, start: int, length: int) -> bytes:
    """Bytes of a file, which stays open until `close` of its archive or the end of a worker."""
    return os.pread(_shared_file(path).fileno(), length, start)


@lru_cache(maxsize=2)
def _shared_file(path: Path) -> BinaryIO:
    return path.open("rb")


def _close_shared() -> None:
    _shared_file.cache_clear()


def list_zip(path: Path, limit: MemberLimit = USUAL_LIMIT) -> list[Member]:
    """List a zip's files as its directory has them: links aren't followed, nor zips within it opened.

    Raises:
        ArchiveError: there are too many.
        Exception: one of `DAMAGE`.
    """
    with path.open("rb") as stream:
        return _listed(stream, Allowance(path, limit))


def _listed(file: BinaryIO, allowance: Allowance) -> list[Member]:
    counted = _count_entries(file, allowance)
    with zipfile.ZipFile(file) as listed:  # let go at once: its own list takes three times what ours does
        allowance.take_members(len(listed.filelist) - counted)
        # not entry.is_dir(), which fails on an empty name
        return [member for entry in listed.filelist if not (member := _zip_member(entry)).name.endswith("/")]


_ENTRY_BYTES = 46  # of a zip's directory for each member, beside name, attributes and comment


def _count_entries(file: BinaryIO, allowance: Allowance) -> int:
    """Count a zip's members before the standard library makes an object of each, where there may be too many.

    Returns:
        How many were counted: 0 where the directory is too short for too many, or can't be found.

    Raises:
        ArchiveError: there are too many.
    """
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # [0] signature, [5] size, [9] own place
    if not end:
        return 0
    size, start = end[5], end[9] - end[5] - (76 if end[0] == b"PK\x06\x06" else 0)  # the long form has two records
    if start < 0:
        return 0  # which opening it says better
    allowance.take_listing(size)
    if size // _ENTRY_BYTES <= allowance.members:
        return 0
    file.seek(start)
    directory, place, count = file.read(size), 0, 0
    while place + _ENTRY_BYTES <= len(directory) and count <= allowance.members:
        place += _ENTRY_BYTES + sum(_NAME_LENGTHS.unpack_from(directory, place + 28))
        count += 1
    allowance.take_members(count)
    return count


_NAME_LENGTHS = struct.Struct("<HHH")  # of name, attributes and comment
_LINK = ""  # the fault of a link until it is known where it leads


def _with_links(file: BinaryIO, members: list[Member], allowance: Allowance) -> list[Member]:
    """The members with what symbolic links among them lead to; a link's content is the path of its target."""
    links = [member for member in members if member.fault == _LINK]
    if not links:
        return members
    size = os.fstat(file.fileno()).st_size
    known, damaged = [], []
    for link in links:
        try:
            known.append(Link(link._replace(fault=None), _link_target(file.fileno(), size, link)))
        except MemberRejected as reason:
            damaged.append(link._replace(fault=str(reason)))
    return follow_links([member for member in members if member.fault != _LINK] + damaged, known, allowance)


def _link_target(descriptor: int, size: int, link: Member) -> str:
    if link.encrypted:
        raise MemberRejected("encrypted")
    within = 0 <= link.offset <= size - link.stored
    if not within or link.size > LONGEST_TARGET or link.stored > LONGEST_TARGET + MAX_PACKING_BYTES:
        raise MemberRejected("damaged member")
    return with_slashes(_read_zip_member(descriptor, link).decode("utf-8", "surrogateescape"))


def _with_inner(file: BinaryIO, members: list[Member], allowance: Allowance) -> list[Member]:
    """The members, with those of each zip among them in its place: a folder of many archives becomes such a zip.

    Only what is stored as it is can be read where it lies. The others, and what can't be opened, stay what they are.
    """
    if not any(member.name.endswith(_ZIPS) for member in members):
        return members
    return [inner for member in members for inner in _inner(file, member, allowance) or [member]]


def _inner(file: BinaryIO, member: Member, allowance: Allowance) -> list[Member]:
    """What a zip within the zip holds, as members of the outer one; nothing where it can't be read there."""
    if not member.name.endswith(_ZIPS) or member.method != zipfile.ZIP_STORED or member.encrypted or member.fault:
        return []
    start = _content_start(file.fileno(), member)
    try:
        listed = _listed(io.BufferedReader(_Window(file.fileno(), start, member.stored)), allowance)
    except DAMAGE:
        return []
    # a place beyond the inner zip's end becomes one that the outer zip can't have either
    placed = [
        inner._replace(offset=start + inner.offset if 0 <= inner.offset <= member.stored - inner.stored else -1)
        for inner in listed
    ]
    folder = member.name[: -len(".zip")]
    return [inner._replace(name=f"{folder}/{inner.name}") for inner in _with_links(file, placed, allowance)]


def _content_start(descriptor: int, member: Member) -> int:
    """Where a member's bytes start, behind its own header."""
    header = os.pread(descriptor, 30, member.offset) if member.offset >= 0 else b""
    lengths = struct.unpack("<HH", header[26:30]) if len(header) == 30 else (0, 0)
    return member.offset + 30 + sum(lengths)


_ZIPS = (".zip", ".ZIP")


class _Window(io.RawIOBase):
    """A part of an open file, as a file of its own."""

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        self._descriptor, self._start, self._length = descriptor, start, length
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise ValueError("before the start")
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._length - self._place))
        content = os.pread(self._descriptor, wanted, self._start + self._place)
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


def _zip_member(entry: zipfile.ZipInfo) -> Member:
    name = entry.filename
    return Member(
        with_slashes(name) if "\\" in name else name,
        entry.file_size,
        entry.header_offset,
        entry.compress_size,
        entry.compress_type,
        entry.CRC,
        bool(entry.flag_bits & 1),
        _zip_fault(entry.external_attr >> 16) if entry.external_attr >> 28 else None,
    )


def _zip_fault(mode: int) -> str | None:
    """What is wrong with a member of this Unix mode, which other systems leave 0; nothing with files and folders."""
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        return _LINK
    return SPECIAL_FILE if kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK) else None


def _inflated(packed: bytes, member: Member) -> bytes:
    if member.method == zipfile.ZIP_STORED:
        return _checked(packed, member)
    inflate = _INFLATE.get(member.method)
    if inflate is None:
        raise MemberRejected("packed in a way that isn't read")
    try:
        content = inflate(packed, member.size + 1)
    except DAMAGE:
        raise MemberRejected("damaged member") from None
    return _checked(content, member)


def _from_deflate(packed: bytes, most: int) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most)


def _from_bzip2(packed: bytes, most: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(packed, most)


def _from_lzma(packed: bytes, most: int) -> bytes:
    """As zips hold it (APPNOTE 5.8.8): version, length of what follows, LZMA's own five bytes, the stream.

    Of the dictionary that it asks for, up to 4 GiB, no more is made than the content can refer to.
    """
    _, properties, packing, dictionary = struct.unpack_from("<HHBI", packed)
    lc, lp, pb = packing % 9, packing // 9 % 5, packing // 45
    chain = [{"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": min(dictionary, max(4096, most))}]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=chain).decompress(packed[4 + properties :], most)


_INFLATE = {zipfile.ZIP_DEFLATED: _from_deflate, zipfile.ZIP_BZIP2: _from_bzip2, zipfile.ZIP_LZMA: _from_lzma}


def _checked(content: bytes, member: Member) -> bytes:
    if len(content) != member.size or zlib.crc32(content) != member.crc:
        raise MemberRejected("damaged member")
    return content


class TarArchive:
    """A tar file. Plain ones are read by position; compressed ones in one stream, from front to back."""

    def __init__(self, path: Path, limit: MemberLimit = USUAL_LIMIT) -> None:
        self._path = path
        self._plain = _is_plain_tar(path)
        self._limit = limit
        allowance = Allowance(path, limit)
        try:
            with _opened_tar(path, allowance=allowance) as archive:
                members, links = _listed_tar(archive)
                if not self._plain:
                    _read_to_end(archive, allowance)
        except DAMAGE as problem:
            what = f"a truncated or damaged tar ({one_line(problem)})"
            raise ArchiveError(f"{path} is {what}: download it again") from None
        self.members = follow_links(members, links, allowance)

    def payloads(self, members: Sequence[Member]) -> Iterator[Payload]:
        """One payload for each member; of a compressed tar, read when its turn comes."""
        if self._plain:
            return (partial(read_range, self._path, member.offset, member.size) for member in members)
        return self._streamed(members)

    def _streamed(self, members: Sequence[Member]) -> Iterator[Payload]:
        wanted = Counter(member.offset for member in members)  # a file and the links to it lie at one place
        with _opened_tar(self._path, allowance=Allowance(self._path, self._limit)) as archive:
            for entry in _entries(archive):
                if entry.offset_data in wanted and entry.isreg():
                    stream = archive.extractfile(entry)
                    content = stream.read() if stream else b""
                    yield from [partial(_given, content)] * wanted[entry.offset_data]

    def close(self) -> None:
        """Give the file back."""
        _close_shared()


_TAR_HEADERS = (  # what stands before a member to say more of it
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_NO_FILES = (b"V", b"D")  # GNU's name of a volume, and its list of a folder's content
_DIGITS = re.compile(rb"[0-9]{100}")


class _TarEntry(tarfile.TarInfo):
    """A member's header, read without tarfile's leniency.

    tarfile takes a header that it can't read, and a file that just stops, for the end of the archive; the end is
    a block of zeros. It also reads headers of any length into memory, as many as there are, goes round in circles
    after a negative size (CVE-2025-8194), takes hours over a header of digits (CVE-2024-6232), and believes what a
    sparse file says of its holes.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _TarEntry:
        try:
            entry = super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as problem:
            raise tarfile.ReadError(f"{problem} at byte {archive.offset}") from None
        if entry.size < 0 or archive.offset < entry.offset_data:
            raise tarfile.ReadError(f"negative size at byte {entry.offset}")
        if not isinstance(archive.fileobj, io.BufferedReader):  # compressed
            _allowance(archive).check_inflated(archive.offset)
        return entry

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        # tarfile names this method as the one to override; it sees every header before what belongs to it is read
        extended = self.type in _TAR_HEADERS
        if self.size < 0 or (extended and self.size > MAX_TAR_HEADER_BYTES):
            raise tarfile.ReadError(f"header of absurd size at byte {self.offset}")
        if len(archive.pax_headers) > MAX_GLOBAL_ATTRIBUTES:
            raise tarfile.ReadError(f"header of absurd size before byte {self.offset}")
        _allowance(archive).take_members()
        _allowance(archive).take_listing(self.size if extended else 0)
        return super()._proc_member(archive)  # type: ignore[misc]

    def _proc_pax(self, archive: tarfile.TarFile) -> Any:
        stream = archive.fileobj
        assert stream is not None
        header = stream.read(self._block(self.size))  # type: ignore[attr-defined]
        if _DIGITS.search(header):
            raise tarfile.ReadError(f"damaged header at byte {self.offset}")
        archive.fileobj = _ReadAgain(archive, stream, header)  # type: ignore[assignment]
        return super()._proc_pax(archive)  # type: ignore[misc]

    def _proc_sparse(self, archive: tarfile.TarFile) -> _TarEntry:
        _, extended, _ = self._sparse_structs  # type: ignore[attr-defined]
        stream = archive.fileobj
        assert stream is not None
        while extended:
            _allowance(archive).take_listing(tarfile.BLOCKSIZE)
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


class _ReadAgain:
    """Gives what was read of a tar's stream once more, and the stream itself back."""

    def __init__(self, archive: tarfile.TarFile, stream: Any, header: bytes) -> None:
        self._archive, self._stream, self._header = archive, stream, header

    def read(self, size: int) -> bytes:
        """The header; `size` is what it was read with."""
        self._archive.fileobj = self._stream
        return self._header


class _Tar(tarfile.TarFile):
    """A tar that says how much may be listed of it."""

    tarinfo = _TarEntry
    members: list[Any]  # those that were read

    def __init__(self, *args: Any, allowance: Allowance, **options: Any) -> None:
        self.allowance = allowance  # before the first header is read
        super().__init__(*args, **options)


def _allowance(archive: tarfile.TarFile) -> Allowance:
    assert isinstance(archive, _Tar)
    return archive.allowance


def _opened_tar(path: Path, mode: Literal["r:*", "r:"] = "r:*", allowance: Allowance | None = None) -> _Tar:
    return _Tar.open(path, mode, allowance=allowance or Allowance(path, USUAL_LIMIT))  # type: ignore[call-overload]


def _is_plain_tar(path: Path) -> bool:
    try:
        with _opened_tar(path, "r:"):
            return True
    except DAMAGE:
        return False


def _entries(archive: _Tar) -> Iterator[tarfile.TarInfo]:
    """Each header in turn; tarfile would keep them all, and they take ten times what ours do."""
    while (entry := archive.next()) is not None:
        archive.members.clear()
        yield entry


def _listed_tar(archive: _Tar) -> tuple[list[Member], list[Link]]:
    """Files, and what can't be read as one; and links."""
    members, links = [], []
    for entry in _entries(archive):
        if entry.issym() or entry.islnk():
            links.append(Link(_tar_member(entry), entry.linkname, entry.islnk()))
        elif not entry.isdir() and entry.type not in _NO_FILES:
            members.append(_tar_member(entry))
    return members, links


def _read_to_end(archive: tarfile.TarFile, allowance: Allowance) -> None:
    """Read the padding after the last member: the checksum of the whole, which compression adds, comes after it."""
    while archive.fileobj and archive.fileobj.read(2**16):
        allowance.check_inflated(archive.fileobj.tell())


def _tar_member(entry: tarfile.TarInfo) -> Member:
    name = entry.name
    while name.startswith("./"):  # of `tar c .//10253` too
        name = name[2:].lstrip("/")
    name = with_slashes(name)
    return Member(name, entry.size, entry.offset_data, entry.size, fault=_tar_fault(entry))


def _tar_fault(entry: tarfile.TarInfo) -> str | None:
    if entry.issparse():
        return SPARSE_FILE
    return None if entry.isreg() or entry.issym() or entry.islnk() else SPECIAL_FILE


def _given(content: bytes) -> bytes:
    return content
