"""Every two models of a comparison."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit

from histopipe.comparison.evaluations import Evaluated
from histopipe.comparison.pairs import compare_pairs, with_rank_ranges


def evaluated(name: str, strength: float, seed: int = 0) -> Evaluated:
    """A model of 40 cases with 20 patches each, half of the cases tested; the seed decides its errors alone."""
    cases = np.repeat([f"C{number:02}" for number in range(40)], 20)
    labels = np.tile([0, 1, 0, 0, 1], 160)
    probability = expit(strength * (2.0 * labels - 1) + np.random.default_rng(seed).normal(size=800))
    table = pd.DataFrame(
        {
            "file": [f"{number}.png" for number in range(800)],
            "case_id": cases,
            "split": np.where(cases < "C20", "validation", "test"),
            "label": labels,
            "probability": probability,
            "decision": (probability > 0.5).astype(int),
        }
    )
    return Evaluated({"architecture": name}, table)


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
    mixed = Evaluated(other.row, other.predictions.sample(frac=1, random_state=0))
    assert compare_pairs([one, mixed], 100, 1) == compare_pairs([one, other], 100, 1)


def test_resampling_and_delong_tell_much_the_same() -> None:
    (pair,) = compare_pairs([evaluated("one", 1.3, 1), evaluated("other", 1.0, 2)], 500, 1)
    assert abs(pair["p_delong"] - pair["differences"]["roc_auc"]["p"]) < 0.05


def test_one_model_alone_has_the_first_rank() -> None:
    only = evaluated("only", 1.0)
    assert compare_pairs([only], 50, 1) == []
    assert with_rank_ranges([only.row], [])[0]["rank_range"] == [1, 1]
