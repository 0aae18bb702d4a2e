"""Splits: whole cases, fair shares, the same on every machine, and stable when data arrives."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histopipe.core.errors import SplitError
from histopipe.core.params import parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.assignment import assign_cases, assign_folds
from histopipe.data.splitting.difference import moved_cases
from histopipe.data.splitting.membership import SPLITS, is_leaky, read_membership, split_of_patches
from histopipe.data.splitting.stage import split
from tests.builders.stores import make_cases, small_cases, write_index

FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}


def with_split(content: dict[str, Any], **changes: Any) -> Any:
    content["split"] |= changes
    return parse_params(content)


def test_membership_is_pinned_so_that_every_machine_and_version_agrees() -> None:
    found = assign_cases(small_cases(), FRACTIONS, seed=42)
    assert found[found != "train"].to_dict() == {
        "c00": "test",
        "c01": "validation",
        "c02": "test",
        "c08": "validation",
    }


@given(st.integers(20, 300), st.integers(0, 2**31 - 1))
@settings(max_examples=30, deadline=None)
def test_shares_are_close_to_what_was_asked(count: int, seed: int) -> None:
    cases = make_cases(count, seed % 1000)
    found = assign_cases(cases, FRACTIONS, seed)
    for column in ("patches", "positives"):
        shares = cases[column].groupby(found).sum() / cases[column].sum()
        largest = cases[column].max() / cases[column].sum()
        for name, fraction in FRACTIONS.items():
            assert abs(shares[name] - fraction) <= max(0.03, 1.5 * largest)


def test_three_cases_suffice(workspace: Workspace, params: Any) -> None:
    write_index(workspace, small_cases(3))
    assert split("idc", params, workspace)["cases"].tolist() == [1, 1, 1]


def test_other_seeds_divide_otherwise() -> None:
    cases = make_cases(100)
    tests = [frozenset(cases.index[assign_cases(cases, FRACTIONS, seed) == "test"]) for seed in range(5)]
    assert len(set(tests)) == 5
    assert len(tests[0] & tests[1]) < 10


def test_the_order_of_the_rows_does_not_matter() -> None:
    cases = make_cases(60)
    shuffled = cases.sample(frac=1, random_state=1)
    assert assign_cases(cases, FRACTIONS, 42).sort_index().equals(assign_cases(shuffled, FRACTIONS, 42).sort_index())


def test_known_cases_keep_their_split_when_new_ones_arrive(workspace: Workspace, params: Any) -> None:
    cases = make_cases(40) // 20 + 4
    write_index(workspace, cases)
    split("idc", params, workspace)
    before = read_membership(workspace.split("idc")).set_index("case_id")["split"]
    grown = pd.concat([cases, (make_cases(20, seed=5) // 20 + 4).rename(index=lambda case: f"n{case}")])
    write_index(workspace, grown)
    split("idc", params, workspace)
    after = read_membership(workspace.split("idc")).set_index("case_id")["split"]
    assert after[before.index].equals(before)
    new = after.drop(before.index)
    assert set(new) == set(SPLITS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "irrelevant"),
    [
        ("grouped", {"folds": 6, "unlisted": "train"}),
        ("kfold", {"train": 0.6, "validation": 0.2, "test": 0.2, "unlisted": "train"}),
    ],
)
def test_a_key_that_the_scheme_does_not_use_moves_no_case(
    workspace: Workspace, content: dict[str, Any], scheme: str, irrelevant: dict[str, Any]
) -> None:
    cases = small_cases(40)
    write_index(workspace, cases.iloc[:25])
    split("idc", with_split(content, scheme=scheme), workspace)
    write_index(workspace, cases)
    split("idc", with_split(content, scheme=scheme), workspace)
    before = workspace.split("idc").read_text()
    split("idc", with_split(content, **irrelevant), workspace)
    assert workspace.split("idc").read_text() == before


def test_a_record_of_an_older_version_still_counts(workspace: Workspace, params: Any) -> None:
    cases = small_cases(40)
    write_index(workspace, cases.iloc[:25])
    split("idc", params, workspace)
    before = read_membership(workspace.split("idc")).set_index("case_id")["split"]
    record = json.loads(workspace.split_record("idc").read_text())
    record["settings"] = {"seed": params.seed, **params.split.model_dump()}  # with every scheme's keys, as it was
    workspace.split_record("idc").write_text(json.dumps(record))
    write_index(workspace, cases)
    split("idc", params, workspace)
    assert read_membership(workspace.split("idc")).set_index("case_id")["split"][before.index].equals(before)


def clone_without_data(workspace: Workspace, content: dict[str, Any], cases: pd.DataFrame) -> None:
    """Split, commit as DVC does, and lose the files that a clone doesn't have before `dvc pull`."""
    write_index(workspace, cases)
    split("idc", parse_params(content), workspace)
    digest = hashlib.md5(workspace.split("idc").read_bytes()).hexdigest()
    stage = {
        "params": {"params.yaml": {name: content[name] for name in ("idc", "seed", "split")}},
        "outs": [{"path": "data/splits/idc.csv", "md5": digest}, {"path": "data/splits/idc.json", "md5": "0"}],
    }
    workspace.dvc_lock.write_text(json.dumps({"stages": {"split@idc": stage}}))
    workspace.split("idc").unlink()
    workspace.split_record("idc").unlink()


