"""The real archives: published facts that a loader must get right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histopipe.datasets import get_dataset
from histopipe.ingest.stage import ingest
from histopipe.paths import Workspace
from histopipe.splitting import split, split_of_patches
from histopipe.splitting.canonical import canonical_cases
from histopipe.store import PatchStore

Find = Callable[[str], Path]


def linked(workspace: Workspace, archive: Path) -> Workspace:
    raw = workspace.raw("idc")
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
