"""Where a class lives in few cases, each split gets one of them if there are enough; else the message says how many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from histopipe.core.errors import SplitError
from histopipe.core.params import parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.assignment import assign_cases
from histopipe.data.splitting.membership import SPLITS
from histopipe.data.splitting.stage import split

FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}


def of_classes(mixed: int, negative: int, positive: int, seed: int = 0) -> pd.DataFrame:
    """Cases of lognormal sizes: some with both classes, some with one."""
    generator = np.random.default_rng(seed)
    patches = np.maximum(4, generator.lognormal(4, 1, mixed + negative + positive)).astype(int)
    positives = patches * np.repeat([0, 0, 1], [mixed, negative, positive])
    positives[:mixed] = np.maximum(1, patches[:mixed] // 4)
    return pd.DataFrame({"patches": patches, "positives": positives}, index=[f"c{n:03d}" for n in range(len(patches))])


def write(workspace: Workspace, cases: pd.DataFrame) -> None:
    rows = [
        {"file": f"{case}/{number}.png", "case_id": case, "label": int(number < row.positives)}
        for case, row in cases.iterrows()
        for number in range(min(12, int(row.patches)))
    ]
    workspace.store("idc").mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(workspace.store("idc") / "index.parquet")


def both_classes_everywhere(cases: pd.DataFrame, splits: pd.Series) -> bool:
    held = cases.groupby(splits)[["patches", "positives"]].sum().reindex(list(SPLITS), fill_value=0)
    return bool(((held["positives"] > 0) & (held["positives"] < held["patches"])).all())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mixed", "negative", "positive"),
    [(3, 97, 0), (3, 0, 97), (0, 21, 3), (0, 3, 21), (0, 3, 3), (1, 2, 2), (2, 1, 1), (3, 0, 0), (1, 5, 2)],
)
def test_a_division_is_found_where_each_class_has_three_cases(mixed: int, negative: int, positive: int) -> None:
    for seed in range(20):
        cases = of_classes(mixed, negative, positive, seed)
        assert both_classes_everywhere(cases, assign_cases(cases, FRACTIONS, seed))


def test_the_seed_still_decides_which_scarce_case_tests() -> None:
    cases = of_classes(0, 40, 3).assign(patches=10, positives=lambda table: 10 * (table["positives"] > 0))
    tested = [
        set(cases.index[assign_cases(cases, FRACTIONS, s) == "test"]) & {"c040", "c041", "c042"} for s in range(30)
    ]
    assert len({frozenset(each) for each in tested}) == 3


def test_known_cases_stay_where_a_new_one_brings_the_missing_class() -> None:
    cases = of_classes(3, 20, 0)
    known = dict.fromkeys(cases.index, "train") | {"c003": "validation", "c004": "test"}
    grown = pd.concat([cases, of_classes(0, 5, 2, 1).rename(index=lambda case: f"n{case}")])
    found = assign_cases(grown, FRACTIONS, 1, known)
    assert found[list(known)].to_dict() == known
    assert both_classes_everywhere(grown, found)


def test_a_group_with_one_class_leaves_the_mixed_case_to_one_with_none() -> None:
    cases = pd.DataFrame(
        {"patches": [10, 10, 10, 10], "positives": [4, 0, 10, 4]}, index=["known", "benign", "tumour", "mixed"]
    )
    found = assign_cases(cases, FRACTIONS, 0, {"known": "train", "benign": "validation"})
    assert found.to_dict() == {"known": "train", "benign": "validation", "tumour": "validation", "mixed": "test"}


@pytest.mark.parametrize(
    ("cases", "needed"),
    [
        (of_classes(2, 98, 0), "2 of 100 cases have positive patches: add 1"),
        (of_classes(0, 1, 20), "1 of 21 cases have negative patches: add 2"),
        (
            of_classes(0, 2, 2),
            "2 of 4 cases have negative patches: add 1; 2 of 4 cases have positive patches: add 1",
        ),
    ],
)
def test_what_cannot_be_divided_says_how_many_cases_would_do(
    workspace: Workspace, params: Any, cases: pd.DataFrame, needed: str
) -> None:
    write(workspace, cases)
    with pytest.raises(SplitError, match="would have a class missing") as caught:
        split("idc", params, workspace)
    assert needed in str(caught.value) and "seed" not in str(caught.value) and "\n" not in str(caught.value)


def test_as_many_cases_as_the_message_says_do(workspace: Workspace, params: Any) -> None:
    cases = pd.concat([of_classes(2, 98, 0), of_classes(1, 0, 0, 5).rename(index={"c000": "new"})])
    write(workspace, cases)
    split("idc", params, workspace)


def test_a_class_in_fewer_than_three_cases_of_a_split_is_remarked_on(
    workspace: Workspace, params: Any, content: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    write(workspace, of_classes(0, 60, 9))
    split("idc", params, workspace)
    assert "threshold and calibration rest on" in caplog.text and "validation has positive patches in" in caplog.text
    assert len(caplog.records) == 1
    caplog.clear()
    write(workspace, of_classes(60, 0, 0))
    split("idc", parse_params(content | {"seed": 7}), workspace)
    assert not caplog.records
