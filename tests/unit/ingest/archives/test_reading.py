"""Archives: damage is noticed, and nothing an archive claims costs memory, endless reading or a crash."""

import copy
import gc
import io
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from histopipe.core.errors import ArchiveError
from histopipe.ingest.archives.limits import MemberLimit
from histopipe.ingest.archives.reading import (
    MAX_MEMBER_BYTES,
    Member,
    TarArchive,
    ZipArchive,
    open_archive,
    require_usable_member,
)
from histopipe.ingest.datasets import MemberRejected
from tests.builders.archives import write_zip

MEMBERS = {f"folder/{number}.png": bytes([number]) * (512 * number + 1) for number in range(12)}
BLOCK = 512
RARE = [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
EVERY_MODE = ["w", "w:gz", "w:bz2", "w:xz"]


def write_tar(path: Path, members: Mapping[str, bytes], mode: Any = "w", **options: Any) -> Path:
    with tarfile.open(path, mode, **options) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def recompressed(path: Path, content: bytes, mode: str) -> Path:
    """The blocks of a tar, compressed as `mode` says."""
    import bz2
    import gzip
    import lzma

    packers = {"w": bytes, "w:gz": gzip.compress, "w:bz2": bz2.compress, "w:xz": lzma.compress}
    path.write_bytes(packers[mode](content))
    return path


def contents(path: Path) -> dict[str, bytes]:
    archive = open_archive(path)
    payloads = archive.payloads(archive.members)
    read = {member.name: payload() for member, payload in zip(archive.members, payloads, strict=True)}
    archive.close()
    return read


def header_of(path: Path, name: str) -> int:
    with tarfile.open(path) as archive:
        return archive.getmember(name).offset


@pytest.mark.parametrize("mode", EVERY_MODE)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_whole_tars_of_every_form_are_read(tmp_path: Path, mode: str, form: int) -> None:
    members = MEMBERS | ({} if form == tarfile.USTAR_FORMAT else {f"{'long/' * 60}ü.png": b"x"})
    assert contents(write_tar(tmp_path / "a.tar", members, mode, format=form)) == members


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax"], ["--blocking-factor=1"], ["-z"], ["-J"]])
def test_tars_of_the_command_line_are_read(tmp_path: Path, options: list[str]) -> None:
    for name, data in MEMBERS.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    subprocess.run(["tar", *options, "-cf", tmp_path / "a.tar", "-C", tmp_path / "in", "."], check=True)
    assert contents(tmp_path / "a.tar") == MEMBERS


@pytest.mark.parametrize("mode", EVERY_MODE)
def test_one_block_of_zeros_ends_a_tar(tmp_path: Path, mode: str) -> None:
    whole = write_tar(tmp_path / "a.tar", {"a.png": b"x" * 700}).read_bytes()
    assert contents(recompressed(tmp_path / "b.tar", whole[: 4 * BLOCK], mode)) == {"a.png": b"x" * 700}


@pytest.mark.parametrize("mode", EVERY_MODE)
@pytest.mark.parametrize("surplus", [0, 100, BLOCK])
def test_a_tar_cut_at_or_near_a_member_s_end_is_refused(tmp_path: Path, mode: str, surplus: int) -> None:
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    cut = path.read_bytes()[: header_of(path, "folder/6.png") + surplus]
    with pytest.raises(ArchiveError, match=r"truncated or damaged tar .*download it again"):
        open_archive(recompressed(path, cut, mode))


@pytest.mark.parametrize("mode", EVERY_MODE)
def test_a_tar_with_a_damaged_header_is_refused(tmp_path: Path, mode: str) -> None:
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    content = bytearray(path.read_bytes())
    content[header_of(path, "folder/6.png") + 3] ^= 1
    with pytest.raises(ArchiveError, match=r"truncated or damaged tar .*bad checksum"):
        open_archive(recompressed(path, bytes(content), mode))


@pytest.mark.parametrize("mode", EVERY_MODE[1:])
@pytest.mark.parametrize("place", [0.5, 0.999])
def test_a_flipped_bit_in_a_compressed_tar_is_noticed(tmp_path: Path, mode: str, place: float) -> None:
    import random

    path = write_tar(tmp_path / "a.tar", {"a.png": random.Random(0).randbytes(20_000)}, mode)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError) as caught:
        open_archive(path)
    assert "\n" not in str(caught.value)


