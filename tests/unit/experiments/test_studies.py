"""Variants on request: which cases each fold tests, what an interval of a mean is, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy import stats

from histopipe.cli import main
from histopipe.core.errors import EvaluationError, ParamsError, SplitError
from histopipe.core.files import write_json, write_text
from histopipe.core.params import Params, StudiesParams, parse_params
from histopipe.core.variants import KINDS, Study, parse_variant, variant_name
from histopipe.core.workspace import Workspace, stage_name
from histopipe.data.splitting.membership import SPLITS, read_membership
from histopipe.data.splitting.stage import as_csv, fold_membership, split
from histopipe.evaluation.intervals import resample_cases
from histopipe.evaluation.metrics import METRICS, Predictions, compute_metrics
from histopipe.evaluation.mlflow_run import LOGGED_SLIDES
from histopipe.experiments.studies.definition import keep_training_cases, variant_params, variant_split
from histopipe.experiments.studies.evaluate_stage import with_limited_outputs
from histopipe.experiments.studies.reading import split_digests
from histopipe.experiments.studies.split_stage import settings_of, split_variant
from histopipe.experiments.studies.statistics import fold_differences, fold_means, resampled_means, spread
from histopipe.experiments.studies.summary import summarise_study
from histopipe.experiments.studies.workspace import VariantWorkspace, apply_variant_settings
from histopipe.tracking.stores import prepare_experiment
from histopipe.training.recipe import recipe_digest
from tests.builders.predictions import slides
from tests.builders.registry import client
from tests.builders.stores import make_cases, small_cases, write_index

Content = dict[str, Any]


def changed(content: Content, **sections: Content) -> Params:
    for name, changes in sections.items():
        content[name] = content[name] | changes
    return parse_params(content)


@pytest.fixture
def two(content: Content) -> Params:
    """Two architectures, three folds, all of them asked for; two seeds."""
    content["recipes"]["other"] = content["recipes"]["cancernet"] | {"architecture": "cancernet"}
    content["architectures"] = ["cancernet", "other"]
    variants = [*(f"fold-{number}" for number in range(3)), "seed-1", "seed-2"]
    variants += ["scheme-grouped", "scheme-random", "size-4", "size-8"]
    studies = {"variants": variants, "summaries": list(KINDS)}
    return changed(content, studies=studies, split={"folds": 3}, evaluate={"resamples": 200})


# --- which case is where


def test_each_fold_tests_once_and_the_next_one_validates(workspace: Workspace, content: Content) -> None:
    params = changed(content, split={"folds": 4})
    write_index(workspace, small_cases(16))
    split("idc", params, workspace)
    parts = [variant_split("folds", "idc", number, params, workspace) for number in range(4)]
    members = [{name: set(part.loc[part["split"] == name, "case_id"]) for name in SPLITS} for part in parts]
    assert sorted(case for each in members for case in each["test"]) == sorted(small_cases(16).index)
    for number, each in enumerate(members):
        assert each["validation"] == members[(number + 1) % 4]["test"]
        assert each["train"] == set(small_cases(16).index) - each["test"] - each["validation"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["kfold", "random"])
def test_folds_are_the_same_under_every_scheme(workspace: Workspace, content: Content, scheme: str) -> None:
    write_index(workspace, small_cases(16))
    params = changed(content, split={"folds": 4, "scheme": "grouped"})
    split("idc", params, workspace)
    before = workspace.folds("idc").read_text()
    split("idc", changed(content, split={"folds": 4, "scheme": scheme}), workspace)
    assert workspace.folds("idc").read_text() == before


def test_fold_0_is_the_main_run_of_the_kfold_scheme(workspace: Workspace, content: Content) -> None:
    params = changed(content, split={"folds": 4, "scheme": "kfold"})
    write_index(workspace, small_cases(16))
    split("idc", params, workspace)
    assert as_csv(variant_split("folds", "idc", 0, params, workspace)) == workspace.split("idc").read_text()


@pytest.mark.slow
def test_known_cases_keep_their_fold_when_data_arrives(workspace: Workspace, content: Content) -> None:
    params = changed(content, split={"folds": 4})
    write_index(workspace, make_cases(20))
    split("idc", params, workspace)
    before = pd.read_csv(workspace.folds("idc"), dtype=str).set_index("case_id")["fold"]
    write_index(workspace, pd.concat([make_cases(10), make_cases(40, seed=3).iloc[20:]]))
    split("idc", params, workspace)
    write_index(workspace, make_cases(40, seed=3))  # ten of them were gone and come back
    split("idc", params, workspace)
    now = pd.read_csv(workspace.folds("idc"), dtype=str).set_index("case_id")["fold"]
    assert len(now) == 40
    assert now[before.index].equals(before)


@pytest.mark.slow
def test_a_switch_to_kfold_keeps_the_folds_that_were_studied(workspace: Workspace, content: Content) -> None:
    write_index(workspace, make_cases(20))
    split("idc", changed(content, split={"folds": 4}), workspace)
    write_index(workspace, make_cases(40, seed=3))
    split("idc", changed(content, split={"folds": 4}), workspace)
    before = workspace.folds("idc").read_text()
    split("idc", changed(content, split={"folds": 4, "scheme": "kfold"}), workspace)
    assert workspace.folds("idc").read_text() == before


def test_a_seed_splits_as_a_first_run_with_it_would(workspace: Workspace, content: Content, tmp_path: Path) -> None:
    params = parse_params(content)
    index = write_index(workspace, make_cases(20))
    split("idc", params, workspace)
    main_split = workspace.split("idc").read_bytes()
    found = variant_split("seeds", "idc", 7, params, workspace)
    assert workspace.split("idc").read_bytes() == main_split
    other = Workspace(tmp_path / "other")
    other.store("idc").mkdir(parents=True)
    index.to_parquet(other.store("idc") / "index.parquet")
    split("idc", params.model_copy(update={"seed": 7}), other)
    assert as_csv(found) == other.split("idc").read_text()
    assert as_csv(found).encode() != main_split


def test_excluded_cases_take_no_part(workspace: Workspace, content: Content) -> None:
    params = changed(content, split={"folds": 3}, idc={"exclude_cases": ["c03"]})
    write_index(workspace, small_cases())
    split("idc", params, workspace)
    for name in ("fold-1", "seed-1"):
        study, number = parse_variant(name)
        assert "c03" not in set(variant_split(study, "idc", number, params, workspace)["case_id"])


# --- what is refused, in one line


def test_a_fold_that_there_is_not_is_refused(workspace: Workspace, content: Content) -> None:
    with pytest.raises(
        ParamsError, match=r"^params.yaml: studies.variants: there is no fold 5: split.folds gives 0 to 4$"
    ):
        changed(content, studies={"variants": ["fold-0", "fold-5"]})
    with pytest.raises(ParamsError, match=r"^idc folds: there is no fold 9: split.folds gives 0 to 4$"):
        write_index(workspace, small_cases())
        variant_split("folds", "idc", 9, parse_params(content | {"studies": {}}), workspace)


@pytest.mark.parametrize(
    ("studies", "said"),
    [
        ({"variants": ["fold-1", "fold-1"]}, "variants lists fold-1 twice"),
        ({"variants": ["fold-1"], "summaries": ["seeds"]}, "summaries lists seeds, but variants lists no seeds"),
        ({"variant": ["fold-1"]}, "unknown key 'studies.variant'; did you mean 'studies.variants'"),
        ({"variants": ["folds-1"]}, r"studies.variants.0: 'folds-1' is no variant: write fold-0, seed-1, scheme-"),
        ({"variants": ["seed-01"]}, "'seed-01' is no variant"),
        ({"variants": ["seed-2147483648"]}, "'seed-2147483648' is no variant"),
        ({"variants": ["size-0"]}, "'size-0' is no variant"),
        ({"variants": ["size-²"]}, "'size-²' is no variant"),
        ({"variants": ["scheme-kfolds"]}, "'scheme-kfolds' is no variant"),
        ({"variants": [3]}, r"studies.variants.0"),
    ],
)
def test_lists_that_can_not_be_meant_are_refused(content: Content, studies: Content, said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        changed(content, studies=studies)


def test_fewer_cases_than_folds_stop_the_study_only(workspace: Workspace, content: Content) -> None:
    params = changed(content, split={"folds": 9})
    write_index(workspace, small_cases(8))
    split("idc", params, workspace)
    assert set(read_membership(workspace.split("idc"))["split"]) == set(SPLITS)
    with pytest.raises(SplitError, match=r"idc.folds.csv is empty, .* lower split.folds or add cases"):
        variant_split("folds", "idc", 0, params, workspace)


def test_folds_of_another_count_are_refused(workspace: Workspace, content: Content) -> None:
    write_index(workspace, small_cases())
    split("idc", changed(content, split={"folds": 3}), workspace)
    with pytest.raises(SplitError, match=r"folds other than 0 to 3: run `dvc repro split@idc`"):
        variant_split("folds", "idc", 0, changed(content, split={"folds": 4}), workspace)


def test_a_fold_without_a_class_is_refused_before_it_trains(workspace: Workspace, content: Content) -> None:
    cases = small_cases()
    cases["positives"] = [20, *[0] * 11]
    write_index(workspace, cases)
    params = changed(content, split={"folds": 3})
    folds = pd.DataFrame({"case_id": cases.index, "fold": [number % 3 for number in range(12)]})
    write_text(workspace.folds("idc"), as_csv(folds))
    with pytest.raises(SplitError, match=r"^idc fold 1: train would have|^idc fold 1: validation would have"):
        variant_split("folds", "idc", 1, params, workspace)


@pytest.mark.parametrize(
    "arguments",
    [
        ["split_variant", "idc", "cancernet", "fold--1"],
        ["train_variant", "idc", "x/y", "fold-1"],
        ["train_variant", "idc", "cancernet", "../fold-1"],
        ["train_variant", "idc", "cancernet", "fold-1"],  # its cases aren't divided yet
        ["study", "idc", "fold"],
    ],
)
def test_a_wrong_command_line_ends_with_two(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(workspace.root)
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_stages_are_named_as_dvc_names_them() -> None:
    assert stage_name("train_variant", "idc", "cancernet", "fold-3") == "train_variant@idc-cancernet-fold-3"
    assert stage_name("study", "idc", "folds") == "study@idc-folds"


def test_a_variant_leaves_the_main_run_alone(workspace: Workspace) -> None:
    own = VariantWorkspace(workspace.root, "folds", "cancernet", 3)
    paths = ("model", "evaluation", "checkpoint")
    theirs = {getattr(workspace, name)("idc", "cancernet") for name in paths} | {workspace.split("idc")}
    assert not theirs & ({getattr(own, name)("idc", "cancernet") for name in paths} | {own.split("idc")})
    assert own.store("idc") == workspace.store("idc")
    assert own.run_name("cancernet") == "cancernet fold 3"
    assert own.run_tags == {"study": "folds", "variant": "3"}


# --- means and intervals


def folds_of(seed: int, skill: float = 0.9, sizes: tuple[int, ...] = (7, 9, 8)) -> list[Predictions]:
    """Folds with different cases and, as different models have, different scales of probability."""
    folds = []
    for number, size in enumerate(sizes):
        fold = slides(size, seed=100 * seed + number, patches=15)
        logits = np.log(fold.probabilities / (1 - fold.probabilities)) * skill + number
        probabilities = 1 / (1 + np.exp(-logits))
        decisions = (logits > number).astype(int)
        folds.append(Predictions(fold.labels, probabilities, decisions, fold.cases, fold.case_count))
    return folds


def slow_metric(name: str, rows: list[tuple[int, float, int]]) -> float:
    """Metrics in plain Python, from (label, probability, decision) of every patch drawn."""
    if name == "roc_auc":
        pairs = [(p, n) for label, p, _ in rows if label for other, n, _ in rows if not other]
        return sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)
    if name == "sensitivity":
        called = [decision for label, _, decision in rows if label]
        return sum(called) / len(called)
    assert name == "brier"
    return sum((p - label) ** 2 for label, p, _ in rows) / len(rows)


def slow_count(cases: list[int]) -> float:
    """How many cases of equal size would tell as much as those that these patches come from."""
    sizes = Counter(cases).values()
    return sum(sizes) ** 2 / sum(size**2 for size in sizes)


def slow_interval(folds: list[Predictions], name: str, resamples: int, seed: int) -> tuple[float, float, float]:
    """Mean over folds and its interval, patch by patch and draw by draw."""
    patches = [list(zip(f.labels.tolist(), f.probabilities.tolist(), f.decisions.tolist(), strict=True)) for f in folds]
    cases = [fold.cases.tolist() for fold in folds]
    value = sum(slow_metric(name, rows) for rows in patches) / len(folds)
    logits = []
    for draw in range(resamples):
        scores = []
        for place, fold in enumerate(folds):
            times = resample_cases(fold.case_count, resamples, [seed, place], fold.case_count - 1)[draw]
            assert times.sum() == fold.case_count - 1
            drawn = [
                row for row, case in zip(patches[place], cases[place], strict=True) for _ in range(int(times[case]))
            ]
            scores.append(slow_metric(name, drawn))
        mean = sum(scores) / len(scores)
        logits.append(np.log(mean / (1 - mean)))
    informative = sum(map(slow_count, [[c for c, row in zip(*fold, strict=True) if row[0] or name == "brier"]
                                       for fold in zip(cases, patches, strict=True)]))  # fmt: skip
    reach = stats.t.ppf(0.975, informative - len(folds)) * np.std(logits, ddof=1)
    centre = np.log(value / (1 - value))
    low, high = (1 / (1 + np.exp(-(centre + sign * reach))) for sign in (-1, 1))
    return value, float(low), float(high)


@pytest.mark.parametrize("name", ["roc_auc", "sensitivity", "brier"])
def test_the_interval_is_that_of_a_slow_reference(name: str) -> None:
    folds = folds_of(seed=1)
    found = fold_means(folds, resamples=40, seed=5)[name]
    assert (found["value"], found["low"], found["high"]) == pytest.approx(slow_interval(folds, name, 40, 5), abs=1e-9)


def test_scores_of_different_models_are_not_pooled() -> None:
    """Folds on different scales: each ranks its own patches perfectly, one curve through all would not."""
    labels, cases = np.tile([0, 1], 20), np.repeat(np.arange(10), 4)
    folds = [Predictions.from_arrays(labels, base + 0.1 * labels, labels, cases) for base in (0.1, 0.5, 0.8)]
    assert fold_means(folds, 100, 1)["roc_auc"]["value"] == 1.0
    pooled = [np.concatenate([getattr(fold, name) for fold in folds]) for name in ("labels", "probabilities")]
    assert compute_metrics(Predictions.from_arrays(*pooled, pooled[0], np.arange(120)))["roc_auc"] < 0.9


@pytest.mark.slow
def test_intervals_of_means_cover_the_truth_about_as_often_as_they_say() -> None:
    """The truth for the models at hand: what each scores on very many further cases, averaged."""
    truth = {
        name: float(np.mean([compute_metrics(fold)[name] for fold in folds_of(seed=99, sizes=(2500, 2500, 2500))]))
        for name in METRICS
    }
    covered = dict.fromkeys(("roc_auc", "sensitivity", "specificity", "brier", "calibration_error"), 0)
    for seed in range(150):
        found = fold_means(folds_of(seed), 200, seed)
        for name in covered:
            covered[name] += found[name]["low"] <= truth[name] <= found[name]["high"]
    assert all(count >= 0.88 * 150 for count in covered.values()), covered  # .95 less four standard errors


def test_a_metric_undefined_in_one_fold_has_no_mean() -> None:
    silent = Predictions.from_arrays([1, 0, 1, 0], [0.4, 0.3, 0.2, 0.1], [0] * 4, ["A", "A", "B", "B"])
    found = fold_means([*folds_of(1), silent], 100, 1)
    assert found["precision"] == {"value": None, "low": None, "high": None}
    assert found["sensitivity"]["value"] is not None


def test_a_fold_of_one_case_tells_no_spread() -> None:
    single = Predictions.from_arrays([1, 0, 1], [0.9, 0.8, 0.3], [1, 1, 0], ["A"] * 3)
    found = fold_means([*folds_of(1), single], 100, 1)["sensitivity"]
    assert (found["low"], found["high"]) == (0.0, 1.0)
    assert fold_differences([single], [single], 100, 1)["sensitivity"] == {
        "value": 0.0,
        "low": -1.0,
        "high": 1.0,
        "p": 1.0,
    }


def test_differences_of_folds_are_those_of_all_their_cases() -> None:
    first, second = folds_of(seed=2, skill=1.5), folds_of(seed=2, skill=1.0)
    found = fold_differences(first, second, 300, 7)["brier"]
    errors = [np.mean([compute_metrics(fold)["brier"] for fold in folds]) for folds in (first, second)]
    assert found["value"] == pytest.approx(errors[0] - errors[1])
    ones, others = resampled_means(first, 300, 7)["brier"], resampled_means(second, 300, 7)["brier"]
    width = stats.norm.ppf(0.975) * 2 * np.std(ones - others, ddof=1)
    assert 0.8 < (found["high"] - found["low"]) / width < 1.6
    unpaired = np.hypot(np.std(ones, ddof=1), np.std(others, ddof=1))
    assert np.std(ones - others, ddof=1) < 0.8 * unpaired  # what makes a fold hard for both cancels


def test_a_difference_without_spread_is_as_certain_as_its_cases_allow() -> None:
    folds = folds_of(3)
    found = fold_differences(folds, folds, 100, 1)["brier"]
    reach = 1 - 0.025 ** (1 / 24)
    assert (found["low"], found["value"], found["high"]) == (
        pytest.approx(-reach, rel=0.02),
        0.0,
        pytest.approx(reach, rel=0.02),
    )


def test_spread_over_seeds() -> None:
    assert spread([0.8, 0.9, 0.85]) == {"mean": pytest.approx(0.85), "sd": pytest.approx(0.05), "min": 0.8, "max": 0.9}
    assert spread([0.8]) == {"mean": 0.8, "sd": None, "min": 0.8, "max": 0.8}
    assert spread([0.8, None]) == {"mean": None, "sd": None, "min": None, "max": None}


# --- the summary


def write_variants(workspace: Workspace, params: Params, study: Study, architecture: str, skill: float) -> None:
    """What trained variants leave behind: made-up predictions of the split's own test cases."""
    digests = split_digests(study, "idc", params, workspace)
    for place, (number, digest) in enumerate(digests.items()):
        membership = variant_split(study, "idc", number, params, workspace)
        cases = membership.loc[membership["split"] == "test", "case_id"].unique().tolist()
        fold = slides(len(cases), seed=10 + place, patches=15)
        probability = 1 / (1 + np.exp(-skill * np.log(fold.probabilities / (1 - fold.probabilities)) - place))
        table = pd.DataFrame({"case_id": [cases[case] for case in fold.cases], "split": "test", "label": fold.labels})
        table["probability"], table["decision"] = probability, (probability > 0.5).astype(int)
        table["file"] = [f"{row}.png" for row in table.index]
        folder = VariantWorkspace(workspace.root, study, architecture, number).folder("idc")
        folder.mkdir(parents=True)
        table.to_parquet(folder / "predictions.parquet")
        values = compute_metrics(
            Predictions.from_arrays(table["label"], probability, table["decision"], table["case_id"])
        )
        metrics = {
            "test": {name: {"value": each, "low": each - 0.01, "high": each + 0.01} for name, each in values.items()},
            "cases": len(cases), "patches": len(table), "threshold": 0.5, "positive_class": "IDC", "run_id": "0",
            "split_digest": digest, "quick": None, "leaky": number == "random",
            "recipe_digest": recipe_digest(variant_params(study, number, params), architecture),
        }  # fmt: skip
        write_json(folder / "metrics.json", metrics)


