"""One normal form for case ids, wherever they are read; look-alikes named, never joined."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histopipe.core.cases.ids import is_among, look_alikes, normal_id, normal_ids
from histopipe.core.errors import ParamsError, SourceError, SplitError
from histopipe.core.params import parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.membership import read_membership
from histopipe.data.splitting.stage import split
from histopipe.data.store import read_index
from histopipe.inference.pseudonyms import Pseudonyms
from histopipe.ingest.datasets import get_dataset
from histopipe.ingest.datasets.manifest import read_manifest
from histopipe.ingest.stage import ingest
from histopipe.promotion.gates import select_unseen
from tests.builders.archives import write_zip
from tests.builders.images import png
from tests.builders.stores import make_cases, small_cases, write_index

COMPOSED, DECOMPOSED = "Ren\u00e9 1", "Rene\u0301 1"
SPELLINGS = (
    COMPOSED,
    DECOMPOSED,
    "Rene\u200d\u0301 1",
    "\ufeffRen\u00e9 1",
    "Ren\u00ad\u00e9\u00a01",
    "\u200fRen\u00e9\u2009 1\u200b",
    " Ren\u00e9  1 ",
    "Ren\u00e9\u3000\ufe0f1\u2060",
)


def own(content: dict[str, Any], **block: Any) -> Any:
    content |= {"datasets": ["mine"], "mine": {"source": "mine.zip", "manifest": "mine.csv", **block}}
    return parse_params(content)


def write_raw(workspace: Workspace, cases: list[str]) -> None:
    """Two images of each case, one of each class, in a data set of the user's own."""
    names = [f"{number}.png" for number in range(2 * len(cases))]
    rows = [f"{name},{cases[number // 2]},{number % 2}\n" for number, name in enumerate(names)]
    write_zip(workspace.raw("mine") / "mine.zip", {name: png(20, 20, seed=seed) for seed, name in enumerate(names)})
    (workspace.raw("mine") / "manifest.csv").write_text("file,case_id,label\n" + "".join(rows), encoding="utf-8")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_one_name_have_one_normal_form(spelling: str) -> None:
    assert normal_id(spelling) == COMPOSED


@pytest.mark.slow
@given(st.text())
def test_a_normal_form_is_its_own(text: str) -> None:
    form = normal_id(text)
    assert normal_id(form) == form == unicodedata.normalize("NFC", form)
    assert normal_id(unicodedata.normalize("NFD", text)) == form


@pytest.mark.parametrize(
    ("column", "forms"),
    [
        (["0", "0.0", "12.0", "7"], ["0", "0", "12", "7"]),
        (["1.0", "1e3", "2E+05", "007"], ["1", "1000", "200000", "007"]),
        (["1.0", "1.1", "2.0"], ["1.0", "1.1", "2.0"]),  # parts of patients
        (["12.0", "P5"], ["12.0", "P5"]),
        (["1E3", "P5"], ["1E3", "P5"]),
    ],
)
def test_a_column_of_whole_numbers_loses_what_spreadsheets_add(column: list[str], forms: list[str]) -> None:
    assert normal_ids(column) == forms


@pytest.mark.parametrize(
    "pair",
    [
        ("p0", "P0"), ("P0", "\u0420\u041e"), ("PO", "P0"), ("1", "01"), ("012", "12"), ("P1", "P01"), ("P1", "P1."),
        ("P1", "P1_"), ("P 1", "P1"), ("P-1", "P_1"), ("P-1", "P\u20131"), ("P12", "P\uff11\uff12"), ("12", "12.0"),
        ("Pl", "P1"), ("TCGA-02-0001", "TCGA_02_0001"), ("P\u00b2", "P2"), ("\u0391-7", "A-7"),
    ],
)  # fmt: skip
def test_look_alikes_are_named(pair: tuple[str, str]) -> None:
    assert look_alikes([*pair, "X9", "Y9"]) == [sorted(pair)]


@pytest.mark.parametrize("pair", [("10001", "10010"), ("1-11", "11-1"), ("1.1", "1.10"), ("P1", "P10"), ("A", "B")])
def test_other_ids_are_not(pair: tuple[str, str]) -> None:
    assert look_alikes(pair) == []