def test_a_message_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b" + b"no gzip" * 100)
    with pytest.raises(ArchiveError, match="method gz") as caught:
        open_archive(tmp_path / "a.tar.gz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_long_extended_header_is_refused_unread(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("first.png"))
        entry = tarfile.TarInfo("a.png")
        entry.pax_headers = {"comment": "x" * 2**20}
        archive.addfile(entry)
    with pytest.raises(ArchiveError, match="header of absurd size"):
        open_archive(recompressed(path, path.read_bytes(), mode))


@pytest.mark.parametrize("size", ["-1024", "9" * 30, "-1"])
def test_an_absurd_size_in_an_extended_header_is_refused(tmp_path: Path, size: str) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("first.png"))
        entry = tarfile.TarInfo("a.png")
        entry.pax_headers = {"size": size}
        archive.addfile(entry)
    with pytest.raises(ArchiveError, match="truncated or damaged tar"):
        open_archive(path)


def rejection(member: Member) -> str:
    with pytest.raises(MemberRejected) as caught:
        require_usable_member(member)
    return str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "./.", "a/.", "/a.png", "../a.png", "a/../b.png", "C:/a.png", "a\\b.png"])
def test_unsafe_names_are_refused(name: str) -> None:
    assert rejection(Member(name, 1, 0, 1)) == "unsafe path"


def test_names_in_another_encoding_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"\udcff.png": b"x"}, format=tarfile.GNU_FORMAT)
    (member,) = TarArchive(tmp_path / "a.tar").members
    assert rejection(member) == "name is not valid text"


@pytest.mark.parametrize(
    ("size", "stored", "reason"),
    [
        (MAX_MEMBER_BYTES + 1, 1, "too large for a patch"),
        (1, 2**40, "damaged member"),
        (1, 2**64 - 1, "damaged member"),
    ],
)
def test_absurd_sizes_are_refused(size: int, stored: int, reason: str) -> None:
    assert rejection(Member("a.png", size, 0, stored)) == reason
    require_usable_member(Member("a.png", MAX_MEMBER_BYTES, 0, MAX_MEMBER_BYTES + 2**15))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize(("offset", "stored"), [(-1, 1), (2**63, 1), (0, 2**40), (0, 2**64 - 1), (10**6, 1)])
def test_a_member_that_claims_to_lie_outside_the_zip_is_set_aside(
    tmp_path: Path, method: int, offset: int, stored: int
) -> None:
    archive = ZipArchive(write_zip(tmp_path / "a.zip", MEMBERS))
    with pytest.raises(MemberRejected, match="damaged member"):
        next(archive.payloads([Member("folder/1.png", 513, offset, stored, method, 0)]))()


def test_a_zip_is_listed_once_in_memory(tmp_path: Path) -> None:
    """The standard library's entries take three times what ours do, and there may be millions."""
    archive = open_archive(write_zip(tmp_path / "a.zip", MEMBERS))
    assert not [one for one in gc.get_objects() if isinstance(one, zipfile.ZipInfo)]
    assert len(archive.members) == len(MEMBERS)


