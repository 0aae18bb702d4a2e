"""An archive decoded in parts: what the parts give together is, byte for byte, what one ingest gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.checkouts import change_params
from histopipe.core.errors import ArchiveError, HistopipeError
from histopipe.core.params import Params, parse_params, read_params
from histopipe.core.workspace import Workspace
from histopipe.data.store import PatchStore
from histopipe.ingest import packing
from histopipe.ingest.parts import CODE, Part
from histopipe.ingest.sources.stage import fetch, locate
from histopipe.ingest.stage import get_parts_folder, ingest, ingest_part, list_missing_parts
from tests.builders.archives import idc_members, patch_name, write_tar, write_zip
from tests.builders.images import png
from tests.builders.paths import ROOT

Find = Callable[[str], Path]
DAMAGED = {patch_name(10000, 5001 + 50 * number, 1, 0): b"not a picture" for number in range(30)}
COPIES = {f"IDC_regular_ps50_idx5/{name}": data for name, data in idc_members(2).items()}


@pytest.fixture
def lenient(content: dict[str, Any]) -> Params:
    content["ingest"]["max_bad"] = 0.5
    return parse_params(content)


@pytest.fixture(autouse=True)
def _short_shards(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "real" not in request.fixturenames:
        monkeypatch.setattr("histopipe.ingest.packing.shard_length", lambda size: 7)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def in_parts(workspace: Workspace, dataset: str, params: Params, numbers: Iterable[int], of: int) -> dict[str, bytes]:
    """The store after an ingest that found these parts here."""
    for number in numbers:
        ingest_part(dataset, Part(number, of), params, workspace)
    ingest(dataset, params, workspace)
    assert not workspace.parts(dataset).exists()
    return files(workspace.store(dataset))


def nothing_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, an ingest that decodes a shard fails."""
    decode = packing.decode

    def refuse(archive: Any, shards: Any, numbers: Any, *rest: Any) -> Any:
        assert not numbers
        return decode(archive, shards, numbers, *rest)

    monkeypatch.setattr("histopipe.ingest.packing.decode", refuse)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 7, 22, 40])