@pytest.fixture
def studied(workspace: Workspace, two: Params) -> Workspace:
    write_index(workspace, small_cases(24))
    split("idc", two, workspace)
    for study in KINDS:
        write_variants(workspace, two, study, "cancernet", skill=0.5)
        write_variants(workspace, two, study, "other", skill=1.5)
    return workspace


@pytest.mark.slow
def test_folds_are_summed_up(studied: Workspace, two: Params) -> None:
    found = summarise_study("folds", "idc", two, studied)
    (difference,) = found["differences"]
    assert {row["architecture"] for row in found["ranking"]} == {"cancernet", "other"}
    for row in found["ranking"]:
        values = [row["variants"][str(fold)]["test"]["brier"]["value"] for fold in range(3)]
        assert row["mean"]["brier"]["value"] == pytest.approx(np.mean(values))
        assert row["spread"]["brier"]["sd"] == pytest.approx(np.std(values, ddof=1))
    means = [row["mean"]["brier"]["value"] for row in found["ranking"]]
    assert difference["mean"]["brier"]["value"] == pytest.approx(means[0] - means[1])
    folder = studied.study_summary("folds", "idc")
    text = (folder / "summary.md").read_text()
    assert text.startswith("# idc: 3 of 3 folds\n")
    assert "| cancernet | 2 | 8 | 120 |" in text
    assert "never pooled" in text
    with Image.open(folder / "summary.png") as picture:
        assert picture.width > 800


