"""What counts as one case of BreakHis: the accession number, or on request the publishers' patient; never both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from histopipe.core.cases.ids import is_among
from histopipe.core.errors import ParamsError, SplitError, StoreError
from histopipe.core.params import parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.membership import read_membership
from histopipe.data.splitting.record import find_copies
from histopipe.data.splitting.stage import split
from histopipe.data.store import read_index
from histopipe.ingest.datasets import get_dataset
from histopipe.ingest.stage import ingest
from histopipe.promotion.gates import select_unseen
from histopipe.reporting.comparison.evaluations import read_evaluations
from tests.builders.archives import write_zip
from tests.builders.images import png

FILE = "SOB_B_A-14-22549{letters}-40-001.png"


def field(case: str, number: int, positive: bool) -> str:
    letters = "SOB_M_DC" if positive else "SOB_B_A"
    return f"BreaKHis_v1/{letters}_{case}/40X/{letters}-{case}-40-{number:03d}.png"


def members() -> dict[str, bytes]:
    """Nine patients of each class, of whom the first three benign ones are one accession number."""
    benign = ["14-22549AB", "14-22549CD", "14-22549G", *(f"14-2000{n}" for n in range(6))]
    malignant = ["14-15570", "14-15570C", *(f"14-3000{n}A" for n in range(7))]
    cases = [(case, False) for case in benign] + [(case, True) for case in malignant]
    return {
        field(case, number, positive): png(46, 70, seed=100 * place + number)
        for place, (case, positive) in enumerate(cases)
        for number in range(3)
    }


def packed(workspace: Workspace, content: dict[str, Any], **block: Any) -> dict[str, Any]:
    content["breakhis"] = block
    write_zip(workspace.raw("breakhis") / "archive.zip", members())
    return ingest("breakhis", parse_params(content), workspace)


def cases_of(workspace: Workspace) -> pd.Series:
    return read_membership(workspace.split("breakhis")).set_index("case_id")["split"]


def test_blocks_of_one_accession_number_are_one_case_by_default(workspace: Workspace, content: dict[str, Any]) -> None:
    report = packed(workspace, content)
    index = read_index(workspace.store("breakhis"))
    assert report["cases"] == index["case_id"].nunique() == 15
    assert (index["case_id"] == "14-22549").sum() == 9 and (index["case_id"] == "14-15570").sum() == 6
    split("breakhis", parse_params(content), workspace)
    numbers = index.set_index("file")["case_id"].map(cases_of(workspace))
    stated = numbers.groupby(numbers.index.str.extract(r"-(14-[0-9]+)[A-Z]*-40")[0].to_numpy()).nunique()
    assert (stated == 1).all() and "14-22549" in stated.index


def test_the_publishers_reading_is_an_option(workspace: Workspace, content: dict[str, Any]) -> None:
    assert packed(workspace, content, case="publisher")["cases"] == 18
    index = read_index(workspace.store("breakhis"))
    assert {"14-22549AB", "14-22549CD", "14-22549G", "14-15570", "14-15570C"} < set(index["case_id"])


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"breakhis": {"case": "patient"}}, r"breakhis\.case: .*'accession' or 'publisher' \(got 'patient'\)"),
        ({"breakhis": {"cases": "publisher"}}, r"did you mean 'breakhis\.case'"),
        ({"idc": {"case": "accession"}}, r"idc\.case: idc has only one reading of its cases: remove the key"),
        ({"breakhis": {"manifest": "a.csv", "case": "accession"}}, r"breakhis\.case: .*: remove the key"),
    ],
)
def test_a_reading_that_cannot_be_meant_is_refused(content: dict[str, Any], block: Any, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        parse_params(content | block)


@pytest.mark.parametrize(("reading", "counts"), [(None, (16, 53)), ("accession", (16, 53)), ("publisher", (24, 56))])
def test_all_names_of_the_real_set_by_reading(
    real: Callable[[str], Path], reading: Any, counts: tuple[int, int]
) -> None:
    """Take 80 of the 81 ids: those whose names are at hand."""
    dataset = get_dataset("breakhis", case=reading)
    names = pd.read_csv(real("tables/breakhis-7663-names.csv"))["path"]
    patches = [patch for name in names if (patch := dataset.read_name(name))]
    assert counts == tuple(len({patch.case_id for patch in patches if patch.label == label}) for label in (0, 1))
    assert {dataset.read_case(name.rpartition("/")[2]) for name in names} == {patch.case_id for patch in patches}
    part = get_dataset("breakhis", 40, reading)
    at_40 = [patch for name in names if "-40-" in name and (patch := part.read_name(name))]
    assert {patch.case_id for patch in at_40} == {patch.case_id for patch in patches}
    assert part.published is not None and dataset.published is not None
    assert part.published.distinct_cases == dataset.published.distinct_cases == (81 if reading == "publisher" else 70)


def test_new_images_are_named_as_the_model_or_the_checkout_reads_cases(workspace: Workspace) -> None:
    from histopipe.inference.case_naming import CaseNamer

    def named(**arguments: Any) -> str | None:
        dataset = CaseNamer.for_data_set("breakhis", (), **arguments).dataset
        assert dataset is not None
        return dataset.read_case(FILE.format(letters="AB"))

    assert named() == "14-22549"
    assert named(workspace=workspace) == "14-22549"
    content = yaml.safe_load(workspace.params.read_text()) | {"breakhis": {"case": "publisher"}}
    workspace.params.write_text(yaml.safe_dump(content))
    assert named(workspace=workspace) == "14-22549AB"
    assert named(workspace=workspace, reading="accession") == "14-22549"


@pytest.mark.parametrize(
    ("dataset", "file", "built_in"),
    [
        ("breakhis", FILE.format(letters="AB"), "14-22549AB"),
        ("idc", "8863_idx5_x51_y1251_class0.png", "8863"),
        ("malaria", "C100P61ThinF_IMG_20150918_144104_cell_162.png", "C100P61"),
    ],
)
def test_a_data_set_of_ones_own_under_a_built_in_name_is_not_read_as_that(
    dataset: str, file: str, built_in: str
) -> None:
    """Its model tells by its classes: a manifest gives labels only."""
    from histopipe.core.cases.readings import recorded_reading
    from histopipe.inference.case_naming import ImageName
    from histopipe.inference.model import ServedModel
    from histopipe.inference.stage import case_namer

    def named(negative: str, positive: str) -> str:
        point = {"data_set": dataset, "negative_class": negative, "positive_class": positive}
        assert (recorded_reading(point, dataset) is None) == (negative == "negative" or dataset != "breakhis")
        served = ServedModel.__new__(ServedModel)
        object.__setattr__(served, "point", point)
        (name,) = case_namer(served).name([ImageName(f"P7/{file}", ("P7",), 1, 1, "")])
        return name.case_id

    assert named(*get_dataset(dataset).classes) == built_in
    assert named("negative", "positive") != built_in


def test_a_store_of_the_other_reading_is_refused_before_any_work(workspace: Workspace, content: dict[str, Any]) -> None:
    packed(workspace, content, case="publisher")
    content["breakhis"] = {}
    with pytest.raises(StoreError, match=r"ingested with `case: publisher`.*is accession: run `dvc repro ingest@b"):
        split("breakhis", parse_params(content), workspace)
    report = workspace.store("breakhis") / "report.json"
    report.write_text(json.dumps({k: v for k, v in json.loads(report.read_text()).items() if k != "case_reading"}))
    with pytest.raises(StoreError, match="`case: publisher`"):  # of a version before there was a choice
        split("breakhis", parse_params(content), workspace)
    assert not workspace.split("breakhis").exists()


def test_nothing_is_compared_or_promoted_from_a_store_of_the_other_reading(
    workspace: Workspace, content: dict[str, Any]
) -> None:
    packed(workspace, content, case="publisher")
    split("breakhis", parse_params(content), workspace)
    content["breakhis"] = {}
    with pytest.raises(StoreError, match="ingested with `case: publisher`"):
        read_evaluations("breakhis", parse_params(content), workspace)


def test_a_copy_of_what_a_model_saw_under_the_other_reading_counts_as_seen(workspace: Workspace) -> None:
    workspace.split_record("breakhis").parent.mkdir(parents=True, exist_ok=True)
    record = {"cases": {}, "joined": [["14-22549", "15-100"], ["14-9133", "15-200"]]}
    workspace.split_record("breakhis").write_text(json.dumps(record))
    assert find_copies(["14-22549CD"], "breakhis", workspace) == {"14-22549", "15-100"}


def test_a_split_of_the_other_reading_is_dealt_anew_and_says_so(
    workspace: Workspace, content: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    packed(workspace, content, case="publisher")
    split("breakhis", parse_params(content), workspace)
    record = json.loads(workspace.split_record("breakhis").read_text())
    assert record["settings"].pop("case_reading") == "publisher"
    record["folds"]["settings"].pop("case_reading")
    workspace.split_record("breakhis").write_text(json.dumps(record))  # as an earlier version wrote it
    before = workspace.split("breakhis").read_text()
    split("breakhis", parse_params(content), workspace)
    assert workspace.split("breakhis").read_text() == before
    assert "are divided again" not in caplog.text
    packed(workspace, content)
    split("breakhis", parse_params(content), workspace)
    assert "read with `case: publisher` and are read with `case: accession` now: all are divided again" in caplog.text
    kept = json.loads(workspace.split_record("breakhis").read_text())
    assert set(kept["cases"]) == set(cases_of(workspace).index)
    assert not any(case.endswith(("AB", "CD")) for case in kept["cases"])


def test_an_id_of_the_other_reading_cannot_be_excluded_silently(
    workspace: Workspace, content: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    packed(workspace, content)
    content["breakhis"] = {"exclude_cases": ["14-22549AB"]}
    with pytest.raises(SplitError, match=r"14-22549AB.*`case: accession` makes it 14-22549: write the id so"):
        split("breakhis", parse_params(content), workspace)
    packed(workspace, content, case="publisher")
    content["breakhis"] = {"case": "publisher", "exclude_cases": ["14-22549"]}
    with pytest.raises(SplitError, match="makes it 14-22549AB and 14-22549CD and 14-22549G"):
        split("breakhis", parse_params(content), workspace)
    content["breakhis"]["exclude_cases"] = ["14-15570"]
    split("breakhis", parse_params(content), workspace)
    assert "leaves out 14-15570, but not 14-15570C of the same accession number" in caplog.text


def test_what_a_model_saw_under_the_other_reading_counts_as_seen() -> None:
    def known(cases: list[str], seen: list[str], dataset: str = "breakhis") -> list[bool]:
        return list(is_among(pd.Series(cases), seen, dataset))

    assert known(["14-22549", "14-9133"], ["14-22549CD"]) == [True, False]  # seen as a publishers' patient
    assert known(["14-22549AB", "14-22549G"], ["14-22549"]) == [True, True]  # seen as an accession number
    assert known(["14-22549AB", "14-22549G"], ["14-22549CD"]) == [False, False]  # the same reading
    assert known(["14-22549AB"], ["14-22549"], "mine") == [False]  # whose letters may mean anything
    table = pd.DataFrame({"case_id": ["14-22549", "14-9133"]})
    assert select_unseen(table, ["14-22549AB"], dataset="breakhis")["case_id"].tolist() == ["14-9133"]
