"""The gates before the champion, each refusal by itself; and what a card says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from histopipe.core.errors import TrackingUnreachableError
from histopipe.core.params import Params, parse_params
from histopipe.core.stages.running import failure_kind
from histopipe.evaluation.metrics import Numbers
from histopipe.promotion.candidate import best_by_validation
from histopipe.promotion.card import DESCRIPTION_LENGTH, shorten_card
from histopipe.promotion.gates import (
    Gate,
    Reference,
    evaluate_gates,
    leak_gate,
    reasons,
    rolled_back_gate,
    select_unseen,
)
from histopipe.promotion.spending import risk_of_look
from histopipe.promotion.summary import gates_table
from histopipe.reporting.comparison.evaluations import EvaluatedModel

CASES, PATCHES = 20, 30
FLOORS = ("roc_auc", "balanced_accuracy", "specificity", "sensitivity")


def params(**limits: float) -> Params:
    recipe = {"optimizer": {"name": "adam", "learning_rate": 0.001}}
    content: dict[str, Any] = {"datasets": ["idc"], "architectures": ["cancernet"], "idc": {}}
    return parse_params(
        content | {"recipes": {"cancernet": recipe}, "evaluate": {"resamples": 300}, "promotion": limits}
    )


def predictions(strength: float, seed: int, threshold: float = 0.5) -> pd.DataFrame:
    """Test patches of 20 cases; calibrated, since log odds of these are what `strength` makes them."""
    labels = np.tile([0, 1, 0, 0, 1], CASES * PATCHES // 5)
    values = strength * (2 * labels - 1) + np.random.default_rng(seed).normal(size=len(labels))
    probability = expit(2 * strength * values - 0.4)
    table = pd.DataFrame({"case_id": np.repeat([f"C{number:02}" for number in range(CASES)], PATCHES)})
    table["label"], table["probability"] = labels, probability
    return table.assign(decision=(probability >= threshold).astype(int))


def probabilities(strength: float, seed: int) -> Numbers:
    found: Numbers = predictions(strength, seed)["probability"].to_numpy()
    return found


def verdicts(gates: list[Gate]) -> dict[str, bool]:
    return {gate.name: gate.passed for gate in gates}


def test_without_a_champion_only_the_absolute_limits_count() -> None:
    gates = evaluate_gates(predictions(1.0, 1), None, params())
    assert verdicts(gates) == dict.fromkeys(("cases", *FLOORS, "calibration_error"), True)
    assert reasons(gates) == []


@pytest.mark.parametrize(
    ("limits", "gate", "said"),
    [
        ({"min_cases": 21}, "cases", "test cases that neither model has seen: 20, wanted at least 21"),
        ({"min_roc_auc": 0.99}, "roc_auc", "wanted above 0.99"),
        ({"min_balanced_accuracy": 0.99}, "balanced_accuracy", "wanted above 0.99"),
        ({"min_specificity": 0.99}, "specificity", "wanted at least 0.99"),
        ({"min_sensitivity": 0.99}, "sensitivity", "wanted at least 0.99"),
        ({"max_calibration_error": 0.001}, "calibration_error", "wanted at most 0.001"),
    ],
)
def test_each_limit_refuses_by_itself(limits: dict[str, float], gate: str, said: str) -> None:
    gates = evaluate_gates(predictions(1.0, 1), None, params(**limits))
    assert [name for name, passed in verdicts(gates).items() if not passed] == [gate]
    assert said in reasons(gates)[0]


def test_what_is_measured_is_what_the_predictions_give() -> None:
    table = predictions(1.0, 1)
    (found,) = [gate for gate in evaluate_gates(table, None, params()) if gate.name == "sensitivity"]
    assert found.measured == pytest.approx(table["decision"][table["label"] == 1].mean())


def test_sensitivity_is_that_of_the_locked_threshold() -> None:
    """The same probabilities, called at a threshold that misses most positives."""
    assert not verdicts(evaluate_gates(predictions(1.0, 1, threshold=0.97), None, params()))["sensitivity"]


def test_an_overconfident_model_is_refused() -> None:
    table = predictions(1.0, 1)
    sharper = table.assign(probability=(table["decision"]).astype(float))
    assert not verdicts(evaluate_gates(sharper, None, params(max_calibration_error=0.1)))["calibration_error"]


@pytest.mark.parametrize(("challenger", "champion", "passes"), [(0.4, 1.2, False), (1.2, 0.4, True)])
def test_a_worse_model_is_refused_and_a_better_one_is_not(challenger: float, champion: float, passes: bool) -> None:
    gates = evaluate_gates(
        predictions(challenger, 1), probabilities(champion, 2), params(min_sensitivity=0, min_cases=1)
    )
    assert verdicts(gates)["difference"] is passes


def test_the_margin_decides_between_models_that_are_alike() -> None:
    """As good on the whole, but 20 cases can't show it to within .001."""
    wide = evaluate_gates(predictions(1.0, 1), probabilities(1.0, 2), params(margin=0.1))
    narrow = evaluate_gates(predictions(1.0, 1), probabilities(1.0, 2), params(margin=0.001))
    assert (verdicts(wide)["difference"], verdicts(narrow)["difference"]) == (True, False)
    assert "wanted at least -0.001" in reasons(narrow)[0]


