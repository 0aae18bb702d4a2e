"""Drift is decided by case: chance raises no alarms, however few the cases; a clear change is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wasserstein_distance

from histopipe.core.colours import COLOURS
from histopipe.core.errors import MonitoringError
from histopipe.core.params import MonitorParams
from histopipe.evaluation.drift.features import FEATURES
from histopipe.evaluation.drift.profiles import (
    LEVELS,
    case_profiles,
    new_profiles,
    read_profiles,
    reference_profiles,
    thin_profiles,
)
from histopipe.monitoring import distances
from histopipe.monitoring.comparison import Comparison, compare_profiles
from histopipe.monitoring.distances import Curves, memberships
from histopipe.monitoring.report import markdown_of, strange_cases, summary_of

GRADED = {"model": "models:/histopipe-idc/1", "model_id": "m-1", "data_set": "idc", "set_aside": {}}


@pytest.fixture(autouse=True)
def _few_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "PERMUTATIONS", 200)


def patches(random: np.random.Generator, cases: int, each: int, name: str = "old", darker: float = 0.0) -> pd.DataFrame:
    """Graded patches whose colours differ between cases half as much as within them, as real ones do."""
    of = np.repeat(np.arange(cases), each)
    table = pd.DataFrame({"case_id": [f"{name}{number}" for number in of]})
    level = 160 + 12 * random.standard_normal(cases)[of] + 24 * random.standard_normal(len(of)) - darker
    tint = 4 * random.standard_normal((cases, 3))[of] + 6 * random.standard_normal((len(of), 3))
    table[COLOURS[:3]] = np.clip(level[:, None] + tint, 1, 255)
    table[COLOURS[3:]] = np.abs(
        25 + 4 * random.standard_normal((cases, 3))[of] + 8 * random.standard_normal((len(of), 3))
    )
    logit = 1.5 * random.standard_normal(cases)[of] + 1.5 * random.standard_normal(len(of)) - 2
    return table.assign(probability=1 / (1 + np.exp(-logit)))


def compared(seed: int, old: tuple[int, int], new: tuple[int, int], darker: float = 0.0) -> Comparison:
    """Reference and new cases, each as so many cases of so many patches."""
    random = np.random.default_rng(seed)
    reference = new_profiles(patches(random, *old))
    return compare_profiles(reference, new_profiles(patches(random, *new, "new", darker)), MonitorParams(), seed)


@pytest.mark.slow
@pytest.mark.parametrize("new", [(1, 40), (3, 40), (3, 6), (10, 200)])
def test_chance_alone_raises_no_alarms_however_few_the_cases_and_patches(new: tuple[int, int]) -> None:
    verdicts = [compared(seed, (110, 40), new).verdict for seed in range(20)]
    assert verdicts.count("drift") <= 2  # of 20, where each may be one with a chance of 2 %


@pytest.mark.slow
def test_p_values_are_those_of_chance() -> None:
    smallest = [compared(seed, (40, 20), (6, 20)).features["chance"].iloc[:4].min() for seed in range(40)]
    assert (
        np.mean(np.array(smallest) <= 0.4) <= 0.37
    )  # 0.2 is right for four features together; half of it for each group


@pytest.mark.parametrize("cases", [3, 10])
def test_a_darker_scan_is_found_and_named(cases: int) -> None:
    found = [compared(seed, (60, 40), (cases, 40), darker=40) for seed in range(5)]
    assert [one.verdict for one in found] == ["drift"] * 5
    assert all("brightness" in one.drifted and "probability" not in one.drifted for one in found)
    assert "brightness by" in summary_of(found[0], GRADED, MonitorParams())["said"]


def test_a_single_case_is_judged_by_a_large_reference_and_never_by_a_small_one() -> None:
    assert compared(1, (150, 30), (1, 30), darker=90).verdict == "drift"
    few = compared(1, (20, 30), (1, 30), darker=90)
    assert few.verdict == "undecided" and few.features["distance"].max() > 2
    assert "too few" in summary_of(few, GRADED, MonitorParams())["said"]


def test_a_small_change_of_many_cases_is_no_drift() -> None:
    found = compared(3, (150, 40), (150, 40), darker=8)
    assert found.features["chance"].iloc[0] <= 0.02 and found.features["distance"].iloc[0] < 0.5
    assert found.verdict == "none"


def test_distances_are_wassersteins() -> None:
    random = np.random.default_rng(0)
    old, new = np.sort(random.normal(size=(9, 25)), axis=1), np.sort(random.normal(1.3, 2, size=(4, 25)), axis=1)
    curves = Curves.from_profiles(old, new)
    both = np.concatenate([old, new])
    found = curves.chosen(memberships(9, 4, 0))
    assert found[0] == pytest.approx(wasserstein_distance(old.ravel(), new.ravel()) / old.std(), rel=0.02)
    of_cases = curves.of_cases()
    assert of_cases[10] == pytest.approx(wasserstein_distance(old.ravel(), both[10]) / old.std(), rel=0.02)
    others = np.delete(old, 2, axis=0)
    assert of_cases[2] == pytest.approx(wasserstein_distance(others.ravel(), old[2]) / old.std(), abs=0.01)


def test_few_cases_are_exchanged_in_every_way_once_and_many_by_chance() -> None:
    every = memberships(5, 2, 0)
    assert len(every) == 21 == len(np.unique(every, axis=0)) and (every.sum(axis=1) == 2).all()
    by_chance = memberships(100, 7, 0)
    assert len(by_chance) == 200 and (by_chance.sum(axis=1) == 7).all()
    for ways in (every, by_chance):
        assert not ways[0, :-2].all() and ways[0, -2:].all()


def test_a_thinned_profile_is_as_uncertain_as_one_of_few_patches() -> None:
    wide = np.tile(np.quantile(np.random.default_rng(0).normal(size=4000), LEVELS), (300, 1))
    few = thin_profiles(wide, np.full(300, 4000), np.array([10]), 0)
    assert np.median(few, axis=1).std() == pytest.approx(1.25 / np.sqrt(10), rel=0.25)  # of a median of ten
    assert (thin_profiles(wide, np.full(300, 4000), np.array([9000]), 0) == wide).all()


def test_a_case_that_is_in_the_reference_too_is_taken_out_of_it() -> None:
    random = np.random.default_rng(0)
    reference = new_profiles(patches(random, 30, 20))
    again = reference[reference["case_id"].isin(["old1", "old2"])]
    found = compare_profiles(reference, again, MonitorParams(), 0)
    assert found.shared == 2 and set(found.features["reference_cases"]) == {28}
    with pytest.raises(MonitoringError, match="too few for a comparison"):
        compare_profiles(again, again, MonitorParams(), 0)


def test_cases_of_few_patches_are_counted_and_left_out() -> None:
    random = np.random.default_rng(0)
    new = pd.concat([patches(random, 2, 30, "new"), patches(random, 3, 4, "small")])
    found = compare_profiles(new_profiles(patches(random, 30, 20)), new_profiles(new), MonitorParams(), 0)
    assert found.left_out == 3 and set(found.cases["case_id"]) == {"new0", "new1"}
    with pytest.raises(MonitoringError, match=r"no new case has 50 patches: .* lower monitor\.min_patches"):
        compare_profiles(new_profiles(new), new_profiles(new), MonitorParams(min_patches=50), 0)


def test_one_strange_case_among_many_is_named_and_is_no_drift() -> None:
    random = np.random.default_rng(4)
    new = pd.concat([patches(random, 12, 30, "new"), patches(random, 1, 30, "dark|one", darker=120)])
    found = compare_profiles(new_profiles(patches(random, 60, 30)), new_profiles(new), MonitorParams(), 0)
    assert found.verdict == "none"
    assert strange_cases(found)["case_id"].iloc[0] == "dark|one0"
    assert r"| dark\|one0 | 30 | brightness by " in markdown_of(summary_of(found, GRADED, MonitorParams()), found)


def test_the_reference_has_colours_of_training_and_probabilities_of_other_cases(tmp_path: Path) -> None:
    table = patches(np.random.default_rng(0), 6, 5)
    number = table["case_id"].str[3:].astype(int)
    split = pd.Series(np.where(number < 3, "train", np.where(number < 5, "validation", "test")))
    profiles = reference_profiles(table.drop(columns="probability"), split, table[number >= 3])
    path = tmp_path / "reference.parquet"
    profiles.to_parquet(path, index=False)
    cases = read_profiles(path).groupby("feature")["case_id"].agg(set)
    assert set(cases.index) == set(FEATURES)
    assert cases["brightness"] == {"old0", "old1", "old2"} and cases["probability"] == {"old3", "old4", "old5"}
    path.write_bytes(b"?")
    with pytest.raises(MonitoringError, match=r"reference\.parquet can't be read"):
        read_profiles(path)


def test_features_that_never_vary_are_compared_too() -> None:
    grey = pd.DataFrame({"brightness": [100.0] * 40})
    profile = case_profiles(grey, pd.Series([f"c{number // 4}" for number in range(40)]))
    values = profile.filter(like="q").to_numpy(float)
    assert Curves.from_profiles(values[:8], values[8:]).chosen(memberships(8, 2, 0)).max() == 0