@pytest.mark.slow
def test_a_summary_is_logged_into_one_run_however_often_it_is_made(
    studied: Workspace, two: Params, tmp_path: Path
) -> None:
    for study in ("folds", "folds", "seeds"):
        summarise_study(study, "idc", two, studied)
    runs = {run.info.run_name: run for run in client(studied).search_runs([prepare_experiment(studied, "idc")])}
    assert set(runs) == {"folds summary", "seeds summary"}
    run = runs["folds summary"]
    assert (run.info.status, run.data.tags["study"], run.data.tags["variant"]) == ("FINISHED", "folds", "summary")
    for name in ("summary.json", "summary.md", "summary.png"):
        logged = client(studied).download_artifacts(run.info.run_id, f"summary/{name}", str(tmp_path))
        assert Path(logged).read_bytes() == (studied.study_summary("folds", "idc") / name).read_bytes()


@pytest.mark.slow
def test_seeds_have_a_spread_and_no_interval(studied: Workspace, two: Params) -> None:
    found = summarise_study("seeds", "idc", two, studied)
    assert all("mean" not in row for row in [*found["ranking"], *found["differences"]])
    assert found["ranking"][0]["spread"]["roc_auc"]["sd"] is not None
    text = (studied.study_summary("seeds", "idc") / "summary.md").read_text()
    assert text.startswith("# idc: 2 seeds\n")
    assert " ± " in text
    assert "in 2 of 2" in text or "in 1 of 2" in text or "in 0 of 2" in text