def test_a_network_under_another_threshold_is_no_worse_than_itself() -> None:
    table = predictions(1.0, 1)
    (found,) = [
        gate for gate in evaluate_gates(table, table["probability"].to_numpy() ** 2, params()) if gate.limit == -0.02
    ]
    assert (found.passed, found.measured) == (True, 0.0)


def test_what_cannot_be_measured_is_refused() -> None:
    nothing = evaluate_gates(predictions(1.0, 1).iloc[:0], np.empty(0), params())
    assert verdicts(nothing) == dict.fromkeys(("cases", *FLOORS, "calibration_error", "difference"), False)
    assert "undefined (there is no test case that neither model has seen)" in reasons(nothing)[1]
    negatives = predictions(1.0, 1).query("label == 0").reset_index(drop=True)
    found = verdicts(evaluate_gates(negatives, np.linspace(0, 1, len(negatives)), params()))
    assert (found["roc_auc"], found["sensitivity"], found["difference"]) == (False, False, False)
    assert "undefined (all 360 test patches are of one class)" in reasons(evaluate_gates(negatives, None, params()))[0]


def test_a_floor_is_held_against_the_end_of_the_interval_on_its_side() -> None:
    """What lies above a floor by the estimate alone may have been lifted there by chance."""
    table = predictions(1.0, 1)
    found = by_name(evaluate_gates(table, None, params()))
    for name in FLOORS:
        gate = found[name]
        assert isinstance(gate.measured, float)
        assert gate.bound is not None
        between = (gate.measured + gate.bound) / 2
        assert gate.bound < between < gate.measured
        refused = [
            each.name for each in evaluate_gates(table, None, params(**{f"min_{name}": between})) if not each.passed
        ]
        assert refused == [name]
    error = found["calibration_error"]
    assert isinstance(error.measured, float)
    assert error.bound is not None
    between = (error.measured + error.bound) / 2
    assert error.measured < between < error.bound
    assert not verdicts(evaluate_gates(table, None, params(max_calibration_error=between)))["calibration_error"]


def by_name(gates: list[Gate]) -> dict[str, Gate]:
    return {gate.name: gate for gate in gates}


def called(probability: Numbers, threshold: float = 0.5) -> pd.DataFrame:
    """The test patches under other probabilities."""
    return predictions(1.0, 1).assign(probability=probability, decision=(probability >= threshold).astype(int))


@pytest.mark.parametrize("champion", [False, True], ids=["first", "beside a champion"])
def test_junk_is_refused_whatever_its_calibration_says(champion: bool) -> None:
    good = predictions(1.0, 1)["probability"].to_numpy()
    junk = {
        "inverted": called(1 - good),
        "constant": called(np.full(len(good), 0.4), 0.4),
        "everything positive": called(good, 0.0),
        "nothing positive": called(good, 2.0),
        "noise": called(np.random.default_rng(0).uniform(0.38, 0.42, len(good)), 0.4),
    }
    passed = [
        name for name, table in junk.items() if not reasons(evaluate_gates(table, good if champion else None, params()))
    ]
    assert passed == []