def test_a_zip_member_without_a_name_is_listed(tmp_path: Path) -> None:
    content = write_zip(tmp_path / "a.zip", {"xfoo": b"1", "b.png": b"2"}).read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace(b"xfoo", b"\0foo"))
    assert [member.name for member in open_archive(tmp_path / "a.zip").members] == ["", "b.png"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_rare_packings_is_one_damaged_member(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as packed:
        packed.writestr("a.png", bytes(range(256)) * 20)
        packed.writestr("b.png", b"whole")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[50:120] = b"\xff" * 70
    (tmp_path / "a.zip").write_bytes(content)
    archive = ZipArchive(tmp_path / "a.zip")
    with pytest.raises(MemberRejected, match="damaged member"):
        next(archive.payloads([archive.members[0]]))()
    assert next(archive.payloads([archive.members[1]]))() == b"whole"


def test_a_zip_in_several_parts_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": b"x"})
    content = path.read_bytes()
    locator = b"PK\x06\x07" + (1).to_bytes(4, "little") + bytes(8) + (2).to_bytes(4, "little")
    path.write_bytes(content[:-22] + locator + content[-22:])
    with pytest.raises(ArchiveError, match=r"damaged zip .*multiple disks"):
        open_archive(path)


def zipped(members: Mapping[str, bytes], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zips_stored_in_a_zip_are_read_where_they_lie(tmp_path: Path, method: int) -> None:
    inner = {f"slides/{name}.zip": zipped(MEMBERS, compression=method) for name in "ab"}
    path = write_zip(tmp_path / "a.zip", {"first.png": b"1", **inner, "last.png": b"2"})
    expected = [(f"slides/{name}/{file}", data) for name in "ab" for file, data in MEMBERS.items()]
    assert list(contents(path).items()) == [("first.png", b"1"), *expected, ("last.png", b"2")]


def test_a_zip_behind_other_bytes_is_read_where_it_lies(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"self-extracting.zip": b"a program" * 100 + zipped(MEMBERS)})
    assert contents(path) == {f"self-extracting/{name}": data for name, data in MEMBERS.items()}


@pytest.mark.parametrize("content", [b"", b"no zip", zipped(MEMBERS)[:-30], zipped(MEMBERS)[500:-8]])
def test_an_inner_zip_that_cannot_be_opened_stays_one_member(tmp_path: Path, content: bytes) -> None:
    path = write_zip(tmp_path / "a.zip", {"inner.zip": content, "last.png": b"2"})
    assert contents(path) == {"inner.zip": content, "last.png": b"2"}


def test_an_inner_zip_that_points_out_of_itself_reads_nothing_there(tmp_path: Path) -> None:
    hostile = bytearray(zipped({"a.png": b"x" * 100}))
    entry = hostile.index(b"PK\x01\x02")
    hostile[entry + 42 : entry + 46] = (10**6).to_bytes(4, "little")
    path = write_zip(tmp_path / "a.zip", {"inner.zip": bytes(hostile), "secret.png": b"x" * 2 * 10**6})
    archive = open_archive(path)
    (payload, _) = archive.payloads(archive.members)
    with pytest.raises(MemberRejected, match="damaged member"):
        payload()
    archive.close()


@pytest.mark.parametrize("method", RARE)
def test_rare_packings_within_an_inner_zip_are_read(tmp_path: Path, method: int) -> None:
    path = write_zip(tmp_path / "a.zip", {"inner.zip": zipped(MEMBERS, compression=method)})
    assert contents(path) == {f"inner/{name}": data for name, data in MEMBERS.items()}


def test_a_packing_that_is_not_known_is_refused_by_member(tmp_path: Path) -> None:
    content = bytearray(zipped({"a.png": b"1"}))
    entry = content.index(b"PK\x01\x02")
    content[entry + 10 : entry + 12] = (9).to_bytes(2, "little")  # Deflate64
    (tmp_path / "a.zip").write_bytes(content)
    archive = open_archive(tmp_path / "a.zip")
    with pytest.raises(MemberRejected, match="unsupported compression method"):
        next(archive.payloads(archive.members))()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, *RARE])
def test_a_member_that_inflates_beyond_its_size_takes_no_memory(tmp_path: Path, method: int) -> None:
    content = bytearray(zipped({"a.png": bytes(64 * 2**20)}, compression=method))
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (1000).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(content)
    archive = open_archive(tmp_path / "a.zip")
    payload = next(archive.payloads(archive.members))
    tracemalloc.start()
    with pytest.raises(MemberRejected, match="damaged member"):
        payload()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def empty_members(count: int, size: int = 0) -> bytes:
    """Blocks of a tar of many members, which compress to next to nothing."""
    entry = tarfile.TarInfo("a.png")
    entry.size = size
    return entry.tobuf(tarfile.USTAR_FORMAT) * count + bytes(2 * BLOCK)


@pytest.mark.parametrize("mode", EVERY_MODE)
def test_a_tar_of_too_many_members_is_left_before_it_costs_much(tmp_path: Path, mode: str) -> None:
    path = recompressed(tmp_path / "a.tar", empty_members(20_000), mode)
    tracemalloc.start()
    with pytest.raises(ArchiveError, match=r"holds more than 500 files, folders and links: raise ingest\.max_members"):
        open_archive(path, MemberLimit(500))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * 2**20  # of which xz takes most