def test_three_spellings_are_one_group() -> None:
    assert look_alikes(["p0", "PO", "P0", "q1"]) == [["P0", "PO", "p0"]]


def test_built_in_data_sets_have_no_look_alikes(real: Callable[[str], Path]) -> None:
    names = pd.read_csv(real("tables/breakhis-7663-names.csv"))["path"]
    breakhis = {found.case_id for name in names if (found := get_dataset("breakhis").read_name(name))}
    lines = [
        f"cell_images/{folder}/{line.partition(',')[0].strip()}_IMG_1_cell_1.png"
        for folder in ("Parasitized", "Uninfected")
        for line in real(f"tables/patientid_cellmapping_{folder.lower()}.csv").read_text().splitlines()
        if line.strip()
    ]
    malaria = {found.case_id for name in lines if (found := get_dataset("malaria").read_name(name))}
    idc = pd.read_csv(real("idc-canonical-cases.csv"), dtype=str)["case_id"]
    assert len(breakhis) == 69 and len(malaria) == 200 and len(idc) == 162
    assert [look_alikes(ids) for ids in (breakhis, malaria, set(idc))] == [[], [], []]


def test_a_manifests_spellings_become_one_case(workspace: Workspace, content: dict[str, Any]) -> None:
    write_raw(workspace, [*SPELLINGS, "P2"])
    report = ingest("mine", own(content), workspace)
    assert report["cases"] == 2 and report["look_alike_cases"] == []
    assert set(read_index(workspace.store("mine"))["case_id"]) == {COMPOSED, "P2"}


def test_no_patient_of_two_spellings_stands_in_two_splits(workspace: Workspace, content: dict[str, Any]) -> None:
    write_raw(workspace, [f"{number}{end}" for number in range(12) for end in ("", ".0")])
    assert ingest("mine", own(content), workspace)["cases"] == 12
    split("mine", own(content, exclude_cases=[3.0, 7]), workspace)
    cases = read_membership(workspace.split("mine"))["case_id"]
    assert sorted(cases, key=int) == [str(number) for number in range(12) if number not in (3, 7)]


def test_look_alikes_are_told_once_and_kept_apart(
    workspace: Workspace, content: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(workspace, ["p0", "P0", "7", "007", "\u0420\u041e", "Q"])
    report = ingest("mine", own(content), workspace)
    assert report["cases"] == 6
    assert report["look_alike_cases"] == [["007", "7"], ["P0", "p0", "\u0420\u041e"]]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "look alike" in line]
    assert line.startswith("mine: case ids that look alike: 007 and 7; P0 and p0 and \u0420\u041e (\\u0420\\u041e): ")


def test_a_number_that_a_spreadsheet_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file,case_id,label\na.png,P1,0\nb.png,1.23457E+11,1\n")
    with pytest.raises(SourceError, match="line 3: case_id is a number that a spreadsheet has cut short"):
        read_manifest(tmp_path / "m.csv")


def test_an_id_of_invisible_characters_is_empty(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file,case_id,label\na.png,\u200b\u00a0,0\n", encoding="utf-8")
    with pytest.raises(SourceError, match="line 2: case_id is empty"):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("excluded", "message"),
    [
        (["C03"], "names C03, which is not in the data, which has c03: write the id so, in quotes, in params.yaml"),
        (["c99"], "names c99, which is not in the data: correct params.yaml"),
    ],
)
def test_an_excluded_case_that_is_spelt_otherwise_is_named(
    workspace: Workspace, content: dict[str, Any], excluded: list[str], message: str
) -> None:
    write_index(workspace, small_cases())
    content["idc"]["exclude_cases"] = excluded
    with pytest.raises(SplitError, match=message):
        split("idc", parse_params(content), workspace)


def test_what_yaml_reads_as_a_truth_value_is_no_case_id(content: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match="put the case id in quotes"):
        own(content, exclude_cases=[False])


def test_excluded_spellings_are_brought_to_normal_form(workspace: Workspace, content: dict[str, Any]) -> None:
    write_index(workspace, small_cases().rename(index={"c03": COMPOSED}))
    content["idc"]["exclude_cases"] = [DECOMPOSED]
    split("idc", parse_params(content), workspace)
    assert COMPOSED not in set(read_membership(workspace.split("idc"))["case_id"])


