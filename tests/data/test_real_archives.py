"""The real archives: published facts that a loader must get right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from histopipe.core.params import parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.canonical import canonical_cases
from histopipe.data.splitting.membership import split_of_patches
from histopipe.data.splitting.stage import split
from histopipe.data.store import PatchStore
from histopipe.ingest.datasets import get_dataset
from histopipe.ingest.stage import ingest

Find = Callable[[str], Path]


def linked(workspace: Workspace, archive: Path, dataset: str = "idc") -> Workspace:
    raw = workspace.raw(dataset)
    raw.mkdir(parents=True)
    (raw / archive.name).symlink_to(archive)
    return workspace


def test_the_idc_sample_counts_each_patch_once(real: Find, workspace: Workspace, params: Any) -> None:
    report = ingest("idc", params, linked(workspace, real("idc-sample.zip")))
    found = {name: report[name] for name in ("patches", "cases", "positive", "undersized", "second_copies", "bad")}
    assert found == {
        "patches": 9387, "cases": 230, "positive": 2574, "undersized": 96, "second_copies": 671, "bad": 0,
    }  # fmt: skip
    assert len(report["set_aside"]["second copy"]["folders"]) == 12
    store = PatchStore.open(workspace.store("idc"))
    assert store.patch_size == (50, 50)
    thin = store.index.index[store.index["height"] == 1][:1].to_numpy()
    patch = store.gather(thin)[0]
    assert (patch == patch[:1]).all()


def test_no_case_of_the_idc_sample_stands_in_two_splits(real: Find, workspace: Workspace, params: Any) -> None:
    ingest("idc", params, linked(workspace, real("idc-sample.zip")))
    summary = split("idc", params, workspace)
    index = PatchStore.open(workspace.store("idc")).index
    splits = split_of_patches(workspace.split("idc"), index)
    assert splits.groupby(index["case_id"]).nunique().max() == 1
    shares = summary["patches"] / summary["patches"].sum()
    assert np.allclose(shares, [0.70, 0.15, 0.15], atol=0.01)
    assert np.allclose(summary["positive_share"], 0.274, atol=0.01)


def test_the_complete_slides_have_every_patch(real: Find, workspace: Workspace, params: Any) -> None:
    ingest("idc", params, linked(workspace, real("idc-slides.zip")))
    index = PatchStore.open(workspace.store("idc")).index
    counts = index.groupby(["case_id", "label"]).size().unstack()
    assert counts.loc["8863"].tolist() == [772, 207]
    assert counts.loc["8865"].tolist() == [657, 55]
    assert counts.loc["8867"].tolist() == [1480, 162]
    assert ((index["x"] - index["x"].iloc[0]) % 50 == 0).groupby(index["case_id"]).all().any()


def test_the_carried_canonical_lists_are_the_published_ones(real: Find) -> None:
    published = pd.read_csv(real("idc-canonical-cases.csv"), dtype=str).set_index("case_id")["split"]
    assert canonical_cases().sort_index().equals(published.sort_index())


def test_the_published_size_is_that_of_kaggles_archive() -> None:
    published = get_dataset("idc").published
    assert published is not None
    assert (published.patches, published.cases, published.positive) == (277_524, 279, 78_786)


def test_the_malaria_sample_by_patient(real: Find, workspace: Workspace, params: Any) -> None:
    report = ingest("malaria", params, linked(workspace, real("malaria-sample.zip"), "malaria"))
    found = {name: report[name] for name in ("patches", "cases", "positive", "second_copies", "bad")}
    assert found == {"patches": 3633, "cases": 160, "positive": 1393, "second_copies": 0, "bad": 0}
    store = PatchStore.open(workspace.store("malaria"))
    assert store.patch_size == (128, 128)
    assert int((store.index.groupby("case_id")["label"].sum() == 0).sum()) == 44
    assert "magnification" not in store.index


@pytest.mark.parametrize("scheme", ["grouped", "kfold"])
@pytest.mark.parametrize("seed", [1, 2, 42])
def test_healthy_donors_of_the_malaria_sample_are_shared_out(
    real: Find, workspace: Workspace, content: dict[str, Any], seed: int, scheme: str
) -> None:
    content["seed"] = seed
    content["split"]["scheme"] = scheme
    params = parse_params(content)
    ingest("malaria", params, linked(workspace, real("malaria-sample.zip"), "malaria"))
    split("malaria", params, workspace)
    index = PatchStore.open(workspace.store("malaria")).index
    cases = index.groupby("case_id")["label"].sum().rename("positive").reset_index()
    healthy = (cases["positive"] == 0).groupby(split_of_patches(workspace.split("malaria"), cases)).mean()
    positive = index["label"].groupby(split_of_patches(workspace.split("malaria"), index)).mean()
    assert np.allclose(healthy, 44 / 160, atol=0.06)  # two of the 24 cases of a test split
    assert np.allclose(positive, 1393 / 3633, atol=0.02)


def test_the_breakhis_sample_by_patient(real: Find, workspace: Workspace, params: Any) -> None:
    report = ingest("breakhis", params, linked(workspace, real("breakhis-sample.zip"), "breakhis"))
    found = {name: report[name] for name in ("patches", "cases", "positive", "bad")}
    assert found == {"patches": 24, "cases": 17, "positive": 9, "bad": 0}
    store = PatchStore.open(workspace.store("breakhis"))
    assert store.patch_size == (230, 350)
    assert store.index[["height", "width"]].drop_duplicates().to_numpy().tolist() == [[460, 700]]
    assert store.index["magnification"].value_counts().to_dict() == {40: 13, 100: 3, 200: 6, 400: 2}
    assert set(store.index["subtype"]) == {"A", "F", "PT", "TA", "DC", "LC", "MC", "PC"}
    assert store.index.groupby("case_id")["magnification"].nunique().max() == 4


def test_one_magnification_of_the_breakhis_sample(real: Find, workspace: Workspace, content: dict[str, Any]) -> None:
    content["breakhis"] = {"magnification": 200}
    report = ingest("breakhis", parse_params(content), linked(workspace, real("breakhis-sample.zip"), "breakhis"))
    assert (report["patches"], report["positive"], report["bad"]) == (6, 3, 0)
    assert report["set_aside"]["other magnification"]["count"] == 18