def test_a_clone_with_grown_data_asks_for_the_record(workspace: Workspace, content: dict[str, Any]) -> None:
    clone_without_data(workspace, content, small_cases(25))
    write_index(workspace, small_cases(40))
    with pytest.raises(SplitError, match=r"data/splits/idc\.json is missing.*dvc pull data/splits/idc\.json") as caught:
        split("idc", parse_params(content), workspace)
    assert "\n" not in str(caught.value)
    assert not workspace.split("idc").exists()
    workspace.dvc_lock.unlink()
    split("idc", parse_params(content), workspace)


def test_a_clone_with_the_same_data_needs_no_record(workspace: Workspace, content: dict[str, Any]) -> None:
    clone_without_data(workspace, content, small_cases(25))
    split("idc", parse_params(content), workspace)


def test_a_clone_asks_for_the_record_of_a_split_that_grew(workspace: Workspace, content: dict[str, Any]) -> None:
    """Dealt in two goes, the same data has another membership than dealt in one."""
    cases = small_cases(40)
    write_index(workspace, cases.iloc[:25])
    split("idc", parse_params(content), workspace)
    clone_without_data(workspace, content, cases)
    with pytest.raises(SplitError, match="is missing"):
        split("idc", parse_params(content), workspace)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"seed": 7}, {"split": {"train": 0.6, "validation": 0.2, "test": 0.2}}, {"idc": {"source": "/archives/real.zip"}}],
)
def test_other_settings_or_real_data_are_dealt_anew(
    workspace: Workspace, content: dict[str, Any], change: dict[str, Any]
) -> None:
    clone_without_data(workspace, content, small_cases(25))
    write_index(workspace, small_cases(40))
    split("idc", parse_params(content | change), workspace)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "{", "stages: 5", "stages: {split@idc: null}", "stages: {split@idc: {}}"])
def test_a_lock_that_knows_no_split_does_not_matter(workspace: Workspace, params: Any, text: str) -> None:
    workspace.dvc_lock.write_text(text)
    write_index(workspace, small_cases())
    split("idc", params, workspace)