@pytest.mark.slow
def test_what_is_missing_or_out_of_date_is_left_out_with_its_reason(studied: Workspace, two: Params) -> None:
    path = VariantWorkspace(studied.root, "folds", "other", 1).folder("idc") / "metrics.json"
    path.unlink()
    found = summarise_study("folds", "idc", two, studied)
    assert [row["architecture"] for row in found["ranking"]] == ["cancernet"]
    assert found["incomplete"][0]["reason"] == "fold 1: not trained, run `dvc repro evaluate_variant@idc-other-fold-1`"
    longer = two.model_copy(update={"quick": None})
    with pytest.raises(EvaluationError, match=r"cancernet: fold 0: the recipe changed since: run `dvc repro evaluate"):
        summarise_study("folds", "idc", longer, studied)
    write_text(studied.folds("idc"), as_csv(fold_membership(shifted(studied), 0, 3)[["case_id", "fold"]]))
    with pytest.raises(EvaluationError, match=r"cancernet: fold 0: the split changed since"):
        summarise_study("folds", "idc", two, studied)


def shifted(workspace: Workspace) -> pd.Series:
    table = pd.read_csv(workspace.folds("idc"), dtype={"case_id": str}).set_index("case_id")["fold"]
    return (table + 1) % 3


def test_nothing_to_sum_up_is_said(workspace: Workspace, params: Params) -> None:
    with pytest.raises(ParamsError, match=r"studies.variants lists no folds: add some, such as fold-0"):
        summarise_study("folds", "idc", params, workspace)


