"""What reads bytes and names from outside, each with the damaged ones that it is given."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from hypothesis import strategies as st
from starlette.requests import Request

from histopipe.core.errors import ArchiveError, HistopipeError, SourceError
from histopipe.core.params import parse_params
from histopipe.core.workspace import Workspace
from histopipe.inference.inputs import _name_member as graded_name
from histopipe.inference.inputs import find_images, find_slides
from histopipe.ingest.archives.member import Member
from histopipe.ingest.archives.reading import MAX_MEMBER_BYTES, open_archive, require_usable_member
from histopipe.ingest.datasets import MemberRejected, get_dataset, list_datasets
from histopipe.ingest.datasets.manifest import load_manifest_dataset, read_manifest
from histopipe.ingest.images import MAX_PIXELS, decode_patch
from histopipe.ingest.parts import Part
from histopipe.ingest.plan import plan_ingest
from histopipe.ingest.sources.archive_file import check_archive, count_zipped_patches
from histopipe.ingest.sources.manifest import describe_manifest
from histopipe.ingest.sources.wanted import SourceSpec
from histopipe.service.problems import RequestError
from histopipe.service.reading import LONGEST_NAME, MemoryBudget, TransferLimits, read_files, save_file
from tests.builders.paths import ROOT
from tests.fuzz import samples
from tests.fuzz.changes import damaged, repair_png, repair_tar, spelt
from tests.fuzz.reader import READ, Reader

PNG_MARKS = (
    b"IHDR",
    b"IDAT",
    b"IEND",
    b"PLTE",
    b"tRNS",
    b"iCCP",
    b"zTXt",
    b"iTXt",
    b"eXIf",
    b"pHYs",
    b"acTL",
    b"fcTL",
    b"fdAT",
)
JPEG_MARKS = tuple(
    bytes((0xFF, code)) for code in (0xD8, 0xC0, 0xC2, 0xC4, 0xDB, 0xDA, 0xDD, 0xE0, 0xE1, 0xED, 0xEE, 0xD0, 0xD9)
)
TIFF_MARKS = (
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    *(
        code.to_bytes(2, "little")
        for code in (256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 320, 322, 325, 338, 339, 347, 530)
    ),
)
ZIP_MARKS = (
    b"PK\x03\x04",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"PK\x07\x08",
    b"../",
    b".zip",
    b"/\0",
    b"\x01\0\x10\0",
)
TAR_MARKS = (
    b"ustar",
    b"size=",
    b"path=",
    b"GNU.sparse.",
    b"././@LongLink",
    b"../",
    b"-1",
    b"\x80\0\0\0",
    b"\xff\xff\xff",
)


def _named(folder: Path) -> Path:
    return folder / "input"


def _one_line(problem: Exception) -> str:
    """The start of a refusal's message, which names the file and may not break lines."""
    message = str(problem)
    assert message and "\n" not in message, message
    return type(problem).__name__


def image(content: bytes, _: Path) -> str:
    """A picture is decoded, the same with and without a place to put it, or refused."""

    try:
        patch = decode_patch(content)
    except MemberRejected as reason:
        return str(reason)
    assert patch.dtype == np.uint8 and patch.ndim == 3 and patch.shape[2] == 3
    assert 0 < patch.shape[0] * patch.shape[1] <= MAX_PIXELS
    assert np.array_equal(decode_patch(content, np.empty((24, 24, 3), np.uint8)), patch)
    return READ


def archive(_: bytes, folder: Path) -> str:
    """An archive is listed, planned by every data set and each member read or rejected; or all of it is refused."""
    from histopipe.ingest.datasets import MemberRejected, get_dataset, list_datasets

    try:
        opened = open_archive(_named(folder))
    except ArchiveError as problem:
        return _one_line(problem)
    with closing(opened):
        for name in list_datasets():
            plan = plan_ingest(opened.members, get_dataset(name))
            assert len(plan.patches) + sum(map(len, plan.unused.files.values())) == len(opened.members)
        chosen = [member for member in opened.members if _usable(member)]
        for payload in opened.payloads(chosen):
            try:
                assert len(payload()) <= MAX_MEMBER_BYTES
            except MemberRejected as reason:
                assert str(reason)
    return READ


def _usable(member: Member) -> bool:

    try:
        require_usable_member(member)
    except MemberRejected:
        return False
    assert not member.name.startswith("/") and ".." not in member.name.split("/")
    return True


def source_file(_: bytes, folder: Path) -> str:
    """What `locate` looks at before an archive is fetched."""

    path = _named(folder)
    try:
        check_archive(path, "the archive")
        count_zipped_patches(path, _wanted())
    except SourceError as problem:
        return _one_line(problem)
    return READ


def _wanted(manifest: str | None = None) -> Any:

    content = dict(_params())
    if manifest is not None:
        content |= {"datasets": ["mine"], "mine": {"source": "mine.zip", "manifest": manifest}}
    return SourceSpec("idc" if manifest is None else "mine", parse_params(content), Workspace(ROOT))


@cache
def _params() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    return content