def test_a_later_look_at_the_same_cases_asks_for_more() -> None:
    table, champion = predictions(1.0, 1), probabilities(1.0, 2)
    gates = [by_name(evaluate_gates(table, champion, params(), look))["difference"] for look in (1, 2, 100, 365, 366)]
    bounds = [float(gate.measured or 0) for gate in gates]
    assert bounds == sorted(set(bounds), reverse=True)
    assert bounds[-1] == -1.0
    assert "have had all the looks that `promotion.looks` plans: bring fresh ones" in gates[-1].reason


@pytest.mark.parametrize("champion", [True, False], ids=["beside a champion", "first"])
def test_where_looks_of_unknown_cases_are_too_many_the_key_to_raise_is_named(champion: bool) -> None:
    """Fresh cases don't help a registry that was used for years before looks were written down."""
    table, theirs = predictions(1.0, 1), probabilities(1.0, 2)
    said = []
    for unrecorded_looks in (399, 3):
        gates = evaluate_gates(table, theirs if champion else None, params(), 400, unrecorded_looks=unrecorded_looks)
        (refused,) = reasons(gates)
        said.append(refused)
    assert "399 earlier looks whose cases aren't recorded" in said[0]
    assert "`promotion.looks: 365` in params.yaml plans no more: raise it to 400 or above" in said[0]
    assert "also at fresh ones" in said[0] and "bring fresh ones" in said[1]
    raised = by_name(evaluate_gates(table, theirs, params(looks=400), 400, unrecorded_looks=399))["difference"]
    assert raised.measured is not None and float(raised.measured) > -1


def test_two_perfect_models_are_told_how_many_cases_would_do() -> None:
    """Nothing tells them apart, but of 20 cases that agree one in six may still differ."""

    def perfect(cases: int, seed: int) -> pd.DataFrame:
        labels = np.tile([0, 1], cases * 5)
        probability = np.clip(labels * 0.8 + np.random.default_rng(seed).uniform(0.02, 0.18, len(labels)), 0, 1)
        table = pd.DataFrame({"case_id": np.repeat(np.arange(cases), 10), "label": labels, "probability": probability})
        return table.assign(decision=labels)

    def beside(cases: int, look: int = 1) -> Gate:
        champion = perfect(cases, 2)["probability"].to_numpy()
        return by_name(evaluate_gates(perfect(cases, 1), champion, params(), look))["difference"]

    few = beside(20)
    assert not few.passed
    assert (
        "no case tells the two apart" in few.reason and "about 183 cases that agree like these would do" in few.reason
    )
    assert not beside(182).passed and beside(183).passed
    assert float(few.measured or 0) == pytest.approx(-(1 - 0.025 ** (1 / 20)))
    needed = int(beside(20, look=2).reason.split("about ")[1].split(" cases")[0])
    assert needed > 183 and beside(needed, look=2).passed and not beside(needed - 1, look=2).passed


def test_shares_of_the_risk_sum_to_it() -> None:
    shares = [risk_of_look(number, 0.05, 365) for number in range(1, 400)]
    assert shares[0] == 0.025
    assert sum(shares) == pytest.approx(0.05)
    assert shares[365:] == [0.0] * 34
    assert risk_of_look(1, 0.05, 1) == 0.025


def test_a_gate_that_can_only_refuse_says_so() -> None:
    table, champion = predictions(1.0, 1), probabilities(1.0, 2)
    few = (table["case_id"] < "C10").to_numpy()
    found = by_name(evaluate_gates(table[few].reset_index(drop=True), champion[few], params(margin=0.005)))[
        "difference"
    ]
    assert "with 10 test cases this gate can only refuse: an equally good model passes in " in found.reason
    assert " cases give it even odds" in found.reason
    better = by_name(evaluate_gates(predictions(1.6, 1).iloc[:240], probabilities(0.3, 2)[:240], params()))[
        "difference"
    ]
    assert better.passed
    assert "can only refuse" not in better.reason, "a gate that was passed isn't said to refuse"
    wide = by_name(evaluate_gates(table, champion, params(margin=0.2)))["difference"]
    assert wide.passed
    assert "an equally good model passes in 100% of draws" in wide.reason


