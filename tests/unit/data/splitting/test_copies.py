"""A slide that is filed under two ids counts as one case, in every scheme, and what is known stays where it is."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest

from histopipe.core.params import parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.membership import read_folds, read_membership
from histopipe.data.splitting.stage import divide_from_scratch, split

SEEDS = range(6)


def make_index(cases: int = 40, patches: int = 60, first: int = 0) -> pd.DataFrame:
    """Patches of their own in every case, a third of them positive."""
    rows = [(f"c{case:03d}", number) for case in range(first, first + cases) for number in range(patches)]
    index = pd.DataFrame(rows, columns=["case_id", "number"])
    index["file"] = index["case_id"] + "/" + index["number"].astype(str) + ".png"
    index["digest"] = "d" + index["file"]
    index["label"] = (index["number"] % 3 == 0).astype("int8")
    for channel in ("red", "green", "blue"):
        index[f"{channel}_mean"], index[f"{channel}_std"] = 150.0, 30.0
    return index.drop(columns="number")


def filed_again(index: pd.DataFrame, case: str, name: str, share: float = 1.0) -> pd.DataFrame:
    """The index with the first patches of a case also under another id."""
    rows = index[index["case_id"] == case]
    rows = rows.head(max(1, round(share * len(rows))))
    copy = rows.assign(case_id=name, file=name + "/" + rows["file"].str.rpartition("/")[2])
    return pd.concat([index, copy], ignore_index=True)


def with_copies(count: int = 12) -> pd.DataFrame:
    index = make_index()
    for number in range(count):
        index = filed_again(index, f"c{3 * number:03d}", f"x{number:02d}")
    return index


def write(workspace: Workspace, index: pd.DataFrame) -> None:
    workspace.store("idc").mkdir(parents=True, exist_ok=True)
    index.to_parquet(workspace.store("idc") / "index.parquet")


def straddling(index: pd.DataFrame, splits: pd.Series) -> int:
    """How many digests stand in more than one split (or fold)."""
    groups = index["case_id"].map(splits)
    return int((groups.groupby(index["digest"]).nunique() > 1).sum())


def membership(workspace: Workspace) -> pd.Series:
    return read_membership(workspace.split("idc")).set_index("case_id")["split"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["grouped", "kfold"])
def test_a_slide_filed_under_two_ids_stands_in_one_split(
    workspace: Workspace, content: dict[str, Any], scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    index = with_copies()
    write(workspace, index)
    content["split"]["scheme"] = scheme
    for seed in SEEDS:
        split("idc", parse_params(content | {"seed": seed}), workspace)
        assert straddling(index, membership(workspace)) == 0
        assert straddling(index, read_folds(workspace.folds("idc"))) == 0
        assert len(membership(workspace)) == 52
    lines = [record.getMessage() for record in caplog.records if "share patches pixel by pixel" in record.getMessage()]
    assert len(lines) == len(SEEDS) and "\n" not in lines[0]
    assert "12 groups of case ids" in lines[0] and "c000 = x00" in lines[0]
    assert ["c000", "x00"] in json.loads(workspace.split_record("idc").read_text())["joined"]


def test_a_split_with_another_seed_or_scheme_joins_them_too(content: dict[str, Any]) -> None:
    index = with_copies()
    for seed in SEEDS:
        table = divide_from_scratch("idc", parse_params(content | {"seed": seed}), index)
        assert straddling(index, table.set_index("case_id")["split"]) == 0


def test_copies_are_joined_through_others(workspace: Workspace, params: Any) -> None:
    index = filed_again(filed_again(make_index(), "c000", "x0", 0.5), "c001", "x1", 0.5)
    link = index[index["case_id"].isin(["x0", "x1"])].assign(case_id="z")
    write(workspace, pd.concat([index, link.assign(file="z/" + link["digest"])], ignore_index=True))
    split("idc", params, workspace)
    assert json.loads(workspace.split_record("idc").read_text())["joined"] == [["c000", "c001", "x0", "x1", "z"]]


def test_blank_tiles_and_placeholders_join_nothing(workspace: Workspace, params: Any) -> None:
    """A white tile stands in every case; so does one picture with content, and two cases share one patch of many."""
    index = make_index(patches=120)
    blank = index.groupby("case_id").head(5)
    blank = blank.assign(digest=[f"white{number % 5}" for number in range(len(blank))], file="w" + blank["file"])
    blank[["red_std", "green_std", "blue_std"]] = 4.0  # of noise
    logo = index.groupby("case_id").head(1)
    logo = logo.assign(digest="logo", file="l" + logo["file"])
    index = pd.concat([index, blank, logo], ignore_index=True)
    write(workspace, index)
    split("idc", params, workspace)
    assert json.loads(workspace.split_record("idc").read_text())["joined"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patches", "shared", "joined"), [(400, 2, False), (400, 3, True), (150, 2, True), (40, 1, True)]
)
def test_three_patches_or_a_hundredth_of_the_smaller_case_join(
    workspace: Workspace, params: Any, patches: int, shared: int, joined: bool
) -> None:
    index = make_index(20, patches)
    index.loc[index["case_id"] == "c001", "digest"] = [
        f"dc000/{number}.png" if number < shared else f"own{number}" for number in range(patches)
    ]
    write(workspace, index)
    split("idc", params, workspace)
    assert (json.loads(workspace.split_record("idc").read_text())["joined"] == [["c000", "c001"]]) == joined


def test_known_cases_on_two_sides_stay_recorded_and_the_smaller_one_leaves(
    workspace: Workspace, params: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from histopipe.data.splitting.record import find_copies

    index = make_index()
    write(workspace, index)
    split("idc", params, workspace)
    before = membership(workspace)
    trained, tested = before.index[before == "train"][0], before.index[before == "test"][0]
    smaller = index.drop(index.index[index["case_id"] == tested][-10:])  # the tested one lost some patches
    copies = smaller["case_id"] == tested
    smaller.loc[copies, "digest"] = [f"d{trained}/{number}.png" for number in range(copies.sum())]
    write(workspace, smaller)
    split("idc", params, workspace)
    after = membership(workspace)
    assert tested not in after and after.equals(before.drop(tested))
    assert straddling(smaller, after) == 0
    record = json.loads(workspace.split_record("idc").read_text())
    assert record["cases"][tested] == "test"  # the record stays
    assert record["left_out"] == [{"case": tested, "group": "test", "copy": trained, "stays": "train"}]
    assert f"{tested} (test) for {trained} (train)" in caplog.text
    assert find_copies([trained, "elsewhere"], "idc", workspace) == {trained, tested}  # one seen is both seen
    text = workspace.split("idc").read_text()
    split("idc", params, workspace)
    assert workspace.split("idc").read_text() == text


def test_a_new_copy_follows_the_case_that_is_known(workspace: Workspace, params: Any) -> None:
    index = make_index()
    write(workspace, index)
    split("idc", params, workspace)
    before = membership(workspace)
    for number, case in enumerate(before.index):
        index = filed_again(index, case, f"x{number:02d}", 0.5)
    write(workspace, index)
    split("idc", params, workspace)
    after = membership(workspace)
    assert after[before.index].equals(before)
    assert [after[f"x{number:02d}"] for number in range(len(before))] == list(before)


def test_an_unlisted_copy_of_a_published_test_case_trains_nothing(
    workspace: Workspace, content: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    from histopipe.data.splitting.canonical import canonical_cases

    listed = canonical_cases()
    index = make_index(len(listed), 9)
    index["case_id"] = index["case_id"].map(dict(zip(index["case_id"].unique(), listed.index, strict=True)))
    tested, trained = listed.index[listed == "test"][0], listed.index[listed == "train"][0]
    index = filed_again(filed_again(index, tested, "70001"), trained, "70002")
    write(workspace, index)
    content["split"] |= {"scheme": "canonical", "unlisted": "train"}
    split("idc", parse_params(content), workspace)
    after = membership(workspace)
    assert "70001" not in after and after["70002"] == "train" and straddling(index, after) == 0
    assert "isn't" not in caplog.text and "aren't comparable with published ones" in caplog.text


def test_leaving_out_one_of_two_copies_is_remarked_on(
    workspace: Workspace, content: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    write(workspace, filed_again(make_index(), "c000", "x0"))
    content["idc"]["exclude_cases"] = ["c000"]
    split("idc", parse_params(content), workspace)
    assert "leaves out c000, but not x0, which has the same patches" in caplog.text


def test_copies_count_as_one_case_in_intervals_and_tests() -> None:
    """Twelve slides, each filed under two ids, tell as much as twelve."""
    from histopipe.evaluation.case_parts import area_difference
    from histopipe.evaluation.cases import JOINED, joined_cases
    from histopipe.evaluation.differences import difference
    from histopipe.evaluation.intervals import estimate_metrics
    from histopipe.evaluation.predictions import predictions_of

    once = make_index(12, 30)
    random = np.random.default_rng(1)
    for name in ("probability", "other"):
        once[name] = np.clip(once["label"] * 0.3 + random.uniform(0.05, 0.65, len(once)), 0, 1)
    once["decision"], once["split"] = (once["probability"] > 0.5).astype(int), "test"
    twice = once
    for number in range(12):
        twice = filed_again(twice, f"c{number:03d}", f"x{number:02d}")
    assert joined_cases(once) is None
    counted = twice.assign(**{JOINED: joined_cases(twice)})

    def answers(table: pd.DataFrame) -> tuple[int, Any, Any]:
        first, second = (
            predictions_of(table.assign(probability=table[name]), "test") for name in ("probability", "other")
        )
        return first.case_count, estimate_metrics(first, 200, 1), difference(area_difference(first, second), 1)

    (cases, expected, apart), (count, found, differing) = answers(once), answers(counted)
    assert cases == count == 12
    for name in ("roc_auc", "sensitivity", "brier", "calibration_error"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name
    assert differing == pytest.approx(apart, abs=1e-9)
    narrow = answers(twice)[1]["sensitivity"]
    assert narrow["high"] - narrow["low"] < 0.8 * (found["sensitivity"]["high"] - found["sensitivity"]["low"])


def test_an_export_is_not_measured_on_a_copy_of_what_was_trained_on(workspace: Workspace, params: Any) -> None:
    from histopipe.data.store import PatchStore
    from histopipe.export.patches import select_patches
    from histopipe.export.stage import labels_with_cases

    index = make_index(patches=30)
    write(workspace, index)
    split("idc", params, workspace)
    before = membership(workspace)
    seen, twin = before.index[before == "test"][:2]
    copied = filed_again(filed_again(index, seen, "former"), twin, "twin")
    write(workspace, copied)
    split("idc", params, workspace)
    chosen = select_patches(PatchStore(workspace.store("idc"), copied, []), workspace.split("idc"), ["former"], 1)
    tested = copied.iloc[chosen.test]
    assert not {"former", seen} & set(tested["case_id"]) and {twin, "twin"} <= set(tested["case_id"])
    counted = labels_with_cases(tested)["case_id"]
    assert counted.nunique() == (before == "test").sum() - 1 and (counted == twin).sum() == 60


def test_one_slide_under_very_many_ids_takes_little_memory() -> None:
    from histopipe.data.splitting.copies import join_copies

    index = make_index(1, 300)
    many = pd.concat([index.assign(case_id=f"x{number:03d}") for number in range(200)], ignore_index=True)
    tracemalloc.start()
    joined = join_copies(many)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(joined.groups) == 1 and len(joined.first) == 200 and joined.patches == 300
    assert peak < 100e6  # a table of all pairs has 12 million rows


def test_half_a_million_rows_are_joined_in_seconds() -> None:
    from histopipe.data.splitting.copies import join_copies

    generator = np.random.default_rng(0)
    cases = generator.integers(0, 279, 277_524)
    digests = np.array([f"{number:032x}" for number in range(len(cases))])
    index = pd.DataFrame({"case_id": [f"{case:05d}" for case in cases], "digest": digests})
    twice = pd.concat([index, index.assign(case_id="x" + index["case_id"])], ignore_index=True)
    widespread = index.head(20_000).assign(digest="w" + pd.Series(range(20_000)).floordiv(200).astype(str))
    start = time.process_time()
    joined = join_copies(pd.concat([twice, widespread], ignore_index=True))
    assert time.process_time() - start < 20
    assert len(joined.first) == 2 * 279