@pytest.mark.slow
def test_the_difference_names_the_case_that_moved(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shell where the virtual environment isn't activated."""
    monkeypatch.setenv("PATH", os.path.dirname(str(shutil.which("git"))))  # noqa: PTH120
    for variable in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(variable, "test")

    def run(*command: str) -> None:
        subprocess.run(command, cwd=workspace.root, check=True, capture_output=True)

    path = workspace.split("idc")
    path.parent.mkdir(parents=True)
    path.write_text("case_id,split\nc00,train\nc01,test\n")
    run("git", "init", "--quiet")
    run(sys.executable, "-m", "dvc", "init", "--quiet")
    run(sys.executable, "-m", "dvc", "add", "--quiet", "data/splits/idc.csv")
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--message", "split")
    path.write_text("case_id,split\nc00,test\nc01,test\nc02,train\n")
    said = moved_cases("idc", "HEAD", workspace).splitlines()
    assert said == ["c00: train -> test", "c02: - -> train", "2 of 3 moved since HEAD"]
    with pytest.raises(SplitError, match="as of nowhere can't be fetched") as caught:
        moved_cases("idc", "nowhere", workspace)
    assert "dvc.org/support" not in str(caught.value) and "name a commit whose dvc.lock has it" in str(caught.value)


def test_a_case_that_leaves_and_returns_keeps_its_split(workspace: Workspace, params: Any) -> None:
    cases = small_cases()
    write_index(workspace, cases)
    split("idc", params, workspace)
    before = workspace.split("idc").read_text()
    write_index(workspace, cases.drop("c03"))
    split("idc", params, workspace)
    assert "c03" not in workspace.split("idc").read_text()
    write_index(workspace, cases)
    split("idc", params, workspace)
    assert workspace.split("idc").read_text() == before


def test_another_seed_deals_known_cases_out_anew(workspace: Workspace, content: dict[str, Any]) -> None:
    write_index(workspace, small_cases(40))
    split("idc", parse_params(content), workspace)
    before = workspace.split("idc").read_text()
    split("idc", parse_params(content | {"seed": 7}), workspace)
    assert workspace.split("idc").read_text() != before


def test_no_case_straddles_two_splits_and_classes_are_everywhere(workspace: Workspace, params: Any) -> None:
    index = write_index(workspace, small_cases())
    summary = split("idc", params, workspace)
    splits = split_of_patches(workspace.split("idc"), index)
    assert splits.notna().all()
    assert (index.groupby("case_id").apply(lambda rows: splits[rows.index].nunique()) == 1).all()
    assert summary["patches"].sum() == len(index)
    assert (summary["positive"] > 0).all()
    assert workspace.split_plot("idc").stat().st_size > 5000


def test_kfold_covers_every_case_once(workspace: Workspace, content: dict[str, Any]) -> None:
    write_index(workspace, small_cases(20))
    split("idc", with_split(content, scheme="kfold", folds=4), workspace)
    table = read_membership(workspace.split("idc"))
    assert sorted(table["fold"].value_counts()) == [5, 5, 5, 5]
    assert table.groupby("fold")["split"].unique().str[0].to_dict() == {
        0: "test",
        1: "validation",
        2: "train",
        3: "train",
    }
    with pytest.raises(SplitError, match="20 cases can't fill 21 folds"):
        split("idc", with_split(content, scheme="kfold", folds=21), workspace)


def test_kfold_keeps_known_folds() -> None:
    cases = make_cases(30)
    before = assign_folds(cases, 5, 1)
    grown = pd.concat([cases, make_cases(10, 3).rename(index=lambda case: f"n{case}")])
    assert assign_folds(grown, 5, 1, before.to_dict())[cases.index].equals(before)


def test_random_divides_images_warns_and_says_that_it_leaks(
    workspace: Workspace, content: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    index = write_index(workspace, small_cases())
    split("idc", with_split(content, scheme="random"), workspace)
    table = read_membership(workspace.split("idc"))
    assert list(table.columns) == ["file", "case_id", "split"]
    assert is_leaky(table)
    assert json.loads(workspace.split_record("idc").read_text())["leaky"]
    assert "tagged leaky" in caplog.text
    shares = split_of_patches(workspace.split("idc"), index).value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.7, abs=0.01)


def test_excluded_cases_take_no_part(workspace: Workspace, content: dict[str, Any]) -> None:
    index = write_index(workspace, small_cases())
    content["idc"]["exclude_cases"] = ["c03", "c07"]
    split("idc", parse_params(content), workspace)
    splits = split_of_patches(workspace.split("idc"), index)
    assert splits[index["case_id"].isin(["c03", "c07"])].isna().all()
    content["idc"]["exclude_cases"] = ["c99"]
    with pytest.raises(SplitError, match="exclude_cases names c99, which is not in the data"):
        split("idc", parse_params(content), workspace)


def test_canonical_cases_go_where_they_were_published(workspace: Workspace, content: dict[str, Any]) -> None:
    from histopipe.data.splitting.canonical import canonical_cases

    listed = canonical_cases()
    assert listed.value_counts().to_dict() == {"train": 84, "test": 49, "validation": 29}
    names = [*listed.index, "99999"]
    cases = pd.DataFrame({"patches": 6, "positives": 3}, index=names)
    write_index(workspace, cases)
    split("idc", with_split(content, scheme="canonical", unlisted="train"), workspace)
    found = read_membership(workspace.split("idc")).set_index("case_id")["split"]
    assert found[listed.index].equals(listed.rename("split"))
    assert found["99999"] == "train"
    split("idc", with_split(content, scheme="canonical", unlisted="drop"), workspace)
    assert "99999" not in set(read_membership(workspace.split("idc"))["case_id"])


def test_canonical_needs_a_published_test_case(workspace: Workspace, content: dict[str, Any]) -> None:
    write_index(workspace, small_cases())
    with pytest.raises(SplitError, match="none of the published test cases is in the data"):
        split("idc", with_split(content, scheme="canonical"), workspace)


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        (small_cases(2), "2 cases can't be divided"),
        (small_cases(12).assign(positives=0), "would have a class missing"),
        (small_cases(12).assign(positives=lambda table: table["patches"]), "would have a class missing"),
        (small_cases(3).assign(positives=[5, 0, 0]), "would have a class missing"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    workspace: Workspace, params: Any, cases: pd.DataFrame, message: str
) -> None:
    write_index(workspace, cases)
    with pytest.raises(SplitError, match=message):
        split("idc", params, workspace)
    assert not workspace.split("idc").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case_id,split\nc00,train\nc00,test\n", "case_id c00 is in two splits"),
        ("case_id,split\nc00,train\nc00,train\n", "case_id c00 is listed twice"),
        ("case_id,split\nc00,holdout\n", "not a split file"),
        ("case,part\nc00,train\n", "not a split file"),
        ("case_id,split\nzz,train\n", "names case_id zz, which the store doesn't have"),
        ("", "not a readable table"),
    ],
)
def test_disjointness_is_asserted_whenever_a_split_is_read(workspace: Workspace, text: str, message: str) -> None:
    index = write_index(workspace, small_cases(3))
    path = workspace.split("idc")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(SplitError, match=message):
        split_of_patches(path, index)


def test_a_missing_split_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match=r"dvc repro split@idc"):
        read_membership(tmp_path / "idc.csv")


def test_unlisted_cases_take_no_part_unless_asked_for(
    workspace: Workspace, content: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    from histopipe.data.splitting.canonical import canonical_cases

    cases = pd.DataFrame({"patches": 6, "positives": 3}, index=[*canonical_cases().index, "99998", "99999"])
    write_index(workspace, cases)
    content["split"].pop("unlisted", None)
    split("idc", with_split(content, scheme="canonical"), workspace)
    assert set(read_membership(workspace.split("idc"))["case_id"]) == set(canonical_cases().index)
    assert not caplog.records
    split("idc", with_split(content, scheme="canonical", unlisted="train"), workspace)
    assert "adds 2 cases" in caplog.text and "tagged `unlisted_train`" in caplog.text
    assert json.loads(workspace.split_record("idc").read_text())["unlisted_train"]