@pytest.mark.slow
def test_the_stated_power_is_how_often_an_equally_good_model_passes() -> None:
    """Over 60 draws of both models; what each gate states beforehand, on average."""
    limits = params(margin=0.05)
    found = [
        by_name(evaluate_gates(predictions(1.0, seed), probabilities(1.0, 1000 + seed), limits))["difference"]
        for seed in range(60)
    ]
    stated = [int(gate.reason.split("passes in ")[1].split("%")[0]) / 100 for gate in found]
    assert 0.2 < np.mean(stated) < 0.98
    assert np.mean([gate.passed for gate in found]) == pytest.approx(np.mean(stated), abs=0.17)


@pytest.mark.parametrize(("loss", "passes"), [(0.4, False), (0.0, True)])
def test_a_chain_of_champions_does_not_sink_below_the_anchor(loss: float, passes: bool) -> None:
    """The champion itself is as weak as the candidate, and finds no fault."""
    table = predictions(1.0 - loss, 1)
    anchor = Reference("version 1", table, probabilities(1.0, 1))
    found = by_name(evaluate_gates(table, table["probability"].to_numpy(), params(total_margin=0.05), 1, anchor))
    assert found["difference"].passed
    assert found["anchor"].passed is passes
    assert "ROC AUC less the anchor's, lower end of its interval: " in found["anchor"].reason
    assert "wanted at least -0.05" in found["anchor"].reason


def test_cases_that_either_model_saw_do_not_count() -> None:
    left = select_unseen(predictions(1.0, 1), ["C00", "C01"], ["C01", "C02"])
    assert sorted(set(left["case_id"])) == [f"C{number:02}" for number in range(3, CASES)]


def test_a_leak_is_never_passed_and_what_was_rolled_back_only_on_request() -> None:
    assert not leak_gate(True).passed
    assert leak_gate(False).passed
    unknown = leak_gate("unknown")
    assert not unknown.passed
    assert leak_gate("unknown", allow_unknown=True).passed
    assert "unknown (it is unknown which cases the weights it started from were trained on)" in unknown.reason
    assert "`promotion.unknown_weights: allow`" in unknown.reason
    assert rolled_back_gate(None, allow=False).passed
    assert not rolled_back_gate("2026-01-01", allow=False).passed
    assert rolled_back_gate("2026-01-01", allow=True).passed
    assert "rolled back: 2026-01-01, wanted no, or to be asked for" in rolled_back_gate("2026-01-01", False).reason


def test_the_candidate_is_the_best_by_validation_whatever_test_says() -> None:
    def evaluated(name: str, validation: float | None, test: float) -> EvaluatedModel:
        row = {"architecture": name, "validation": {"roc_auc": validation}, "test": {"roc_auc": {"value": test}}}
        return EvaluatedModel(row, pd.DataFrame())

    models = [evaluated("undefined", None, 0.99), evaluated("best", 0.9, 0.6), evaluated("other", 0.8, 0.95)]
    assert best_by_validation(models).row["architecture"] == "best"


def test_a_long_card_is_cut_at_a_line_and_says_where_the_rest_is() -> None:
    assert shorten_card("short\n", "promotion/x") == "short\n"
    cut = shorten_card("a line of the card\n" * 400, "promotion/x")
    assert len(cut) <= DESCRIPTION_LENGTH
    assert "`promotion/x/model_card.md`" in cut.splitlines()[-1]
    assert set(cut.splitlines()[:-2]) == {"a line of the card"}


def test_gates_are_shown_as_tags_hold_them() -> None:
    tags = {"gate.cases": "failed", "gate.cases.measured": "3", "gate.cases.limit": "8", "verdict": "refused"}
    assert gates_table(tags).splitlines()[2:] == [
        "| test cases that neither model has seen | 3 | at least 8 | failed |"
    ]
    words = {"gate.leak": "passed", "gate.leak.measured": "no", "gate.leak.limit": "no"}
    assert "| cases shared between splits | no | no | passed |" in gates_table(words)


def test_a_registry_that_is_away_is_worth_another_try() -> None:
    assert failure_kind(TrackingUnreachableError("away")) == "unreachable"