# --- the flow


def test_the_flow_runs_what_is_summed_up(two: Params) -> None:
    from flows.studies import select_studies

    assert select_studies([], two) == list(KINDS)
    assert select_studies(["seeds"], two) == ["seeds"]
    none = two.model_copy(update={"studies": StudiesParams()})
    with pytest.raises(ParamsError, match=r"studies.summaries is empty"):
        select_studies([], none)
    with pytest.raises(ParamsError, match=r"studies.summaries lacks folds"):
        select_studies(["folds"], none)


# --- schemes and sizes


@pytest.mark.slow
def test_schemes_stand_side_by_side_and_the_leak_is_marked(studied: Workspace, two: Params) -> None:
    found = summarise_study("schemes", "idc", two, studied)
    assert all(list(row["variants"]) == ["grouped", "random"] for row in found["ranking"])
    assert found["differences"] == []
    table = (studied.study_summary("schemes", "idc") / "summary.md").read_text()
    assert "| random! |" in table and "| grouped |" in table and "these numbers measure memory" in table
    assert "memory of the cases" in table
    assert "## By" not in table, "a mean over schemes says nothing"


def test_a_scheme_divides_patches_or_cases(workspace: Workspace, two: Params) -> None:
    write_index(workspace, small_cases(24))
    leaky = variant_split("schemes", "idc", "random", two, workspace)
    assert (leaky.groupby("case_id")["split"].nunique() > 1).any()
    assert variant_params("schemes", "random", two).split.scheme == "random"
    grouped = variant_split("schemes", "idc", "grouped", two, workspace)
    assert (grouped.groupby("case_id")["split"].nunique() == 1).all()


