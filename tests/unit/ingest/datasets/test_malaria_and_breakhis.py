"""What the names of members say: real ones, odd ones, and ones that can't be right."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from histopipe.core.errors import ArchiveError, ParamsError
from histopipe.core.params import Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.membership import read_membership
from histopipe.data.splitting.stage import split
from histopipe.data.store import PatchStore, read_index
from histopipe.ingest.datasets import MemberRejected, get_dataset, list_datasets
from histopipe.ingest.stage import ingest
from tests.builders.archives import write_zip
from tests.builders.images import png

BREAKHIS = "BreaKHis_v1/histology_slides/breast"


def read(dataset: str, name: str) -> Any:
    return get_dataset(dataset).read_name(name)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("C100P61ThinF_IMG_20150918_144104_cell_168.png", "C100P61"),
        ("C33P1thinF_IMG_20150619_114756a_cell_179.png", "C33P1"),
        ("C37BP2_thinF_IMG_20150620_131423a_cell_91.png", "C37BP2"),
        ("C1_thinF_IMG_20150604_104722_cell_9.png", "C1"),
        ("C202ThinF_IMG_20151015_145317_cell_8.png", "C202"),
        ("C72P33_ThinF_IMG_20150815_110043_cell_166.png", "C72P33"),
        ("C61P22N_ThinF_IMG_20150818_150301_cell_85.png", "C61P22N"),
        ("C183P144NThinF_IMG_20151201_222119_cell_141.png", "C183P144N"),
        ("C7NthinF_IMG_20150611_104712_cell_165.png", "C7N"),
        ("C167P128ReThinF_IMG_20151201_105559_cell_200.png", "C167P128Re"),
        ("C3thin_original_IMG_20150608_162835_cell_1.png", "C3"),
        ("C38P3thinF_original_IMG_20150621_112043_cell_203.png", "C38P3"),
        ("C42P5thin_original_IMG_20150623_134326_cell_19.png", "C42P5"),
        ("C47P8thin_Original_Motic_IMG_20150714_093806_cell_131.png", "C47P8"),
        ("C47P8thinOriginalOlympusCX21_IMG_20150714_104711_cell_2.png", "C47P8"),
    ],
)
def test_a_cells_patient_stands_before_thin(name: str, case: str) -> None:
    for folder, label in (("Parasitized", 1), ("Uninfected", 0), ("parasitized", 1)):
        for root in ("cell_images/", "cell_images/cell_images/", ""):
            found = read("malaria", f"{root}{folder}/{name}")
            assert (found.case_id, found.label, found.x, found.attributes) == (case, label, None, ())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cell_images/Parasitized/holiday.png", "name does not match the data set's pattern"),
        ("cell_images/Parasitized/C1P1_IMG_1_cell_1.png", "name does not match the data set's pattern"),
        (
            "cell_images/Parasitized/ThinF_IMG_20150918_144104_cell_168.png",
            "name does not match the data set's pattern",
        ),
        (
            "cell_images/Parasitized/C٣P1ThinF_IMG_20150918_144104_cell_1.png",
            "name does not match the data set's pattern",
        ),
        ("cell_images/C1P1ThinF_IMG_20150918_144104_cell_1.png", "folders name no class"),
        ("Uninfected/Parasitized/C1P1ThinF_IMG_20150918_144104_cell_1.png", "folders name both classes"),
    ],
)
def test_a_cell_of_unknown_patient_or_class_is_rejected(name: str, reason: str) -> None:
    with pytest.raises(MemberRejected, match=reason):
        read("malaria", name)


@pytest.mark.parametrize(
    "last",
    ["C" + "1" * 60_000, "C1" + "thin" * 15_000, "C" + "1" * 20_000 + "thin" * 10_000, "C1thin" + "_cell_1" * 8_000],
)
def test_the_longest_names_of_cells_are_read_at_once(last: str) -> None:
    """The longest that a zip holds; tried from every `thin` on, some would take hours."""
    start = time.process_time()
    with pytest.raises(MemberRejected, match="name does not match the data set's pattern"):
        read("malaria", f"Parasitized/{last}.PNG")
    assert time.process_time() - start < 2


@pytest.mark.parametrize("name", ["cell_images/Parasitized/Thumbs.db", "a/C1P1ThinF_IMG_1_cell_1.jpg", "README"])
def test_other_files_are_no_patches(name: str) -> None:
    assert read("malaria", name) is None
    assert read("breakhis", name) is None


@pytest.mark.parametrize(
    ("path", "case", "label", "magnification", "subtype"),
    [
        ("benign/SOB/adenosis/SOB_B_A_14-22549AB/40X", "14-22549AB", 0, 40, "A"),
        ("benign/SOB/fibroadenoma/SOB_B_F_14-9133/100X", "14-9133", 0, 100, "F"),
        ("benign/SOB/phyllodes_tumor/SOB_B_PT_14-21998AB/200X", "14-21998AB", 0, 200, "PT"),
        ("benign/SOB/tubular_adenoma/SOB_B_TA_14-3411F/400X", "14-3411F", 0, 400, "TA"),
        ("malignant/SOB/ductal_carcinoma/SOB_M_DC_14-13412/40X", "14-13412", 1, 40, "DC"),
        ("malignant/SOB/lobular_carcinoma/SOB_M_LC_14-13412/40X", "14-13412", 1, 40, "LC"),
        ("malignant/SOB/mucinous_carcinoma/SOB_M_MC_14-18842D/40X", "14-18842D", 1, 40, "MC"),
        ("malignant/SOB/papillary_carcinoma/SOB_M_PC_15-190EF/400X", "15-190EF", 1, 400, "PC"),
    ],
)
def test_a_field_tells_patient_class_magnification_and_subtype(
    path: str, case: str, label: int, magnification: int, subtype: str
) -> None:
    expected = (case.rstrip("ABCDEFG"), label, None, None, (magnification, subtype))
    file = f"SOB_{'BM'[label]}_{subtype}-{case}-{magnification}-011.png"
    assert read("breakhis", f"{BREAKHIS}/{path}/{file}") == expected
    assert read("breakhis", f"BreaKHis_v1/{BREAKHIS}/{path}/{file}") == expected  # as Kaggle nests it
    assert read("breakhis", file) == expected


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("SOB_B_A-14-22549AB-40.png", "name does not match the data set's pattern"),
        ("SOB_B_A-14-22549AB-50-001.png", "name does not match the data set's pattern"),
        ("SOB_B_XX-14-22549AB-40-001.png", "name does not match the data set's pattern"),
        ("SOB_B_DC-14-22549AB-40-001.png", "subtype contradicts class"),
        ("malignant/SOB_B_A-14-22549AB-40-001.png", "label contradicts folder"),
        ("benign/fibroadenoma/SOB_B_A-14-22549AB-40-001.png", "subtype contradicts folder"),
        ("SOB_B_A_14-22549CD/40X/SOB_B_A-14-22549AB-40-001.png", "case contradicts folder"),
        ("SOB_B_F_14-22549AB/40X/SOB_B_A-14-22549AB-40-001.png", "subtype contradicts folder"),
        ("SOB_B_A_14-22549AB/100X/SOB_B_A-14-22549AB-40-001.png", "magnification contradicts folder"),
    ],
)
def test_a_field_whose_name_is_odd_or_contradicted_is_rejected(path: str, reason: str) -> None:
    with pytest.raises(MemberRejected, match=reason):
        read("breakhis", path)


def field_name(case: str, magnification: int, number: int, letters: str = "B_A") -> str:
    side, subtype = letters.split("_")
    slide = f"SOB_{side}_{subtype}_{case}/{magnification}X"
    kind = {"A": "benign/SOB/adenosis", "DC": "malignant/SOB/ductal_carcinoma"}.get(subtype, "malignant/SOB")
    return f"{BREAKHIS}/{kind}/{slide}/SOB_{letters}-{case}-{magnification}-{number:03d}.png"


FIELDS = {
    **{field_name("14-20001AB", m, n): png(46, 70, seed=m + n) for m in (40, 100, 200, 400) for n in (1, 2)},
    **{field_name("14-20002", m, 1, "M_DC"): png(46, 70, seed=1000 + m) for m in (40, 100, 400)},
    **{field_name("14-20002", m, 1, "M_LC"): png(46, 70, seed=2000 + m) for m in (40, 100)},
    "BreaKHis_v1/README.txt": b"hello",
    f"{BREAKHIS}/benign/SOB/adenosis/overview.jpg": b"hello",
}


def packed(content: dict[str, Any], workspace: Workspace, dataset: str, members: dict[str, bytes], **block: Any) -> Any:
    content[dataset] = block
    write_zip(workspace.raw(dataset) / "archive.zip", members)
    return ingest(dataset, parse_params(content), workspace)


def test_magnification_and_subtype_stand_in_the_index(workspace: Workspace, content: dict[str, Any]) -> None:
    report = packed(content, workspace, "breakhis", FIELDS)
    store = PatchStore.open(workspace.store("breakhis"))
    assert store.patch_size == (230, 350)
    assert (report["patches"], report["cases"], report["positive"], report["bad"]) == (13, 2, 5, 0)
    assert report["set_aside"]["not a patch file"]["count"] == 2
    for row in store.index.itertuples():
        subtype, rest = row.file.rsplit("/SOB_", 1)[1][2:].split("-", 1)
        assert row.subtype == subtype
        assert row.magnification == int(rest.split("-")[2])
        assert (row.height, row.width) == (46, 70)


@pytest.mark.parametrize(("chosen", "patches", "positive"), [(40, 4, 2), (200, 2, 0), ("all", 13, 5)])
def test_other_magnifications_are_set_aside_as_harmless(
    workspace: Workspace, content: dict[str, Any], chosen: int | str, patches: int, positive: int
) -> None:
    report = packed(content, workspace, "breakhis", FIELDS, magnification=chosen)
    assert (report["patches"], report["positive"], report["bad"]) == (patches, positive, 0)
    aside = report["set_aside"].get("other magnification", {"count": 0, "bad": False})
    assert (aside["count"], aside["bad"]) == (13 - patches, False)
    if chosen != "all":
        assert set(read_index(workspace.store("breakhis"))["magnification"]) == {chosen}


def test_another_magnification_moves_no_patient(workspace: Workspace, content: dict[str, Any]) -> None:
    members = {
        field_name(f"14-300{patient:02d}", magnification, number, ("B_A", "M_DC")[patient % 2]): png(46, 70)
        for patient in range(20)
        for magnification in (40, 100, 200, 400)
        for number in range(1, 2 + (patient * magnification) % 7)
    }
    packed(content, workspace, "breakhis", members)
    split("breakhis", parse_params(content), workspace)
    before = read_membership(workspace.split("breakhis"))
    packed(content, workspace, "breakhis", members, magnification=40)
    split("breakhis", parse_params(content), workspace)
    assert before.equals(read_membership(workspace.split("breakhis")))


def test_idc_keeps_its_columns() -> None:
    assert get_dataset("idc").attributes == {}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"idc": {"magnification": 40}}, "idc.magnification: idc has no magnifications: remove the key"),
        ({"idc": {"magnification": "all"}}, "idc.magnification: idc has no magnifications"),
        ({"breakhis": {"magnification": 50}}, r"breakhis\.magnification: .*40, 100, 200, 400 or 'all' \(got 50\)"),
        ({"breakhis": {"magnification": "40X"}}, r"breakhis\.magnification: .*\(got '40X'\)"),
        ({"breakhis": {"manifest": "a.csv", "magnification": 40}}, "breakhis has no magnifications"),
    ],
)
def test_a_magnification_that_cannot_be_meant_is_refused(
    content: dict[str, Any], block: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParamsError, match=message) as refused:
        parse_params(content | block)
    assert "\n" not in str(refused.value)


def test_published_counts_add_up_over_magnifications() -> None:
    parts = [get_dataset("breakhis", magnification).published for magnification in (40, 100, 200, 400)]
    whole = get_dataset("breakhis", "all").published
    assert whole is not None
    assert (whole.patches, whole.cases, whole.positive) == (7909, 82, 5429)
    assert sum(part.patches for part in parts if part) == whole.patches
    assert sum(part.positive for part in parts if part) == whole.positive
    assert [part.patches - part.positive for part in parts if part] == [625, 644, 623, 588]


@pytest.mark.parametrize(("chosen", "counts"), [("all", "7,909, 82, 5,429"), (40, "1,995, 82, 1,370")])
def test_a_complete_set_has_the_counts_published_for_its_magnification(
    workspace: Workspace, content: dict[str, Any], chosen: int | str, counts: str
) -> None:
    with pytest.raises(ArchiveError, match=f"not the complete set: .* but {counts} were published"):
        packed(content, workspace, "breakhis", FIELDS, magnification=chosen, complete=True)


def test_a_patient_published_twice_may_be_one_case(
    workspace: Workspace, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from histopipe.ingest.datasets import PublishedCounts, breakhis

    monkeypatch.setitem(breakhis._PUBLISHED, 40, PublishedCounts(4, 3, 2, 2))
    assert packed(content, workspace, "breakhis", FIELDS, magnification=40, complete=True)["cases"] == 2


def cell(folder: str, number: int, case: str = "C1P1") -> str:
    return f"cell_images/{folder}/{case}ThinF_IMG_20150918_144104_cell_{number}.png"


def test_kaggles_second_copy_of_the_cells_counts_once(workspace: Workspace, content: dict[str, Any]) -> None:
    cells = {cell(("Uninfected", "Parasitized")[n % 2], n): png(120, 90 + n, seed=n) for n in range(6)}
    copies = {f"cell_images/{name}": data for name, data in cells.items()}
    report = packed(content, workspace, "malaria", copies | cells | {"cell_images/Uninfected/Thumbs.db": b"x"})
    assert (report["patches"], report["positive"], report["second_copies"], report["bad"]) == (6, 3, 6, 0)
    store = PatchStore.open(workspace.store("malaria"))
    assert store.patch_size == (128, 128)
    assert not store.index["file"].str.startswith("cell_images/cell_images/").any()


def test_a_cell_in_both_class_folders_is_set_aside(workspace: Workspace, content: dict[str, Any]) -> None:
    content["ingest"]["max_bad"] = 0.9
    same, other = png(120, 90, seed=1), png(120, 90, seed=2)
    members = {
        cell("Uninfected", 1): same,
        cell("Parasitized", 1): same,
        cell("Uninfected", 2): same,  # another name
        cell("Parasitized", 3): same,
        cell("Uninfected", 3): other,  # numbered alike, but another cell
    }
    report = packed(content, workspace, "malaria", members)
    assert report["set_aside"]["both labels for one image"]["files"] == [cell("Uninfected", 1), cell("Parasitized", 1)]
    assert report["patches"] == 3


def test_every_data_set_says_what_the_pipeline_needs(params: Params) -> None:
    assert list_datasets() == ["breakhis", "idc", "malaria"]
    for name in list_datasets():
        dataset = get_dataset(name)
        assert dataset.name == name
        assert dataset.published is not None
        assert dataset.kaggle is not None
        assert Path(dataset.kaggle).parts == tuple(dataset.kaggle.split("/"))
