"""Ingest: every member is packed or accounted for, and no archive can do harm."""

import copy
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from histopipe.core.errors import ArchiveError, HistopipeError
from histopipe.core.params import Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.store import PatchStore
from histopipe.ingest.images import decode_patch
from histopipe.ingest.stage import ingest
from tests.builders.archives import idc_members, patch_name, write_tar, write_zip
from tests.builders.images import png


@pytest.fixture
def lenient(content: dict[str, Any]) -> Params:
    content["ingest"]["max_bad"] = 0.5
    return parse_params(content)


def pack(workspace: Workspace, params: Params, members: Mapping[str, bytes]) -> dict[str, Any]:
    write_zip(workspace.raw("idc") / "archive.zip", members)
    return ingest("idc", params, workspace)


def set_aside(report: Mapping[str, Any]) -> dict[str, str]:
    return {file: reason for reason, entry in report["set_aside"].items() for file in entry["files"]}


def bomb_png(width: int, height: int) -> bytes:
    """A PNG whose header promises far more pixels than its few bytes hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def test_pixels_and_index_are_those_of_the_archive(workspace: Workspace, params: Params) -> None:
    members = idc_members()
    report = pack(workspace, params, members)
    store = PatchStore.open(workspace.store("idc"))
    assert report["patches"] == len(members) == len(store.index)
    rows = np.random.default_rng(0).permutation(len(members))
    for row, patch in zip(rows, store.gather(rows), strict=True):
        file = store.index["file"].iloc[row]
        assert np.array_equal(patch, np.asarray(Image.open(io.BytesIO(members[file]))))
        assert store.index["label"].iloc[row] == int(file.split("/")[1])


def test_colour_statistics_are_those_of_the_stored_pixels(workspace: Workspace, params: Params) -> None:
    pack(workspace, params, idc_members())
    store = PatchStore.open(workspace.store("idc"))
    pixels = store.gather(np.arange(len(store.index))).astype(float)
    for channel, colour in enumerate(("red", "green", "blue")):
        np.testing.assert_allclose(store.index[f"{colour}_mean"], pixels[..., channel].mean(axis=(1, 2)), rtol=1e-6)
        np.testing.assert_allclose(store.index[f"{colour}_std"], pixels[..., channel].std(axis=(1, 2)), rtol=1e-6)


def test_patches_span_shards(workspace: Workspace, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pack(workspace, params, idc_members())
    before = PatchStore.open(workspace.store("idc")).gather(np.arange(whole["patches"]))
    monkeypatch.setattr("histopipe.ingest.packing.shard_length", lambda size: 7)
    ingest("idc", params, workspace)
    store = PatchStore.open(workspace.store("idc"))
    assert len(store.shards) == -(-whole["patches"] // 7)
    assert np.array_equal(store.gather(np.arange(whole["patches"])), before)


def test_undersized_patches_are_edge_padded_and_keep_their_size(workspace: Workspace, params: Params) -> None:
    thin = png(50, 1, seed=5)
    report = pack(workspace, params, idc_members() | {patch_name(10000, 9001, 51, 1): thin})
    store = PatchStore.open(workspace.store("idc"))
    row = store.index.index[store.index["x"] == 9001][0]
    assert report["undersized"] == 1
    assert (store.index["width"][row], store.index["height"][row]) == (1, 50)
    assert np.array_equal(store.gather(np.array([row]))[0], np.repeat(decode_patch(thin), 50, axis=1))


def test_a_nested_copy_counts_once_even_where_it_comes_first(workspace: Workspace, params: Params) -> None:
    members = idc_members()
    copies = {f"IDC_regular_ps50_idx5/{name}": data for name, data in members.items() if name.startswith("10001/")}
    report = pack(workspace, params, copies | members)
    assert report["patches"] == len(members)
    assert report["second_copies"] == len(copies) == 20
    assert report["bad"] == 0
    assert not PatchStore.open(workspace.store("idc")).index["file"].str.startswith("IDC_").any()


def test_a_nested_copy_that_shares_its_bytes_counts_once(workspace: Workspace, params: Params) -> None:
    members = idc_members()
    path = write_zip(workspace.raw("idc") / "archive.zip", members)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "")
        for name in list(members)[:20]:
            nested = copy.copy(archive.getinfo(name))
            nested.filename = f"IDC_regular_ps50_idx5/{name}"
            archive.filelist.append(nested)
    report = ingest("idc", params, workspace)
    assert (report["patches"], report["second_copies"], report["bad"]) == (120, 20, 0)


HOSTILE = {
    "../x.png": (png(), "unsafe path"),
    "/etc/" + patch_name(1, 1, 1, 1): (png(), "unsafe path"),
    "C:\\" + patch_name(1, 51, 1, 1): (png(), "unsafe path"),
    patch_name(10000, 5001, 1, 0): (bomb_png(60_000, 60_000), "absurd dimensions"),
    patch_name(10000, 5051, 1, 0): (b"just text", "not a readable image"),
    patch_name(10000, 5101, 1, 0): (png()[:400], "not a readable image"),
    patch_name(10000, 5151, 1, 0): (b"", "not a readable image"),
    patch_name(10000, 5201, 1, 0, folder=1): (png(), "label contradicts folder"),
    patch_name(10000, 5251, 1, 0): (png(51, 50), "larger than a patch"),
    patch_name(10000, 5301, 1, 0): (bomb_png(1900, 2000), "not a readable image"),
    "10000/0/holiday.png": (png(), "name does not match the data set's pattern"),
    patch_name(10000, 3_000_000_000, 1, 0): (png(), "name does not match the data set's pattern"),
    patch_name(10000, 5351, 1, 0).replace("x5351", "x٥٣٥١"): (png(), "name does not match the data set's pattern"),
    ".": (png(), "unsafe path"),
    "./.": (png(), "unsafe path"),
    "README.md": (b"hello", "not a patch file"),
    "__MACOSX/10000/0/._x": (b"\0", "not a patch file"),
}


def test_hostile_members_are_set_aside_by_name_and_the_rest_goes_on(workspace: Workspace, lenient: Params) -> None:
    report = pack(workspace, lenient, idc_members() | {name: data for name, (data, _) in HOSTILE.items()})
    assert set_aside(report) == {name: reason for name, (_, reason) in HOSTILE.items()}
    assert report["patches"] == 120
    assert report["bad"] == len(HOSTILE) - 2
    assert json.loads((workspace.store("idc") / "report.json").read_text()) == report


def test_a_place_at_the_edge_of_what_the_index_holds_is_kept(workspace: Workspace, params: Params) -> None:
    pack(workspace, params, idc_members() | {patch_name(10000, 999_999_999, 1, 1): png(seed=9)})
    assert PatchStore.open(workspace.store("idc")).index["x"].max() == 999_999_999


def test_a_zip_member_without_a_name_is_set_aside(workspace: Workspace, lenient: Params) -> None:
    path = write_zip(workspace.raw("idc") / "archive.zip", idc_members() | {"xfoo": b"1"})
    path.write_bytes(path.read_bytes().replace(b"xfoo", b"\0foo"))
    assert set_aside(ingest("idc", lenient, workspace)) == {"": "unsafe path"}


def test_a_name_that_is_not_text_is_set_aside_and_reported_escaped(workspace: Workspace, lenient: Params) -> None:
    name = patch_name(10000, 5001, 1, 0)
    write_tar(workspace.raw("idc") / "archive.tar", idc_members() | {f"\udcff/{name}": png()})
    assert set_aside(ingest("idc", lenient, workspace)) == {f"\\udcff/{name}": "name is not valid text"}
    assert "udcff" in (workspace.store("idc") / "report.json").read_text()


@pytest.mark.parametrize(("offset", "stored"), [(None, 2**40), (None, 2**63), (2**62, None), (10**7, None)])
def test_a_zip_entry_of_absurd_place_or_length_is_set_aside(
    workspace: Workspace, lenient: Params, offset: int | None, stored: int | None
) -> None:
    path = write_zip(workspace.raw("idc") / "archive.zip", idc_members())
    name = patch_name(10000, 5001, 1, 0)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, png())
        entry = archive.getinfo(name)
        entry.header_offset = offset or entry.header_offset
        entry.compress_size = stored or entry.compress_size
    assert set_aside(ingest("idc", lenient, workspace)) == {name: "damaged member"}


def test_a_zip_directory_that_shifts_everything_before_the_file_is_refused(
    workspace: Workspace, params: Params
) -> None:
    path = write_zip(workspace.raw("idc") / "archive.zip", idc_members())
    content = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", content, len(content) - 6)
    struct.pack_into("<I", content, len(content) - 6, start + 10**6)
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"120 of 120 members are unusable .*damaged member"):
        ingest("idc", params, workspace)


def test_a_zip_bomb_is_not_inflated(workspace: Workspace, lenient: Params) -> None:
    raw = workspace.raw("idc")
    write_zip(raw / "archive.zip", idc_members())
    with zipfile.ZipFile(raw / "archive.zip", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(patch_name(10000, 5001, 1, 0), b"\0" * (64 * 2**20))
    report = ingest("idc", lenient, workspace)
    assert set_aside(report) == {patch_name(10000, 5001, 1, 0): "too large for a patch"}


def test_a_member_that_claims_a_smaller_size_is_set_aside(workspace: Workspace, lenient: Params) -> None:
    path = write_zip(workspace.raw("idc") / "archive.zip", idc_members())
    name = patch_name(10000, 5001, 1, 0)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\0" * 2**20)
        archive.getinfo(name).file_size = 100
    assert set_aside(ingest("idc", lenient, workspace)) == {name: "damaged member"}


def test_a_flipped_bit_is_noticed(workspace: Workspace, lenient: Params) -> None:
    path = write_zip(workspace.raw("idc") / "archive.zip", idc_members())
    with zipfile.ZipFile(path) as archive:
        entry = archive.infolist()[7]
    content = bytearray(path.read_bytes())
    content[entry.header_offset + 30 + len(entry.filename) + 3000] ^= 1
    path.write_bytes(content)
    assert set_aside(ingest("idc", lenient, workspace)) == {entry.filename: "damaged member"}


def test_both_labels_for_one_place_are_both_set_aside(workspace: Workspace, lenient: Params) -> None:
    pair = {patch_name(10000, 5001, 1, label): png(seed=9) for label in (0, 1)}
    report = pack(workspace, lenient, idc_members() | pair)
    assert set_aside(report) == dict.fromkeys(pair, "both labels for one position")


def test_too_many_bad_members_fail_and_leave_the_old_store(workspace: Workspace, params: Params) -> None:
    pack(workspace, params, idc_members())
    before = {path.name: path.read_bytes() for path in workspace.store("idc").iterdir()}
    broken = idc_members() | {patch_name(10000, 5001 + 50 * number, 1, 0): b"x" for number in range(3)}
    with pytest.raises(ArchiveError, match=r"3 of 123 members are unusable .*ingest\.max_bad = 0\.01"):
        pack(workspace, params, broken)
    assert {path.name: path.read_bytes() for path in workspace.store("idc").iterdir()} == before
    assert [path.name for path in workspace.store("idc").parent.iterdir()] == ["idc"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"no archive at all" * 100, "neither a zip nor a tar"),
        (b"PK\x03\x04" + b"\0" * 1000, "truncated zip"),
    ],
)
def test_what_is_not_an_archive_is_refused(workspace: Workspace, params: Params, data: bytes, message: str) -> None:
    raw = workspace.raw("idc")
    raw.mkdir(parents=True)
    (raw / "archive.zip").write_bytes(data)
    with pytest.raises(ArchiveError, match=message):
        ingest("idc", params, workspace)
    assert not workspace.store("idc").exists()


@pytest.mark.parametrize("members", [{}, {"README.md": b"x"}, {"a/b.png": png()}])
def test_an_archive_without_patches_is_refused(workspace: Workspace, params: Params, members: dict[str, bytes]) -> None:
    with pytest.raises(ArchiveError, match=r"contains no (files|patches)"):
        pack(workspace, params, members)


def test_an_archive_whose_members_are_all_unreadable_is_refused(workspace: Workspace, params: Params) -> None:
    with pytest.raises(ArchiveError, match=r"120 of 120 members are unusable \(120 x not a readable image"):
        pack(workspace, params, dict.fromkeys(idc_members(), b"just text"))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_tar_archives_give_the_same_store_as_zip(workspace: Workspace, params: Params, mode: Any) -> None:
    members = idc_members()
    pack(workspace, params, members)
    expected = PatchStore.open(workspace.store("idc"))
    pixels = expected.gather(np.arange(len(members)))
    (workspace.raw("idc") / "archive.zip").unlink()
    write_tar(workspace.raw("idc") / "archive.tar", {f"./{name}": data for name, data in members.items()}, mode)
    ingest("idc", params, workspace)
    found = PatchStore.open(workspace.store("idc"))
    assert found.index.equals(expected.index)
    assert np.array_equal(found.gather(np.arange(len(members))), pixels)


@pytest.mark.parametrize("cut", [0.3, 0.9])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_truncated_tar_is_refused(workspace: Workspace, params: Params, mode: Any, cut: float) -> None:
    path = write_tar(workspace.raw("idc") / "archive.tar", idc_members(), mode)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(ArchiveError, match="truncated"):
        ingest("idc", params, workspace)


def test_a_full_disk_is_noticed_before_anything_is_written(
    workspace: Workspace, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zip(workspace.raw("idc") / "archive.zip", idc_members())
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(HistopipeError, match=r"needs 945\.0 kB .* only 1\.0 kB are free"):
        ingest("idc", params, workspace)
    assert not workspace.store("idc").exists()


def test_a_set_that_claims_to_be_complete_must_have_the_published_counts(
    workspace: Workspace, content: dict[str, Any]
) -> None:
    content["idc"]["complete"] = True
    with pytest.raises(ArchiveError, match="not the complete set: 120 patches, 6 cases, 60 positive, but 277,524"):
        pack(workspace, parse_params(content), idc_members())


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGBA", 4), ("P", 1), ("LA", 2), ("1", 1), ("I;16", 1)])
def test_other_colour_modes_become_rgb(mode: str, channels: int) -> None:
    grey = np.full((50, 50), 100, np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    patch = decode_patch(buffer.getvalue())
    assert patch.shape == (50, 50, 3)
    assert patch.dtype == np.uint8
    if mode != "1":  # one bit can't say 100
        assert (patch == 100).all()


def test_what_operating_systems_leave_behind_is_harmless(workspace: Workspace, params: Params) -> None:
    members = idc_members()
    left = [f"{name.rpartition('/')[0]}/._{name.rpartition('/')[2]}" for name in members]
    left += [".DS_Store", "10000/.DS_Store", "10000/Icon\r", "10000/0/Thumbs.db", "10000/0/@eaDir/a.png/SYNO@.png"]
    report = pack(workspace, params, {**dict.fromkeys(left, b"\0\5\x16\7"), **members})
    assert (report["patches"], report["cases"], report["bad"]) == (120, 6, 0)
    assert report["set_aside"]["not a patch file"]["count"] == len(left)


def test_a_name_with_a_line_break_is_set_aside_and_reported_in_one_line(workspace: Workspace, lenient: Params) -> None:
    name = patch_name(10000, 5001, 1, 0)
    report = pack(workspace, lenient, idc_members() | {f"a\rb/{name}": png(), f"a\u2028b/{name}": png()})
    fault = "name holds a line break or another control character"
    assert set_aside(report) == {f"a\\x0db/{name}": fault, f"a\\u2028b/{name}": fault}


def test_an_archive_of_too_many_members_is_refused(workspace: Workspace, content: dict[str, Any]) -> None:
    content["ingest"]["max_members"] = 119
    with pytest.raises(ArchiveError, match=r"more than 119 files, folders and links: raise ingest\.max_members"):
        pack(workspace, parse_params(content), idc_members())
    content["ingest"]["max_members"] = 120
    assert pack(workspace, parse_params(content), idc_members())["patches"] == 120


def test_a_zip_with_backslashes_is_read_as_folders(workspace: Workspace, params: Params) -> None:
    report = pack(workspace, params, {name.replace("/", "\\"): data for name, data in idc_members().items()})
    assert (report["patches"], report["cases"], report["bad"]) == (120, 6, 0)