@pytest.mark.slow
def test_a_learning_curve_is_drawn(studied: Workspace, two: Params) -> None:
    found = summarise_study("sizes", "idc", two, studied)
    assert all(list(row["variants"]) == ["4", "8"] for row in found["ranking"])
    with Image.open(studied.study_summary("sizes", "idc") / "summary.png") as picture:
        assert picture.width > 800


def test_smaller_training_sets_lie_within_larger_ones(workspace: Workspace, two: Params) -> None:
    write_index(workspace, small_cases(24))
    split("idc", two, workspace)
    whole = read_membership(workspace.split("idc"))
    few, more = (variant_split("sizes", "idc", count, two, workspace) for count in (4, 8))
    cases = [set(table.loc[table["split"] == "train", "case_id"]) for table in (few, more, whole)]
    assert [len(each) for each in cases[:2]] == [4, 8]
    assert cases[0] < cases[1] < cases[2]
    for name in ("validation", "test"):
        assert few[few["split"] == name]["case_id"].tolist() == whole[whole["split"] == name]["case_id"].tolist()


def test_more_training_cases_than_there_are_is_refused() -> None:
    membership = pd.DataFrame({"case_id": ["a", "b", "c"], "split": ["train", "validation", "test"]})
    with pytest.raises(SplitError, match="size-2 asks for 2 training cases, but the split has 1: lower it"):
        keep_training_cases(membership, 2, seed=1)
    with pytest.raises(SplitError, match="choose another scheme"):
        keep_training_cases(membership.assign(file="f"), 1, seed=1)


