"""Links in archives: each is read as a copy would be, or set aside with the reason."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Literal

import pytest

from histopipe.core.errors import ArchiveError
from histopipe.core.params import Params
from histopipe.core.workspace import Workspace
from histopipe.ingest.archives.limits import MemberLimit
from histopipe.ingest.archives.reading import open_archive, require_usable_member
from histopipe.ingest.datasets import MemberRejected
from histopipe.ingest.stage import ingest
from tests.builders.archives import idc_members

CONTENT = {"a/1.png": b"1", "a/2.png": b"22", "b/3.png": b"333"}
MODES: list[Literal["w", "w:gz"]] = ["w", "w:gz"]


class Hard(str):
    """The target of a hard link."""


def write_tar(path: Path, members: dict[str, bytes | str], mode: Literal["w", "w:gz"] = "w") -> Path:
    """A tar of files (bytes) and links (str)."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
                continue
            entry.type = tarfile.LNKTYPE if isinstance(content, Hard) else tarfile.SYMTYPE
            entry.linkname = content
            archive.addfile(entry)
    return path


def write_zip(path: Path, members: dict[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip of files (bytes) and symbolic links (str), as `zip --symlinks` writes them."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.compress_type = 3, method
            kind = stat.S_IFREG if isinstance(content, bytes) else stat.S_IFLNK
            entry.external_attr = (kind | 0o777) << 16
            archive.writestr(entry, content)
    return path


def read(path: Path) -> dict[str, bytes | str]:
    """Every member's content, or why it can't be used."""
    archive = open_archive(path)
    usable, found = [], {}
    for member in archive.members:
        try:
            require_usable_member(member)
            usable.append(member)
        except MemberRejected as reason:
            found[member.name] = str(reason)
    contents = [payload() for payload in archive.payloads(usable)]
    archive.close()
    assert len(contents) == len(usable)
    return {**{member.name: content for member, content in zip(usable, contents, strict=True)}, **found}


OUT, NOWHERE, CIRCULAR = (
    "link out of the archive",
    "link to a path that is not in the archive",
    "circular link",
)


def every(content: bytes | str) -> dict[str, bytes | str]:
    return dict.fromkeys(["x.png", "y.png", "z.png"], content)


SYMBOLIC: dict[str, tuple[dict[str, str], dict[str, bytes | str]]] = {
    "to a file": ({"c/x.png": "../a/1.png"}, {"c/x.png": b"1"}),
    "beside": ({"a/x.png": "2.png"}, {"a/x.png": b"22"}),
    "to a folder": ({"c": "a"}, {"c/1.png": b"1", "c/2.png": b"22"}),
    "to a folder, with a slash": ({"d/c": "../a/"}, {"d/c/1.png": b"1", "d/c/2.png": b"22"}),
    "through a folder": ({"c": "a", "x.png": "c/2.png"}, {"c/1.png": b"1", "c/2.png": b"22", "x.png": b"22"}),
    "a chain": ({"x.png": "y.png", "y.png": "./z.png", "z.png": "a/1.png"}, every(b"1")),
    "out": (
        {"x.png": "../a/1.png", "y.png": "/etc/passwd", "a/z.png": "../../b/3.png"},
        {"x.png": OUT, "y.png": OUT, "a/z.png": OUT},
    ),
    "nowhere": ({"x.png": "a/9.png", "y": "c"}, {"x.png": NOWHERE, "y": NOWHERE}),
    "a loop": ({"x.png": "y.png", "y.png": "x.png", "z.png": "z.png"}, every(CIRCULAR)),
    "to the folder around": ({"a/up": "..", "b/here": "."}, {"a/up": CIRCULAR, "b/here": CIRCULAR}),
    "within a linked folder": (
        {"b/x.png": "../a/1.png", "c": "b"},
        {"b/x.png": b"1", "c/3.png": b"333", "c/x.png": b"1"},
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("case", SYMBOLIC)
def test_symbolic_links_in_a_tar(tmp_path: Path, case: str, first: bool, mode: Any) -> None:
    links, expected = SYMBOLIC[case]
    members: dict[str, bytes | str] = {**links, **CONTENT} if first else {**CONTENT, **links}
    assert read(write_tar(tmp_path / "a.tar", members, mode)) == CONTENT | expected


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("case", SYMBOLIC)
def test_symbolic_links_in_a_zip(tmp_path: Path, case: str, method: int) -> None:
    links, expected = SYMBOLIC[case]
    assert read(write_zip(tmp_path / "a.zip", {**CONTENT, **links}, method)) == CONTENT | expected


def test_symbolic_links_in_a_zip_within_a_zip(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner.zip", {**CONTENT, "x.png": "a/1.png", "y.png": "../outer.png"})
    outer = write_zip(tmp_path / "a.zip", {"inner.zip": inner.read_bytes(), "outer.png": b"9"}, zipfile.ZIP_STORED)
    expected = {f"inner/{name}": content for name, content in CONTENT.items()}
    assert read(outer) == expected | {"inner/x.png": b"1", "inner/y.png": OUT, "outer.png": b"9"}


@pytest.mark.parametrize("mode", MODES)
def test_hard_links_in_a_tar(tmp_path: Path, mode: Any) -> None:
    links = {"c/x.png": Hard("a/1.png"), "c/y.png": Hard("./c/x.png"), "c/z.png": Hard("gone.png")}
    expected = {"c/x.png": b"1", "c/y.png": b"1", "c/z.png": NOWHERE}
    assert read(write_tar(tmp_path / "a.tar", {**CONTENT, **links}, mode)) == CONTENT | expected


def test_links_that_multiply_are_refused(tmp_path: Path) -> None:
    """Folders of links to folders of links: 2 to the power of 30 files in a few hundred bytes."""
    links = {f"{level}/{side}": f"../{level + 1}" for level in range(30) for side in "lr"}
    path = write_tar(tmp_path / "a.tar", {"30/x.png": b"x", **links})
    with pytest.raises(ArchiveError, match="holds more than 10,000 files, folders and links"):
        open_archive(path, MemberLimit(10_000))


def test_devices_and_sparse_files_are_set_aside(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number, kind in enumerate((tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)):
            entry = tarfile.TarInfo(f"{number}.png")
            entry.type = kind
            archive.addfile(entry)
        sparse = tarfile.TarInfo("3.png")
        sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 512
        archive.addfile(sparse, io.BytesIO(bytes(512)))
        last = tarfile.TarInfo("4.png")
        last.size = 1
        archive.addfile(last, io.BytesIO(b"4"))
    found = read(tmp_path / "a.tar")
    assert found == {
        **{f"{number}.png": "device, pipe or socket" for number in range(3)},
        "3.png": "sparse file",
        "4.png": b"4",
    }


def with_links(members: dict[str, bytes], count: int, hard: bool) -> dict[str, bytes | str]:
    """The same files, the last `count` of which are links to where their content lies."""
    linked: dict[str, bytes | str] = dict(members)
    for number, name in enumerate(list(members)[-count:]):
        linked[f"pool/{number}"] = members[name]
        linked[name] = Hard(f"pool/{number}") if hard else f"../../pool/{number}"
    return dict(sorted(linked.items(), key=lambda pair: not pair[0].startswith("pool")))


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_linked_patches_are_ingested_as_copies_are(workspace: Workspace, params: Params, mode: Any, hard: bool) -> None:
    members = idc_members()
    workspace.raw("idc").mkdir(parents=True)
    path = workspace.raw("idc") / "archive.tar"
    write_tar(path, dict(members), mode)
    copied = ingest("idc", params, workspace)
    write_tar(path, with_links(members, 40, hard), mode)
    linked = ingest("idc", params, workspace)
    same = ("patches", "cases", "positive", "bad", "second_copies")
    assert {name: linked[name] for name in same} == {name: copied[name] for name in same}


def test_links_that_lead_out_are_counted(workspace: Workspace, params: Params) -> None:
    workspace.raw("idc").mkdir(parents=True)
    members = dict.fromkeys(list(idc_members())[-40:], "/mnt/slides/a.png")
    write_tar(workspace.raw("idc") / "archive.tar", idc_members() | members)
    with pytest.raises(ArchiveError, match=r"40 of 120 members are unusable \(40 x link out of the archive"):
        ingest("idc", params, workspace)


def test_a_second_copy_by_link_counts_as_one(workspace: Workspace, params: Params) -> None:
    workspace.raw("idc").mkdir(parents=True)
    write_zip(workspace.raw("idc") / "archive.zip", {**idc_members(), "IDC_regular_ps50_idx5/10001": "../10001"})
    report = ingest("idc", params, workspace)
    assert (report["patches"], report["second_copies"], report["bad"]) == (120, 20, 0)


@pytest.mark.parametrize("start", [".//", "././", ".///./"])
def test_links_are_found_however_the_packed_folder_was_named(tmp_path: Path, start: str) -> None:
    members = {f"{start}1/a.png": b"a", f"{start}1/b.png": Hard(f"{start}1/a.png"), f"{start}1/c.png": "./a.png"}
    assert read(write_tar(tmp_path / "a.tar", members)) == {"1/a.png": b"a", "1/b.png": b"a", "1/c.png": b"a"}


def test_links_that_windows_packed_are_followed(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {"1\\a.png": b"a", "2\\b.png": "..\\1\\a.png", "2\\c.png": "C:\\1\\a.png"}
    known = {"1/a.png": b"a", "2/b.png": b"a", "2/c.png": OUT}
    assert read(write_tar(tmp_path / "a.tar", members)) == known
    assert read(write_zip(tmp_path / "a.zip", members)) == known
