"""Every two models of a comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from benchmarks.families import rates
from histopipe.reporting.comparison.evaluations import EvaluatedModel
from histopipe.reporting.comparison.pairs import compare_pairs, with_rank_ranges


def evaluated(name: str, strength: float, seed: int = 0, tested: int = 20, **row: Any) -> EvaluatedModel:
    """A model of 20 validation cases and the tested ones, of 20 patches each; the seed decides its errors alone."""
    count = 20 * (20 + tested)
    cases = np.repeat([f"C{number:02}" for number in range(20 + tested)], 20)
    labels = np.tile([0, 1, 0, 0, 1], count // 5)
    probability = expit(strength * (2.0 * labels - 1) + np.random.default_rng(seed).normal(size=count))
    table = pd.DataFrame(
        {
            "file": [f"{number}.png" for number in range(count)],
            "case_id": cases,
            "split": np.where(np.arange(count) < 400, "validation", "test"),
            "label": labels,
            "probability": probability,
            "decision": (probability > 0.5).astype(int),
        }
    )
    return EvaluatedModel({"architecture": name, **row}, table)


def test_what_differs_is_separable_and_what_does_not_shares_its_ranks() -> None:
    models = [evaluated("best", 2.0, 1), evaluated("good", 1.0, 2), evaluated("as good", 1.0, 3)]
    pairs = compare_pairs(models, resamples=200, seed=1)
    verdicts = {(pair["first"], pair["second"]): pair["separable"] for pair in pairs}
    assert verdicts == {("best", "good"): True, ("best", "as good"): True, ("good", "as good"): False}
    ranked = with_rank_ranges([model.row for model in models], pairs)
    assert [(row["rank"], row["rank_range"]) for row in ranked] == [(1, [1, 1]), (2, [2, 3]), (3, [2, 3])]


def test_corrected_p_values_are_no_smaller_than_the_others() -> None:
    models = [evaluated(str(number), 1.0 + number / 10, number) for number in range(4)]
    pairs = compare_pairs(models, 200, 1)
    assert len(pairs) == 6
    assert all(pair["p_corrected"] >= pair["differences"]["roc_auc"]["p"] for pair in pairs)


def test_the_order_of_patches_does_not_matter() -> None:
    one, other = evaluated("one", 1.2, 1), evaluated("other", 1.0, 2)
    mixed = EvaluatedModel(other.row, other.predictions.sample(frac=1, random_state=0))
    assert compare_pairs([one, mixed], 100, 1) == compare_pairs([one, other], 100, 1)


def test_exchanging_answers_and_delong_tell_much_the_same_of_many_cases() -> None:
    (pair,) = compare_pairs([evaluated("one", 1.1, 1, tested=60), evaluated("other", 1.0, 2, tested=60)], 500, 1)
    assert abs(pair["p_delong"] - pair["differences"]["roc_auc"]["p"]) < 0.05


def test_delong_is_silent_where_it_finds_too_much() -> None:
    for tested in (8, 49):
        models = [evaluated("one", 1.3, 1, tested=tested), evaluated("other", 1.0, 2, tested=tested)]
        assert compare_pairs(models, 100, 1)[0]["p_delong"] is None


def test_what_follows_from_recipes_does_not_count_in_the_correction() -> None:
    recipes = [evaluated("best", 1.5, 1), evaluated("good", 1.25, 2), evaluated("as good", 1.2, 3)]
    derived = [evaluated(f"derived {number}", 1.3, 10 + number, descriptive=True) for number in range(4)]
    alone = {(pair["first"], pair["second"]): pair for pair in compare_pairs(recipes, 200, 1)}
    pairs = compare_pairs([*recipes, *derived], 200, 1)
    family = {(pair["first"], pair["second"]): pair for pair in pairs if not pair["descriptive"]}
    assert family == alone
    others = [pair for pair in pairs if pair["descriptive"]]
    assert len(others) == 21 - 3
    assert {pair["p_corrected"] for pair in others} == {pair["separable"] for pair in others} == {None}
    assert all(pair["differences"]["roc_auc"]["p"] is not None for pair in others)


def test_only_recipes_have_ranks() -> None:
    models = [evaluated("ensemble", 2.5, 4, descriptive=True), evaluated("best", 2.0, 1), evaluated("good", 1.0, 2)]
    rows = with_rank_ranges([model.row for model in models], compare_pairs(models, 200, 1))
    assert [(row["rank"], row["rank_range"]) for row in rows] == [(None, None), (1, [1, 1]), (2, [2, 2])]


def test_five_recipes_on_eight_cases_can_be_told_apart() -> None:
    """Ten pairs times the least p-value that eight cases allow, 1/128, would be above .05."""
    models = [evaluated("best", 4.0, 1, tested=8), *(evaluated(f"{n}", 0.3, 2 + n, tested=8) for n in range(4))]
    pairs = compare_pairs(models, 200, 1)
    assert [pair["separable"] for pair in pairs[:4]] == [True] * 4
    assert max(pair["p_corrected"] for pair in pairs[:4]) < 0.05


def test_one_model_alone_has_the_first_rank() -> None:
    only = evaluated("only", 1.0)
    assert compare_pairs([only], 50, 1) == []
    assert with_rank_ranges([only.row], [])[0]["rank_range"] == [1, 1]


@pytest.mark.long
def test_the_correction_for_five_recipes_is_worth_what_docs_say() -> None:
    """One family of ten pairs, on ten cases and on 25: it holds its level, and finds more than one of 21 pairs."""
    for cases in (10, 25):
        alike, better = (rates(cases, gain, 150, seed=6) for gain in (0.0, 0.4))
        assert alike["uncorrected"]["error"] > 0.15, "there is something to correct for"
        for found in (alike, better):
            assert found["ours"]["error"] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)
        assert better["ours"]["power"] > better["holm_of_all_rows"]["power"] + 0.02
        assert better["ours"]["power"] < better["uncorrected"]["power"]