@pytest.mark.parametrize(("asked", "drawn"), [("all", LOGGED_SLIDES), (2, 2), (1000, LOGGED_SLIDES)])
def test_of_a_variant_only_what_is_kept_is_made(two: Params, asked: Literal["all"] | int, drawn: int) -> None:
    params = two.model_copy(update={"evaluate": two.evaluate.model_copy(update={"slides": asked, "symmetries": True})})
    found = with_limited_outputs(params).evaluate
    assert (found.slides, found.symmetries, found.resamples) == (drawn, False, 200)


# --- what a variant's training knows of the main run


def test_an_earlier_versions_lists_are_told_one_line_each(content: Content) -> None:
    content["studies"] = {"folds": [0, 2], "seeds": [], "schemes": ["random"], "sizes": [25], "summaries": []}
    with pytest.raises(ParamsError) as caught:
        parse_params(content)
    assert str(caught.value).splitlines() == [
        "params.yaml: studies.folds moved: write them as fold-0, fold-2 into the list studies.variants",
        "params.yaml: studies.seeds is gone: remove it; variants are listed in studies.variants",
        "params.yaml: studies.schemes moved: write them as scheme-random into the list studies.variants",
        "params.yaml: studies.sizes moved: write them as size-25 into the list studies.variants",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fold-0", "seed-7", "scheme-random", "size-4"])
def test_a_training_gets_what_its_split_was_made_with(workspace: Workspace, content: Content, name: str) -> None:
    params = changed(content, split={"folds": 3})
    write_index(workspace, small_cases(24))
    split("idc", params, workspace)
    divided = split_variant("idc", "cancernet", name, params, workspace)
    study, variant = parse_variant(name)
    own = VariantWorkspace(workspace.root, study, "cancernet", variant)
    assert own.split("idc").read_text() == as_csv(divided)
    assert own.folder("idc") == workspace.root / "studies/idc/cancernet" / name == own.settings("idc").parent
    other = params.model_copy(update={"seed": 99})  # of the main run, changed since
    found, wanted = apply_variant_settings("idc", other, own), variant_params(study, variant, params)
    assert settings_of(found) == settings_of(wanted)
    assert found.seed == (7 if name == "seed-7" else params.seed)


def test_names_of_variants_are_read_as_they_are_written() -> None:
    for study, value in (("folds", 0), ("seeds", 2**31 - 1), ("schemes", "random"), ("sizes", 1)):
        assert parse_variant(variant_name(study, value)) == (study, value)