def test_parts_put_together_equal_the_whole(
    workspace: Workspace, lenient: Params, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Second copies, damaged members, a shard of nothing else, and more parts than shards included."""
    members = list((COPIES | idc_members()).items())
    write_zip(workspace.raw("idc") / "archive.zip", dict([*members[:90], *DAMAGED.items(), *members[90:]]))
    report = ingest("idc", lenient, workspace)
    assert (report["patches"], report["bad"], report["second_copies"]) == (120, 30, 40)
    whole = files(workspace.store("idc"))
    assert 18 <= len(whole) - 2 < 22  # some of the 22 shards held nothing that can be used
    for number in range(1, count + 1):
        ingest_part("idc", Part(number, count), lenient, workspace)
    nothing_to_decode(monkeypatch)
    assert in_parts(workspace, "idc", lenient, (), count) == whole


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_what_lacks_is_decoded_where_the_parts_are_put_together(
    workspace: Workspace, lenient: Params, mode: str
) -> None:
    write_tar(workspace.raw("idc") / "archive.tar", idc_members() | DAMAGED, mode)
    ingest("idc", lenient, workspace)
    whole = files(workspace.store("idc"))
    assert in_parts(workspace, "idc", lenient, (1, 3), 4) == whole
    assert in_parts(workspace, "idc", lenient, (4,), 5) == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dataset", "count"),
    [
        ("idc-sample.zip", "idc", 2),
        ("idc-slides.zip", "idc", 1),
        ("malaria-sample.zip", "malaria", 4),
        ("breakhis-sample.zip", "breakhis", 3),
    ],
)
def test_parts_of_the_real_archives_equal_the_whole(
    real: Find,
    workspace: Workspace,
    params: Params,
    name: str,
    dataset: str,
    count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of images that are resized included: nothing of them is decoded again."""
    workspace.raw(dataset).mkdir(parents=True)
    (workspace.raw(dataset) / name).symlink_to(real(name))
    ingest(dataset, params, workspace)
    whole = files(workspace.store(dataset))
    for number in range(1, count + 1):
        ingest_part(dataset, Part(number, count), params, workspace)
    nothing_to_decode(monkeypatch)
    assert in_parts(workspace, dataset, params, (), count) == whole


def folder_of_archives(target: Path, archives: Mapping[str, Path | bytes]) -> Path:
    target.mkdir()
    for name, content in archives.items():
        (target / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return target


def packed(workspace: Workspace, content: dict[str, Any], source: Path) -> Params:
    """The parameters with this folder as the source, which is brought here as the stages do it."""
    content["idc"]["source"] = str(source)
    params = parse_params(content)
    locate("idc", params, workspace)
    fetch("idc", params, workspace)
    return params


def test_a_folder_of_many_archives_is_ingested_as_their_patches(
    workspace: Workspace, content: dict[str, Any], tmp_path: Path
) -> None:
    """Those that can't be read are listed in the report; the same in parts."""
    members = idc_members()
    by_case = {
        f"{case}.zip": write_zip(tmp_path / f"{case}.zip", {n: d for n, d in members.items() if n.startswith(case)})
        for case in ("10000", "10001", "10002", "10003", "10004", "10005")
    }
    bad = {"cut.zip": by_case["10000.zip"].read_bytes()[:-40], "slides.tar.gz": b"whatever"}
    content["ingest"]["max_bad"] = 0.5
    params = packed(workspace, content, folder_of_archives(tmp_path / "many", by_case | bad))
    report = ingest("idc", params, workspace)
    assert (report["patches"], report["cases"], report["bad"]) == (120, 6, 2)
    (why,) = [reason for reason, entry in report["set_aside"].items() if entry["bad"]]
    assert why.startswith("archive within the archive") and report["set_aside"][why]["files"] == list(bad)
    whole = files(workspace.store("idc"))
    assert in_parts(workspace, "idc", params, (1, 2, 3), 3) == whole


@pytest.mark.slow
def test_a_folder_of_the_real_archives_is_ingested_whole(
    real: Find, workspace: Workspace, content: dict[str, Any], tmp_path: Path
) -> None:
    archives = {name: real(name) for name in ("idc-sample.zip", "idc-slides.zip")}
    params = packed(workspace, content, folder_of_archives(tmp_path / "many", archives))
    report = ingest("idc", params, workspace)
    index = PatchStore.open(workspace.store("idc")).index
    assert (report["bad"], len(index)) == (0, report["patches"])
    counts = index["case_id"].value_counts()  # of both: the sample holds some patches of these slides too
    assert counts[["8863", "8865", "8867"]].tolist() == [979, 712, 1642]
    assert len(counts) == 230
    whole = files(workspace.store("idc"))
    assert in_parts(workspace, "idc", params, (1, 3), 3) == whole


def spoil_pixels(folder: Path) -> None:
    (folder / "patches-00003.npy").write_bytes(b"no array")


def flip_a_pixel(folder: Path) -> None:
    path = folder / "patches-00003.npy"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def empty_pixels(folder: Path) -> None:
    (folder / "patches-00003.npy").write_bytes(b"")


def spoil_index(folder: Path) -> None:
    (folder / "patches-00004.parquet").write_bytes(b"no table")


def spoil_rejects(folder: Path) -> None:
    (folder / "patches-00005.json").write_text('[["made up", "1"]]')


def lose_index(folder: Path) -> None:
    (folder / "patches-00006.parquet").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [spoil_pixels, flip_a_pixel, empty_pixels, spoil_index, spoil_rejects, lose_index])
def test_a_damaged_part_is_decoded_again(workspace: Workspace, params: Params, spoil: Callable[[Path], None]) -> None:
    write_zip(workspace.raw("idc") / "archive.zip", idc_members())
    ingest("idc", params, workspace)
    whole = files(workspace.store("idc"))
    spoil(ingest_part("idc", Part(1, 1), params, workspace))
    assert in_parts(workspace, "idc", params, (), 1) == whole


def other_archive(workspace: Workspace, content: dict[str, Any]) -> None:
    members = idc_members()
    write_zip(workspace.raw("idc") / "archive.zip", members | {next(iter(members)): png(seed=12345)})


def other_parameters(workspace: Workspace, content: dict[str, Any]) -> None:
    content["idc"]["patch_size"] = [60, 60]


def other_libraries(workspace: Workspace, content: dict[str, Any]) -> None:
    (workspace.root / "requirements.lock").write_text("imagecodecs==1\n")


@pytest.mark.slow
@pytest.mark.parametrize("change", [other_archive, other_parameters, other_libraries])
def test_parts_of_something_else_are_not_used(
    workspace: Workspace, content: dict[str, Any], change: Callable[[Workspace, dict[str, Any]], None]
) -> None:
    write_zip(workspace.raw("idc") / "archive.zip", idc_members())
    before = ingest_part("idc", Part(1, 2), parse_params(content), workspace)
    change(workspace, content)
    params = parse_params(content)
    assert get_parts_folder("idc", params, workspace) != before.parent
    ingest_part("idc", Part(2, 2), params, workspace)
    assert not before.exists()
    shutil.rmtree(workspace.parts("idc"))
    ingest("idc", params, workspace)
    whole = files(workspace.store("idc"))
    ingest_part("idc", Part(1, 2), params, workspace)
    assert in_parts(workspace, "idc", params, (), 1) == whole


def test_too_many_bad_members_over_all_parts_fail_as_in_one_go(workspace: Workspace, params: Params) -> None:
    write_zip(workspace.raw("idc") / "archive.zip", idc_members() | DAMAGED)
    with pytest.raises(ArchiveError, match=r"30 of 150 members are unusable") as alone:
        ingest("idc", params, workspace)
    for number in (1, 2):
        ingest_part("idc", Part(number, 2), params, workspace)
    with pytest.raises(ArchiveError) as together:
        ingest("idc", params, workspace)
    assert str(together.value) == str(alone.value)
    assert not workspace.store("idc").exists()


def test_a_broken_off_ingest_leaves_the_parts_for_the_next(
    workspace: Workspace, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zip(workspace.raw("idc") / "archive.zip", idc_members() | DAMAGED)
    ingest_part("idc", Part(1, 1), parse_params(content), workspace)
    with pytest.raises(ArchiveError):
        ingest("idc", parse_params(content), workspace)
    content["ingest"]["max_bad"] = 0.5
    nothing_to_decode(monkeypatch)
    assert ingest("idc", parse_params(content), workspace)["bad"] == 30


def test_only_parts_that_lack_something_are_asked_for(workspace: Workspace, params: Params) -> None:
    write_zip(workspace.raw("idc") / "archive.zip", idc_members())  # 18 shards

    def missing(most: int, shards: int) -> list[str]:
        return [str(part) for part in list_missing_parts("idc", most, shards, params, workspace)]

    assert missing(6, 6) == ["1-3", "2-3", "3-3"]
    assert missing(2, 6) == ["1-2", "2-2"]
    assert missing(6, 10) == missing(1, 1) == []  # not worth it
    ingest_part("idc", Part(2, 3), params, workspace)
    assert missing(6, 6) == ["1-3", "3-3"]
    assert missing(6, 9) == ["1-2", "2-2"]


def test_a_flow_is_told_what_lacks_and_where_it_belongs(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from histopipe.cli import main
    from tasks.distributed.parts import Part as PartOfFlow

    monkeypatch.chdir(workspace.root)
    change_params(workspace.root, flow={"part_shards": 6})
    params = read_params(workspace.params)
    write_zip(workspace.raw("idc") / "archive.zip", idc_members())
    ingest_part("idc", Part(2, 3), params, workspace)
    done = CliRunner().invoke(main, ["ingest", "idc", "--missing-parts", "6"])
    assert done.exit_code == 0, done.output
    folder = get_parts_folder("idc", params, workspace).relative_to(workspace.root)
    assert [PartOfFlow.parse(line) for line in done.stdout.splitlines()] == [
        PartOfFlow(1, 3, f"{folder}/1-3"),
        PartOfFlow(3, 3, f"{folder}/3-3"),
    ]


@pytest.mark.parametrize("count", [1, 5, 62])
@pytest.mark.parametrize("of", [1, 2, 3, 7, 100])
def test_every_shard_is_in_one_part(count: int, of: int) -> None:
    parts = [Part(number, of).list_shards(count) for number in range(1, of + 1)]
    assert [number for part in parts for number in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("written", ["", "3", "0/3", "4/3", "1/0", "-1/3", "a/b", "1/2/3", "../3"])
def test_a_part_that_cannot_be_is_one_clear_line(written: str) -> None:
    with pytest.raises(HistopipeError, match="is not a part of an archive: write 1/3"):
        Part.parse(written)


def test_the_command_leaves_a_part_whose_report_names_what_it_rejected(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from histopipe.cli import main

    monkeypatch.chdir(workspace.root)
    write_zip(workspace.raw("idc") / "archive.zip", idc_members() | DAMAGED)
    done = CliRunner().invoke(main, ["ingest", "idc", "--part", "3/3"])
    assert done.exit_code == 0, done.output
    folder = workspace.root / done.stdout.splitlines()[-1]
    rejected: list[Mapping[str, str]] = [one for path in folder.glob("*.json") for one in json.loads(path.read_text())]
    assert sorted(file for _, file in rejected) == sorted(DAMAGED)
    refused = CliRunner().invoke(main, ["ingest", "idc", "--part", "4/3"])
    assert (refused.exit_code, refused.output.count("\n")) == (2, 1)


def test_parts_go_stale_with_the_code_that_dvc_names_for_ingest() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    named = {one.removeprefix("histopipe/") for one in stages["ingest"]["deps"] if one.startswith("histopipe/")}
    assert {pattern.partition("/*")[0] for pattern in CODE} == named


@pytest.mark.parametrize("written", ["", "3", "0/3", "4/3", "1/-1", "²/3", "٣/٨", "1/" + "9" * 5000, "9" * 5000 + "/3"])
def test_what_is_no_part_is_refused(written: str) -> None:
    with pytest.raises(HistopipeError, match="is not a part of an archive"):
        Part.parse(written)