def test_a_look_alike_of_an_excluded_case_is_told(
    workspace: Workspace, content: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    write_index(workspace, small_cases().rename(index={"c03": "C04"}))
    content["idc"]["exclude_cases"] = ["c04"]
    split("idc", parse_params(content), workspace)
    assert "leaves out c04, but not C04, which looks like it" in caplog.text


@pytest.mark.slow
def test_known_cases_keep_their_split_under_their_normal_form(workspace: Workspace, content: dict[str, Any]) -> None:
    cases = make_cases(20)
    names = {name: f"Ren\u00e9 {name}" for name in cases.index}
    write_index(workspace, cases.rename(index=names))
    split("idc", parse_params(content), workspace)
    record = json.loads(workspace.split_record("idc").read_text())
    before = dict(record["cases"])
    for key in (record, record["folds"]):  # as an earlier version may have written them
        key["cases"] = {unicodedata.normalize("NFD", case): group for case, group in key["cases"].items()}
    workspace.split_record("idc").write_text(json.dumps(record))
    write_index(
        workspace, pd.concat([cases.rename(index=names), make_cases(5, seed=3).rename(lambda name: f"n{name}")])
    )
    split("idc", parse_params(content), workspace)
    after = read_membership(workspace.split("idc")).set_index("case_id")["split"]
    assert {case: after[case] for case in before} == before


def test_known_numbers_keep_their_split_when_the_column_becomes_one_of_names(
    workspace: Workspace, content: dict[str, Any]
) -> None:
    cases = make_cases(20)
    write_index(workspace, cases)
    split("idc", parse_params(content), workspace)
    before = json.loads(workspace.split_record("idc").read_text())["cases"]
    later = pd.concat([cases.rename(lambda name: f"{name}.0"), make_cases(5, seed=3).rename(lambda name: f"n{name}")])
    write_index(workspace, later)
    split("idc", parse_params(content), workspace)
    after = read_membership(workspace.split("idc")).set_index("case_id")["split"]
    assert {case: after[f"{case}.0"] for case in before} == before


@pytest.mark.parametrize("spellings", [(COMPOSED, DECOMPOSED), ("8801", "8801.0")])
def test_two_recorded_spellings_in_two_splits_are_refused_by_name(
    workspace: Workspace, content: dict[str, Any], spellings: tuple[str, str]
) -> None:
    write_index(workspace, make_cases(20).rename(index={"8801": spellings[0]}))
    split("idc", parse_params(content), workspace)
    path = workspace.split_record("idc")
    record = json.loads(path.read_text())
    groups = record["cases"]
    groups[spellings[1]] = "test" if groups[spellings[0]] != "test" else "train"
    path.write_text(json.dumps(record))
    with pytest.raises(
        SplitError, match=r"idc\.json holds .* which are one case: delete one of the two lines"
    ) as caught:
        split("idc", parse_params(content), workspace)
    assert all(ascii(name)[1:-1] in str(caught.value) for name in spellings)


def test_a_split_file_with_one_case_in_two_splits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(f"case_id,split\n{COMPOSED},train\n{DECOMPOSED},test\n", encoding="utf-8")
    with pytest.raises(SplitError, match="are two spellings of one case and are in two splits"):
        read_membership(path)
    path.write_text(f"case_id,split\n{COMPOSED},train\n{DECOMPOSED},train\n", encoding="utf-8")
    assert read_membership(path)["case_id"].tolist() == [COMPOSED]


def test_what_a_champion_has_seen_is_told_by_normal_form() -> None:
    table = pd.DataFrame({"case_id": [COMPOSED, "12", "13", "c"], "label": [0, 1, 0, 1]})
    assert select_unseen(table, [DECOMPOSED, "12.0"], ["c\u200b"])["case_id"].tolist() == ["13"]
    assert is_among(table["case_id"], [12]).tolist() == [False, True, False, False]


def test_one_case_has_one_pseudonym() -> None:
    key = Pseudonyms(b"a key of sixteen bytes or more")
    assert len({key.case(spelling) for spelling in SPELLINGS}) == 1
    assert set(key.originals.values()) == {COMPOSED}
