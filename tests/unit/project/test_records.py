"""What stages tell each other: each file has one definition of its keys and one reader, and what is written fits it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired, get_origin, get_type_hints

import numpy as np
import pandas as pd
import pytest

from histopipe.core.errors import HistopipeError
from histopipe.core.params import Params
from histopipe.core.training_record import TrainingRecord, read_training_record
from histopipe.data.splitting.record import read_split_record
from histopipe.evaluation.explanation.record import read_explanation
from histopipe.evaluation.predictions import choose_operating_point, evaluate_predictions, predictions_table
from histopipe.evaluation.record import MetricsRecord, read_metrics
from histopipe.experiments.studies.record import StudyRow
from histopipe.inference.record import read_summary
from histopipe.monitoring.record import read_drift
from histopipe.reporting.comparison.record import ModelRow, NamedRow, RankedRow, read_comparison


def in_folder(read: Callable[[Path], Any], name: str) -> Callable[[Path], Any]:
    return lambda path: read(path.parent) if path.name == name else read(path)


READERS = {
    "run.json": read_training_record,
    "idc.json": read_split_record,
    "metrics.json": in_folder(read_metrics, "metrics.json"),
    "explanation.json": in_folder(read_explanation, "explanation.json"),
    "comparison.json": in_folder(read_comparison, "comparison.json"),
    "summary.json": in_folder(read_summary, "summary.json"),
    "drift.json": in_folder(read_drift, "drift.json"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("text", ["[1, 2]", "{", '"text"'])
def test_a_file_that_holds_no_record_is_named_in_one_line(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(HistopipeError, match=name) as refusal:
        READERS[name](tmp_path / name)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(HistopipeError, match=name):
        READERS[name](tmp_path / name)


def test_a_training_of_an_earlier_version_can_be_read(tmp_path: Path) -> None:
    earlier = {"run_id": "1", "dataset": "idc", "train_cases": ["a"], "validation_cases": ["b"], "epochs": 1}
    (tmp_path / "run.json").write_text(json.dumps(earlier))
    assert read_training_record(tmp_path / "run.json") == earlier
    later = {"unknown_before", "seen_before", "samples_before", "data", "effort", "case_reading", "quick", "leaky"}
    assert not later & required(TrainingRecord)


def test_an_evaluation_writes_the_keys_that_are_defined(params: Params) -> None:
    results = evaluate_predictions(*graded(params), {"split_digest": "s", "recipe_digest": "r"}, params)
    assert required(MetricsRecord) <= set(results)
    assert set(results) <= set(get_type_hints(MetricsRecord))


def test_rows_of_comparisons_and_studies_go_where_any_named_row_goes() -> None:
    shared = set(NamedRow.__annotations__)
    for row in (ModelRow, RankedRow, StudyRow):
        assert shared <= set(get_type_hints(row))


def required(record: Any) -> set[str]:
    """The keys that a definition requires; Python itself counts those whose types it hasn't looked up yet."""
    hints = get_type_hints(record, include_extras=True)
    return {name for name in record.__required_keys__ if get_origin(hints[name]) is not NotRequired}


def graded(params: Params) -> tuple[pd.DataFrame, Any]:
    random = np.random.default_rng(3)
    labels = np.tile([0, 1], 60)
    logits = pd.DataFrame(
        {
            "file": [f"{number}.png" for number in range(120)],
            "case_id": np.repeat([f"c{number}" for number in range(12)], 10),
            "split": np.repeat(["validation", "test"], 60),
            "label": labels,
            "logit": labels + random.normal(size=120),
        }
    )
    point = {**choose_operating_point(logits, params.evaluate.threshold), "positive_class": "IDC"}
    return predictions_table(logits, point), point
