"""Locating and fetching what lies on this machine, or is drawn on it."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from histopipe.core.addresses import public_url
from histopipe.core.errors import HistopipeError, SourceError
from histopipe.core.files import file_digest
from histopipe.core.params import Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.ingest.datasets import get_dataset
from histopipe.ingest.sources import digests
from histopipe.ingest.sources.archive_file import find_archive
from histopipe.ingest.sources.record import SourceRecord
from histopipe.ingest.sources.stage import fetch, locate
from histopipe.ingest.sources.wanted import make_archive_name
from histopipe.ingest.sources.watch import describe_change, record_use
from tests.builders.paths import ROOT, SHARED

SAMPLE = SHARED / "idc-sample.zip"
PATCH = "8863/0/8863_idx5_x51_y1251_class0.png"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "checkout").mkdir()
    return Workspace(tmp_path / "checkout")


def params_with(source: str, **changes: Any) -> Params:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["idc"] = {"source": source, **changes}
    return parse_params(content)


def zip_at(path: Path, members: dict[str, bytes] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members or {PATCH: b"pixels" * 50}).items():
            archive.writestr(name, content)
    return path


def folder_at(path: Path) -> Path:
    for name in ("8863/0/b.png", "8863/0/a.png", "8863/1/c.png"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(name.encode() * 10)
    return path


def record_of(workspace: Workspace) -> bytes:
    return workspace.source("idc").read_bytes()


def assert_one_line(caught: pytest.ExceptionInfo[HistopipeError], *parts: str) -> None:
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


# Archives on this machine


def test_an_archive_arrives_as_it_is(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    source = zip_at(workspace.root.parent / "patches.zip")
    params = params_with("../patches.zip")
    record = locate("idc", params, workspace)
    assert record.kind == "archive"
    assert record.resolved == "../patches.zip"
    archive = fetch("idc", params, workspace)
    assert archive == workspace.raw("idc") / "patches.zip" == find_archive(workspace.raw("idc"))
    assert archive.read_bytes() == source.read_bytes()
    assert [path.name for path in workspace.raw("idc").iterdir()] == ["patches.zip"]
    said = capsys.readouterr().out
    assert said == "idc: fetching 472 B; the packed store will need about 7.5 kB more\n"


def test_the_record_is_the_same_until_the_archive_changes(workspace: Workspace) -> None:
    source = zip_at(workspace.root / "patches.zip")
    params = params_with("patches.zip")
    locate("idc", params, workspace)
    before = record_of(workspace)
    os.utime(source, (1, 1))
    locate("idc", params, workspace)
    assert record_of(workspace) == before
    content = bytearray(source.read_bytes())
    content[60] ^= 1  # same path, same size, other content
    source.write_bytes(content)
    locate("idc", params, workspace)
    assert record_of(workspace) != before


def test_an_archive_is_read_through_once_while_it_looks_the_same(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(digests, "file_digest", lambda path: (read.append(path), file_digest(path))[1])
    path = zip_at(workspace.root / "slides.zip")
    settled = path.stat().st_mtime - 60
    params = params_with("slides.zip")
    first = locate("idc", params, workspace)
    assert locate("idc", params, workspace) == first
    assert len(read) == 2  # it may be written to yet
    os.utime(path, (settled, settled))
    for _ in range(3):
        assert locate("idc", params, workspace) == first
    assert len(read) == 3
    whole = workspace.digest("idc").read_text()
    digest = file_digest(path)
    for damaged in ("{", "[]", "5", whole.replace(digest, digest[:-1] + ("0" if digest[-1] != "0" else "1"))):
        workspace.digest("idc").write_text(damaged)
        assert locate("idc", params, workspace) == first
    zip_at(path, {PATCH: b"other" * 99})
    os.utime(path, (settled, settled))  # of the same age, but longer
    assert locate("idc", params, workspace).fingerprint == {"sha256": file_digest(path)} != first.fingerprint


def test_an_archive_that_changed_after_locating_is_refused(workspace: Workspace) -> None:
    source = zip_at(workspace.root / "patches.zip")
    params = params_with("patches.zip")
    locate("idc", params, workspace)
    zip_at(source, {PATCH: b"other"})
    with pytest.raises(SourceError) as caught:
        fetch("idc", params, workspace)
    assert_one_line(caught, "patches.zip changed since it was located", "histopipe locate idc")
    assert not workspace.raw("idc").exists()


def test_a_failed_fetch_leaves_the_earlier_archive(workspace: Workspace) -> None:
    source = zip_at(workspace.root / "patches.zip")
    params = params_with("patches.zip")
    locate("idc", params, workspace)
    earlier = fetch("idc", params, workspace).read_bytes()
    zip_at(source, {PATCH: b"other"})
    with pytest.raises(SourceError):
        fetch("idc", params, workspace)
    assert find_archive(workspace.raw("idc")).read_bytes() == earlier
    assert [path.name for path in workspace.raw("idc").parent.iterdir()] == ["idc"]


def test_a_home_folder_is_expanded(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    zip_at(workspace.root.parent / "home" / "patches.zip")
    monkeypatch.setenv("HOME", str(workspace.root.parent / "home"))
    assert locate("idc", params_with("~/patches.zip"), workspace).resolved == "~/patches.zip"


def test_relative_sources_resolve_against_the_checkout_in_an_experiment(tmp_path: Path) -> None:
    zip_at(tmp_path / "patches.zip")
    experiment = Workspace(tmp_path / ".dvc" / "tmp" / "exps" / "one")
    params = params_with("patches.zip")
    locate("idc", params, experiment)
    assert fetch("idc", params, experiment).is_relative_to(experiment.root)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_tar_archives_are_accepted(workspace: Workspace, suffix: str) -> None:
    folder_at(workspace.root / "loose")
    archive = workspace.root / f"patches.{suffix}"
    with tarfile.open(archive, f"w:{suffix.removeprefix('tar').strip('.')}") as tar:
        tar.add(workspace.root / "loose")
    params = params_with(archive.name)
    locate("idc", params, workspace)
    assert fetch("idc", params, workspace).read_bytes() == archive.read_bytes()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty (0 bytes)"),
        (b"not an archive at all" * 100, "is neither a zip nor a tar archive"),
        (b"PK\x03\x04" + bytes(500), "is a truncated zip archive"),
        (b"PK\x05\x06" + bytes(18), "is a zip archive without any files"),
        (b"\x1f\x8b", "is neither a zip nor a tar archive"),
        (gzip.compress(bytes(20_000), mtime=0)[:-30], "is neither a zip nor a tar archive"),
        (b"\xfd7zXZ\0" + bytes(100), "is neither a zip nor a tar archive"),
    ],
)
def test_what_is_no_archive_is_refused(workspace: Workspace, content: bytes, complaint: str) -> None:
    (workspace.root / "patches.zip").write_bytes(content)
    with pytest.raises(SourceError) as caught:
        locate("idc", params_with("patches.zip"), workspace)
    assert_one_line(caught, str(workspace.root / "patches.zip"), complaint)
    assert not workspace.source("idc").exists()


def test_a_zip_with_a_damaged_directory_is_refused(workspace: Workspace) -> None:
    source = zip_at(workspace.root / "patches.zip")
    content = source.read_bytes()
    source.write_bytes(content.replace(b"PK\x01\x02", b"PK\x01\xff"))
    params = params_with("patches.zip")
    locate("idc", params, workspace)
    with pytest.raises(SourceError) as caught:
        fetch("idc", params, workspace)
    assert_one_line(caught, "damaged zip archive")


def test_a_missing_path_names_the_key(workspace: Workspace) -> None:
    with pytest.raises(SourceError) as caught:
        locate("idc", params_with("nowhere/patches.zip"), workspace)
    assert_one_line(caught, str(workspace.root / "nowhere" / "patches.zip"), "idc.source")


def test_other_addresses_lead_to_dvc(workspace: Workspace) -> None:
    with pytest.raises(SourceError) as caught:
        locate("idc", params_with("s3://bucket/patches.zip"), workspace)
    assert_one_line(caught, "s3://", "dvc import-url")


@pytest.mark.parametrize("source", ["data/raw/idc", "data/raw/idc/patches.zip", ".", "data"])
def test_a_source_that_fetch_would_delete_is_refused(workspace: Workspace, source: str) -> None:
    zip_at(workspace.raw("idc") / "patches.zip")
    with pytest.raises(SourceError) as caught:
        locate("idc", params_with(source), workspace)
    assert_one_line(caught, "overlaps", "idc.source")


def test_a_login_in_an_address_is_warned_of_since_dvc_repeats_it(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(HistopipeError):
        locate("idc", params_with("http://me:hunter2@127.0.0.1:9/a.zip"), workspace)
    assert "idc.source contains a login, which DVC copies into dvc.lock" in caplog.text and "hunter2" not in caplog.text
    caplog.clear()
    with pytest.raises(HistopipeError):
        locate("idc", params_with("http://127.0.0.1:9/a.zip#part"), workspace)
    assert not caplog.text


def test_a_checksum_is_compared(workspace: Workspace) -> None:
    digest = hashlib.sha256(zip_at(workspace.root / "patches.zip").read_bytes()).hexdigest()
    locate("idc", params_with("patches.zip", checksum=f"sha256:{digest}"), workspace)
    with pytest.raises(SourceError) as caught:
        locate("idc", params_with("patches.zip", checksum="sha256:" + "0" * 64), workspace)
    assert_one_line(caught, digest, "idc.checksum")


def test_too_little_room_is_said_before_anything_is_written(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    zip_at(workspace.root / "patches.zip")
    params = params_with("patches.zip")
    locate("idc", params, workspace)
    full = shutil.disk_usage(workspace.root)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(HistopipeError) as caught:
        fetch("idc", params, workspace)
    assert_one_line(caught, "fetching idc needs", "make room")
    assert not workspace.raw("idc").exists()


def test_a_disk_that_fills_up_is_one_line(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    params = params_with("patches.zip")
    zip_at(workspace.root / "patches.zip")
    locate("idc", params, workspace)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("histopipe.ingest.sources.local.ArchiveFile.fetch", full)
    with pytest.raises(SourceError) as caught:
        fetch("idc", params, workspace)
    assert_one_line(caught, "No space left", "make room")


def test_fetching_needs_a_record_of_the_same_source(workspace: Workspace) -> None:
    zip_at(workspace.root / "one.zip")
    zip_at(workspace.root / "other.zip")
    with pytest.raises(HistopipeError) as caught:
        fetch("idc", params_with("one.zip"), workspace)
    assert_one_line(caught, "idc.json is missing")
    locate("idc", params_with("one.zip"), workspace)
    with pytest.raises(SourceError) as caught:
        fetch("idc", params_with("other.zip"), workspace)
    assert_one_line(caught, "histopipe locate idc")


def test_a_damaged_record_is_written_anew(workspace: Workspace) -> None:
    zip_at(workspace.root / "patches.zip")
    workspace.source("idc").parent.mkdir(parents=True)
    workspace.source("idc").write_text('{"kind": ')
    locate("idc", params_with("patches.zip"), workspace)
    assert json.loads(record_of(workspace))["kind"] == "archive"


# Folders


def test_a_folder_is_packed_into_the_same_bytes_each_time(workspace: Workspace) -> None:
    folder = folder_at(workspace.root / "loose")
    params = params_with("loose")
    assert locate("idc", params, workspace).fingerprint["files"] == 3
    first = fetch("idc", params, workspace)
    assert first.name == "loose.zip"
    content = first.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.namelist() == ["8863/0/a.png", "8863/0/b.png", "8863/1/c.png"]
        assert archive.read("8863/0/b.png") == (folder / "8863/0/b.png").read_bytes()
    os.utime(folder / "8863/0/a.png", (1, 1))
    locate("idc", params, workspace)
    assert fetch("idc", params, workspace).read_bytes() == content


@pytest.mark.parametrize("change", ["edit", "add", "remove", "rename"])
def test_a_changed_folder_is_noticed(workspace: Workspace, change: str) -> None:
    folder = folder_at(workspace.root / "loose") / "8863" / "0"
    params = params_with("loose")
    before = locate("idc", params, workspace)
    assert locate("idc", params, workspace) == before
    if change == "edit":
        (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[::-1])
    elif change == "add":
        (folder / "new.png").write_bytes(b"new")
    elif change == "remove":
        (folder / "a.png").unlink()
    else:
        (folder / "a.png").rename(folder / "z.png")
    with pytest.raises(SourceError) as caught:
        fetch("idc", params, workspace)
    assert_one_line(caught, "changed since it was located")
    assert locate("idc", params, workspace) != before


def test_links_that_lead_outside_are_left_out_and_said(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_at(workspace.root / "loose")
    (workspace.root / "secret").write_text("not yours")
    (folder / "8863" / "leak.png").symlink_to(workspace.root / "secret")
    (folder / "up").symlink_to(workspace.root)
    (folder / "8863" / "twin.png").symlink_to(folder / "8863/0/a.png")
    params = params_with("loose")
    locate("idc", params, workspace)
    assert "2 files are skipped" in caplog.text
    with zipfile.ZipFile(fetch("idc", params, workspace)) as archive:
        assert archive.namelist() == ["8863/0/a.png", "8863/0/b.png", "8863/1/c.png", "8863/twin.png"]


def test_odd_file_names_are_left_out_and_said(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_at(workspace.root / "loose")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).write_bytes(b"x")
    assert locate("idc", params_with("loose"), workspace).fingerprint["files"] == 3
    assert "isn't UTF-8" in caplog.text


def test_an_empty_folder_is_refused(workspace: Workspace) -> None:
    (workspace.root / "loose" / "deep").mkdir(parents=True)
    with pytest.raises(SourceError) as caught:
        locate("idc", params_with("loose"), workspace)
    assert_one_line(caught, "is an empty folder", "idc.source")


def test_a_folder_that_holds_only_an_archive_names_it(workspace: Workspace) -> None:
    archive = zip_at(workspace.root / "download" / "patches.zip")
    with pytest.raises(SourceError) as caught:
        locate("idc", params_with("download"), workspace)
    assert_one_line(caught, f"set idc.source to {archive}")


# Drawn slides


def test_synthetic_settings_and_code_decide_the_record(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("histopipe.ingest.synthetic")
    params = params_with("synthetic")
    record = locate("idc", params, workspace)
    assert record.fingerprint["seed"] == 42
    assert record == locate("idc", params, workspace)
    assert record != locate("idc", params.model_copy(update={"seed": 1}), workspace)
    monkeypatch.setattr("histopipe.ingest.sources.synthetic.code_digest", lambda: "other code")
    assert record != locate("idc", params, workspace)


def test_synthetic_slides_are_drawn_into_the_raw_folder(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = pytest.importorskip("histopipe.ingest.synthetic.plan")
    asked = []

    def write_archive(path: Path, slides: object, progress: bool) -> None:
        asked.append(slides)
        zip_at(path)

    monkeypatch.setattr("histopipe.ingest.synthetic.archive.write_archive", write_archive)
    params = params_with("synthetic")
    locate("idc", params, workspace)
    assert fetch("idc", params, workspace).name == "idc-synthetic.zip"
    assert asked == [plan.SyntheticSlides(cases=120, patches=6000, nested_copy=True, seed=42)]


# Manifests


def own_data(workspace: Workspace, manifest: str = "patches.csv", source: str = "loose") -> Params:
    folder_at(workspace.root / "loose")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["mine"] = {"source": source, "manifest": manifest}
    return parse_params({**content, "datasets": ["mine"]})


def test_a_manifest_travels_with_its_archive(workspace: Workspace) -> None:
    params = own_data(workspace)
    manifest = workspace.root / "patches.csv"
    manifest.write_text("file,case_id,label\n8863/0/a.png,8863,0\n")
    before = locate("mine", params, workspace)
    archive = fetch("mine", params, workspace)
    assert find_archive(workspace.raw("mine")) == archive
    assert (workspace.raw("mine") / "manifest.csv").read_bytes() == manifest.read_bytes()
    manifest.write_text("file,case_id,label\n")
    with pytest.raises(SourceError) as caught:
        fetch("mine", params, workspace)
    assert_one_line(caught, "mine.manifest changed", "histopipe locate mine")
    assert locate("mine", params, workspace) != before


@pytest.mark.parametrize("name", ["long/" * 2000, "a" * 300, "~\0", "\0"])
def test_a_manifest_whose_path_cannot_be_one_is_one_line(workspace: Workspace, name: str) -> None:
    with pytest.raises(SourceError) as caught:
        locate("mine", own_data(workspace, name), workspace)
    assert_one_line(caught, "mine.manifest")


def test_a_zip_in_several_parts_is_one_line(workspace: Workspace) -> None:
    content = zip_at(workspace.root / "patches.zip").read_bytes()
    locator = b"PK\x06\x07" + (1).to_bytes(4, "little") + bytes(8) + (2).to_bytes(4, "little")
    (workspace.root / "patches.zip").write_bytes(content[:-22] + locator + content[-22:])
    params = params_with("patches.zip")
    locate("idc", params, workspace)
    with pytest.raises(SourceError) as caught:
        fetch("idc", params, workspace)
    assert_one_line(caught, "multiple disks")


def test_a_missing_manifest_names_the_key(workspace: Workspace) -> None:
    with pytest.raises(SourceError) as caught:
        locate("mine", own_data(workspace), workspace)
    assert_one_line(caught, str(workspace.root / "patches.csv"), "mine.manifest")


@pytest.mark.parametrize(
    ("source", "complaint"), [("synthetic", "exist for idc, malaria, breakhis only"), ("kaggle", "no Kaggle")]
)
def test_a_manifest_needs_a_source_of_its_own(workspace: Workspace, source: str, complaint: str) -> None:
    (workspace.root / "patches.csv").write_text("file,case_id,label\n")
    with pytest.raises(SourceError) as caught:
        locate("mine", own_data(workspace, source=source), workspace)
    assert_one_line(caught, complaint, "mine.source")


# The raw folder, names and addresses


def test_the_archive_in_a_folder_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no archive"):
        find_archive(tmp_path / "idc")
    (tmp_path / "manifest.csv").touch()
    with pytest.raises(SourceError, match="holds no archive"):
        find_archive(tmp_path)
    zip_at(tmp_path / "a.zip")
    assert find_archive(tmp_path).name == "a.zip"
    zip_at(tmp_path / "b.zip")
    with pytest.raises(SourceError, match="holds 2 files"):
        find_archive(tmp_path)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.zip", "a.zip"),
        ("", "idc.archive"),
        ("..", "idc.archive"),
        ("manifest.csv", "idc.archive"),
        ("a/b", "ab"),
    ],
)
def test_archive_names_are_only_names(name: str, safe: str) -> None:
    assert make_archive_name(name, "idc") == safe


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@host:8443/a.zip", "https://host:8443/a.zip"),
        ("https://host/a.zip?id=3&X-Amz-Signature=secret", "https://host/a.zip?id=3&X-Amz-Signature=..."),
        ("https://host/a.zip?access_token=secret#part", "https://host/a.zip?access_token=..."),
        ("https://host/a.zip?id=3%2C4", "https://host/a.zip?id=3%2C4"),
    ],
)
def test_credentials_are_never_shown(url: str, shown: str) -> None:
    assert public_url(url) == shown


# The real archive


@pytest.mark.skipif(not SAMPLE.exists(), reason=f"the real IDC sample is not at {SAMPLE}")
def test_the_real_sample_is_located_and_fetched(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    params = params_with(str(SAMPLE))
    record = locate("idc", params, workspace)
    assert record.size == 59_455_371
    assert fetch("idc", params, workspace).stat().st_size == record.size
    stored = 9387 * 50 * 50 * 3  # the 671 repeated patches are counted once
    assert f"{stored / 1e6:.1f} MB more" in capsys.readouterr().out


def test_kaggle_knows_the_published_set() -> None:
    assert get_dataset("idc").kaggle == "paultimothymooney/breast-histopathology-images"


def test_a_source_is_new_until_it_was_used(workspace: Workspace) -> None:
    source = zip_at(workspace.root / "patches.zip")
    locate("idc", params_with("patches.zip"), workspace)
    assert describe_change("idc", workspace) == "first seen"
    record_use(SourceRecord.read(workspace.source("idc")), "idc", workspace)
    assert describe_change("idc", workspace) is None
    zip_at(source, {PATCH: b"more" * 200})
    locate("idc", params_with("patches.zip"), workspace)
    assert re.fullmatch(r"changed \([\d,]+ -> [\d,]+ bytes\)", describe_change("idc", workspace) or "")
    zip_at(workspace.root / "others.zip")
    locate("idc", params_with("others.zip"), workspace)
    assert describe_change("idc", workspace) == "others.zip instead of patches.zip"
    workspace.used_source("idc").write_text("{")
    with pytest.raises(HistopipeError):
        describe_change("idc", workspace)


def test_a_record_without_a_size_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Not every server says how large an archive is."""
    record = SourceRecord("url", "https://host/a.zip", "https://host/a.zip", "a.zip", None, {"etag": "x"})
    record.write(tmp_path / "idc.json")
    assert SourceRecord.read(tmp_path / "idc.json") == record