def graded_archive(content: bytes, folder: Path) -> str:
    """What `predict` finds in an archive."""
    from histopipe.inference.inputs import find_images

    path = _named(folder).rename(folder / ("a.zip" if content[:2] == b"PK" else "a.tar"))
    told: list[str] = []
    try:
        for found in find_images([path], lambda reason, name: told.append(reason + name)):
            assert found.file.encode() and found.case_id.encode()
            try:
                found.read()
            except MemberRejected as reason:
                told.append(str(reason))
    except ArchiveError as problem:
        return _one_line(problem)
    finally:
        path.rename(_named(folder))
    assert all(line.encode() for line in told)
    return READ


def graded_file(_: bytes, folder: Path) -> str:
    """What `predict` takes a TIFF for, and what it reads."""

    path = _named(folder).rename(folder / "a.tif")
    try:
        slides = find_slides([path])
        found = [one.read() for one in find_images([path], lambda *_: None)]
    finally:
        path.rename(_named(folder))
    assert len(slides) + len(found) == 1
    return READ if found else "a slide"


def name(text: str, _: Path) -> str:
    """A member's name as every data set, and `predict`, reads it."""

    graded = graded_name(text, text, bytes)
    graded.file.encode()
    assert all(place is None or 0 <= place < 2**31 for place in (graded.x, graded.y))
    outcome = "no patch's"
    for dataset in [get_dataset(known) for known in list_datasets()] + [get_dataset("breakhis", 40)]:
        try:
            if (found := dataset.read_name(text)) is None:
                continue
        except MemberRejected as reason:
            outcome = str(reason)
            continue
        assert found.case_id.isascii() and found.label in (0, 1) and len(found.attributes) == len(dataset.attributes)
        assert all(place is None or 0 <= place < 2**31 for place in (found.x, found.y))
        return READ
    return outcome


def manifest(_: bytes, folder: Path) -> str:
    """A table is read whole or refused with its line."""
    from histopipe.core.errors import SourceError

    try:
        table = read_manifest(_named(folder))
    except SourceError as problem:
        return _one_line(problem)
    assert table["file"].is_unique and table["label"].isin([0, 1]).all() and len(table)
    dataset = load_manifest_dataset("mine", _named(folder), (50, 50))
    assert dataset.listed == frozenset(table["file"])
    return READ


def manifest_path(text: str, folder: Path) -> str:
    """The manifest that params.yaml names is found or refused."""

    try:
        described = describe_manifest(_wanted(text))
    except HistopipeError as problem:
        assert str(problem)
        return type(problem).__name__
    assert described is not None
    return READ


def part(text: str, _: Path) -> str:
    """`3/8` is understood, anything else refused."""

    try:
        found = Part.parse(text)
    except HistopipeError as problem:
        return type(problem).__name__
    assert 1 <= found.number <= found.of and str(found)
    assert 0 <= found.list_shards(7).start <= found.list_shards(7).stop <= 7
    return READ


class Sending(NamedTuple):
    """A request's headers and the pieces of its body."""

    media: bytes
    length: bytes
    body: bytes
    pieces: int


def request(sent: Sending, folder: Path) -> str:
    """A body is taken apart into files in memory or one on disk, or refused with a status."""
    outcomes = [_asked(sent, _files), _asked(sent, lambda asked: _saved(asked, folder))]
    (folder / "saved").unlink(missing_ok=True)
    return outcomes[0]


def _asked(sent: Sending, take: Callable[[Any], Any]) -> str:

    try:
        asyncio.run(take(_request(sent)))
    except RequestError as problem:
        assert 400 <= problem.status < 500 and problem.response().body
        return f"{problem.status}"
    return READ


async def _files(asked: Any) -> None:

    with MemoryBudget(10_000).share() as memory:
        for file in await read_files(asked, 5_000, 3, TransferLimits(5, 5), ("image/",), memory):
            assert len(file.name) <= LONGEST_NAME and "/" not in file.name and len(file.content) <= 5_000


async def _saved(asked: Any, folder: Path) -> None:

    await save_file(asked, 5_000, TransferLimits(5, 5), ("image/",), lambda _: (folder / "saved").open("wb"))