@pytest.mark.slow
def test_members_of_a_tar_are_kept_once(tmp_path: Path) -> None:
    """tarfile's own entries take ten times what ours do."""
    path = recompressed(tmp_path / "a.tar", empty_members(20_000), "w:gz")
    tracemalloc.start()
    archive = open_archive(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(archive.members) == 20_000
    assert peak < 400 * 20_000


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
def test_folders_links_and_devices_count_as_members(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(600):
            entry = tarfile.TarInfo(f"{number}")
            entry.type, entry.linkname = kind, "0"
            archive.addfile(entry)
    with pytest.raises(ArchiveError, match="more than 500 files, folders and links"):
        open_archive(tmp_path / "a.tar", MemberLimit(500))


@pytest.mark.parametrize("told", [None, 1])
def test_a_zip_of_too_many_members_is_refused_whatever_it_says_of_their_number(
    tmp_path: Path, told: int | None
) -> None:
    path = write_zip(tmp_path / "a.zip", {f"{number}/": b"" for number in range(600)})
    content = bytearray(path.read_bytes())
    if told:
        content[-14:-10] = struct.pack("<HH", told, told)
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="more than 500 files, folders and links"):
        open_archive(path, MemberLimit(500))
    assert len(open_archive(path, MemberLimit(600)).members) == 0


def test_members_of_zips_in_a_zip_count_together(tmp_path: Path) -> None:
    inner = zipped({f"{number}.png": b"" for number in range(100)})
    path = write_zip(tmp_path / "a.zip", {f"{number}.zip": inner for number in range(10)})
    assert len(open_archive(path, MemberLimit(1010)).members) == 1000
    with pytest.raises(ArchiveError, match="more than 1,009 files, folders and links"):
        open_archive(path, MemberLimit(1009))


def test_one_inner_zip_under_many_names_counts_each_time(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"0.zip": zipped({f"{number}.png": b"" for number in range(100)})})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "")
        for number in range(1, 100):
            again = copy.copy(archive.getinfo("0.zip"))
            again.filename = f"{number}.zip"
            archive.filelist.append(again)
    with pytest.raises(ArchiveError, match="more than 5,000 files, folders and links"):
        open_archive(path, MemberLimit(5000))


@pytest.mark.parametrize("mode", EVERY_MODE[1:])
def test_a_tar_that_only_inflates_is_left(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histopipe.ingest.archives.limits.MIN_INFLATED_BYTES", 2**20)
    huge = empty_members(1, size=2**32)[:BLOCK]
    with pytest.raises(ArchiveError, match="inflates to more than"):
        open_archive(recompressed(tmp_path / "a.tar", huge + bytes(4 * 2**20), mode))
    padded = write_tar(tmp_path / "b.tar", {"a.png": b"x"}).read_bytes() + bytes(4 * 2**20)
    with pytest.raises(ArchiveError, match="inflates to more than"):
        open_archive(recompressed(tmp_path / "b.tar", padded, mode))


def pax(kind: bytes, content: bytes) -> bytes:
    entry = tarfile.TarInfo("pax")
    entry.type, entry.size = kind, len(content)
    return entry.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % BLOCK)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "header",
    [
        pax(tarfile.XHDTYPE, b"1" * 200_000),  # quadratic time in tarfile (CVE-2024-6232)
        pax(tarfile.XGLTYPE, b"".join(b"%d k%05d=v\n" % (len(b"00 k00000=v\n"), number) for number in range(5000))),
        pax(tarfile.XHDTYPE, b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n") + b"",
    ],
)
def test_headers_that_cost_time_or_memory_are_refused(tmp_path: Path, header: bytes) -> None:
    blocks = header + b"".join([empty_members(3, size=512)[:BLOCK], b"9" * 15 + b"\n" + b"0\n" * 248, bytes(2 * BLOCK)])
    (tmp_path / "a.tar").write_bytes(write_tar(tmp_path / "b.tar", {"a.png": b""}).read_bytes()[:BLOCK] + blocks)
    try:
        faults = [member.fault for member in open_archive(tmp_path / "a.tar").members]
    except ArchiveError as problem:
        assert "header" in str(problem)
    else:
        assert faults == [None, "sparse file"]


def test_what_windows_packed_lies_in_folders(tmp_path: Path) -> None:
    members = {"10253\\": b"", "10253\\0\\": b"", "10253\\0\\a.png": b"1", "10253/0\\b.png": b"2"}
    expected = {"10253/0/a.png": b"1", "10253/0/b.png": b"2"}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert contents(tmp_path / "a.zip") == expected
    assert contents(write_tar(tmp_path / "a.tar", {name: data for name, data in members.items() if data})) == expected


@pytest.mark.parametrize("name", ["..\\a.png", "a\\..\\..\\b.png", "C:\\a.png", "\\\\server\\a.png", "\\a.png"])
def test_backslashes_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    (member,) = open_archive(write_zip(tmp_path / "a.zip", {name: b"x"})).members
    assert rejection(member) == "unsafe path"


@pytest.mark.parametrize("name", ["a\r/b.png", "a\n.png", "a\u2028.png", "a\x1b[2J.png", "a\u202egnp.exe"])
def test_names_with_control_characters_are_refused(name: str) -> None:
    assert rejection(Member(name, 1, 0, 1)) == "name holds a line break or another control character"