def _request(sent: Sending) -> Any:

    step = max(1, -(-len(sent.body) // sent.pieces))
    starts = range(0, max(1, len(sent.body)), step)
    messages = iter(
        [
            {"type": "http.request", "body": sent.body[start : start + step], "more_body": start != starts[-1]}
            for start in starts
        ]
    )

    async def receive() -> Any:
        return next(messages, {"type": "http.disconnect"})

    headers = [(b"content-type", sent.media), (b"content-length", sent.length)]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


def _pngs() -> st.SearchStrategy[bytes]:
    """Damaged ones, and whole ones whose pixels were damaged before they were packed, under any header."""
    fields = ((8, 24, 25), (8, 24), (8, 8, 1, 16), (2, 2, 0, 3, 4, 6), (0,), (0,), (0, 0, 1))
    header = st.tuples(*map(st.sampled_from, fields))
    rows = damaged([bytes(24 * 73), bytes([1, *range(72)]) * 24, bytes([4, *range(96)]) * 24], (b"\0",))
    packed = st.builds(lambda told, raw: samples.png(told, zlib.compress(raw, 1)), header, rows)
    return st.one_of(damaged(samples.pngs(), PNG_MARKS, repair_png), packed)


def _zips() -> st.SearchStrategy[bytes]:
    whole = damaged(samples.zips(), ZIP_MARKS)
    return st.one_of(whole, whole.map(lambda inner: samples.zipped({"a.zip": inner, "b.png": b"b"})))


def _tars() -> st.SearchStrategy[bytes]:
    packers = (bytes, bytes, _gzip, bz2.compress, _xz)
    plain = damaged(samples.tars(), TAR_MARKS, repair_tar)
    packed = damaged([pack(tar) for tar in samples.tars()[:4] for pack in packers[2:]] + [greedy_xz()], ())
    return st.one_of(st.builds(lambda content, pack: pack(content), plain, st.sampled_from(packers)), packed)


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def _xz(content: bytes) -> bytes:
    return lzma.compress(content, preset=0)


def greedy_xz() -> bytes:
    """A small stream whose header asks for a dictionary of 4 GiB to read it."""
    content = bytearray(_xz(samples.tars()[0]))
    header = 12  # of the block, behind the stream's own: its length, flags, filter, length of what follows, dictionary
    length = (content[header] + 1) * 4
    content[header + 4] = 40
    content[header + length - 4 : header + length] = zlib.crc32(content[header : header + length - 4]).to_bytes(
        4, "little"
    )
    return bytes(content)


def _requests() -> st.SearchStrategy[Sending]:
    forms = [samples.form({"a.png": b"a" * 90}), samples.form({"ü.png": b"--limit", "../b": b""}), b"", b"x" * 6000]
    types = (
        b"multipart/form-data; boundary=limit",
        b"image/png",
        b'multipart/form-data; boundary="li\\"mit"; x*=utf-8\'\'%ff',
    )
    marks = (b"--limit", b"\r\n\r\n", b"Content-Disposition", b"filename=", b"filename*=utf-8''%e2%82", b'"', b";")
    lengths = (b"", b"9", b"90000", b"-1", "²".encode("latin-1"), b"9" * 5000)
    return st.builds(
        Sending,
        st.one_of(st.sampled_from(types), damaged(types, (b"boundary=", b"; ", b'"'))),
        st.sampled_from(lengths),
        damaged(forms, marks),
        st.integers(1, 9),
    )


def _as_tars_do(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


_PIECES = (
    *("/", "0", "1", "10253", "_idx5", "_x51", "_y101", "_class0", ".png", ".PNG", "x", "_y999999999", "_class1", "-"),
    *("C33P1", "C", "thin", "Thin", "_", "_cell_", "179", "cell_images", "Parasitized", "uninfected", "a"),
    *("benign", "malignant", "adenosis", "SOB_B_A-14-22549AB-40-001.png", "SOB_M_", "SOB_B_TA", "40X", "-14", "AB"),
    *samples.NAMES,
)
_PARTS = st.one_of(
    st.builds("{}/{}".format, st.integers(-1, 12), st.integers(0, 12)),
    spelt(("1", "/", "3/8", " ", "-", "+", "٣", "²", "1_0", "9" * 60)),
)

_NAMES = (*samples.NAMES, "10253/10253_idx5_x1351_y1101_class1.png", "uninfected/C1_thin_cell_1.png")
_LONG = st.builds(
    lambda start, piece, times, end: start + piece * times + end,
    *(st.sampled_from(_PIECES) for _ in range(2)),
    st.sampled_from((100, 3_000, 12_000)),
    st.sampled_from((".png", "_cell_1.png", "_idx5_x1_y1_class0.png", "-40-001.png", "_x1_y1.")),
)
_MEMBERS = damaged([name.encode() for name in _NAMES], [piece.encode() for piece in _PIECES])

READERS = {
    "png": Reader(_pngs(), image),
    "jpeg": Reader(damaged(samples.jpegs(), JPEG_MARKS), image),
    "tiff": Reader(damaged(samples.tiffs(), TIFF_MARKS), image),
    "bmp": Reader(damaged(samples.bmps(), (b"BM", b"\x28\0\0\0")), image),
    "zip": Reader(_zips(), archive),
    "tar": Reader(_tars(), archive),
    "source": Reader(st.one_of(_zips(), _tars()), source_file),
    "graded archive": Reader(st.one_of(_zips(), _tars()), graded_archive),
    "graded file": Reader(damaged(samples.tiffs(), TIFF_MARKS), graded_file),
    "name": Reader(st.one_of(_MEMBERS.map(_as_tars_do), spelt(_PIECES), _LONG), name),
    "manifest": Reader(
        damaged(samples.MANIFESTS, (b"\n", b",", b'"', b"\xff", b"file", b"label", b"\0", b"\xe2\x80\xa8")), manifest
    ),
    "manifest's path": Reader(
        spelt(("mine.csv", "/", "..", "~", "~root", "\0", "params.yaml", "a" * 50)), manifest_path
    ),
    "part": Reader(_PARTS, part),
    "request": Reader(_requests(), request),
}
