"""Logging of an evaluation into the MLflow run of its training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from histopipe.core.operating_point import OperatingPoint
from histopipe.core.training_record import DataRecord
from histopipe.evaluation.explanation.record import EXPLANATION_FILE
from histopipe.evaluation.record import SERVED_MODEL_TAG, MetricsRecord
from histopipe.evaluation.slide_figures import SLIDES, drawn_slides
from histopipe.networks.temperature import calibrated
from histopipe.tracking.logging import log_file, log_metrics, set_tags
from histopipe.tracking.served.packaging import log_served_model

if TYPE_CHECKING:
    import keras

    from histopipe.tracking.entities import ModelInfo

LOGGED_SLIDES = 6  # of the slides drawn: all slides of a real test split would add some hundred megabytes to every run


def log_evaluation(
    network: keras.Model,
    operating_point: OperatingPoint,
    results: MetricsRecord,
    example: NDArray[np.uint8],
    reference: Path | None = None,
    made_from: DataRecord | None = None,
) -> None:
    """Log the served model and the metrics into the active run.

    Threshold and calibration are tags, not params: MLflow refuses to change a param, and an evaluation may be
    repeated with another rule.

    Args:
        network: the trained network.
        operating_point: content of `operating_point.json`.
        results: content of `metrics.json`.
        example: a patch for the model's input example, uint8 (height, width, 3).
        reference: file with the reference profiles for drift (`histopipe.evaluation.drift.profiles`), to be logged
            with the model.
        made_from: the record of its data, to be logged with the model.
    """
    tags = {
        name: str(operating_point[name]) for name in ("threshold", "temperature", "offset", "rule", "positive_class")
    }
    model = log_calibrated_model(network, operating_point, example, tags, reference, made_from)
    log_metrics(run_metrics(results), model_id=model.model_id)
    set_tags({**tags, SERVED_MODEL_TAG: model.model_id, "cautions": "; ".join(results["cautions"])})


def log_calibrated_model(
    network: keras.Model,
    operating_point: OperatingPoint,
    example: NDArray[np.uint8],
    tags: dict[str, str],
    reference: Path | None = None,
    made_from: DataRecord | None = None,
) -> ModelInfo:
    """Fold the operating point's calibration into a copy of a trained network, and log that into the active run.

    Args:
        network: the trained network, which is left unchanged.
        operating_point: content of `operating_point.json`.
        example: a patch for the model's input example, uint8 (height, width, 3).
        tags: tags for the logged model.
        reference: file with the profiles of the model's cases.
        made_from: the record of its data.
    """
    with calibrated(network, operating_point["temperature"], operating_point["offset"]):
        return log_served_model(network, operating_point, example, tags, reference, made_from)


def log_files(folder: Path) -> None:
    """Log an evaluation's figures and tables from its folder into the active run."""
    pictures = sorted((folder / "figures").glob("*.png"))
    for picture in (*pictures, *sorted(folder.glob("*.csv"))):  # a curve and its points in one folder
        log_file(picture, "plots")
    for _, picture in drawn_slides(folder)[:LOGGED_SLIDES]:
        log_file(picture, f"plots/{SLIDES}")
    for name in ("classification_report.txt", "predictions.parquet", "operating_point.json", EXPLANATION_FILE):
        if (folder / name).exists():  # variants aren't explained
            log_file(folder / name)


def run_metrics(results: MetricsRecord) -> dict[str, float]:
    """Return the metrics of `metrics.json` by their names in MLflow, without undefined ones.

    Those of validation begin with `final_validation/`, since `validation/roc_auc` is the history that training logged.
    """
    flat: dict[str, float | None] = {
        "validation/threshold": results["threshold"],
        "validation/temperature": results["temperature"],
        "validation/offset": results["offset"],
        "test/cases": results["cases"],
        "test/patches": results["patches"],
    }
    for name, measured in results["test"].items():
        flat |= {f"test/{name}": measured["value"]}
        flat |= {f"test/{name}_{end}": measured[end] for end in ("low", "high")}
    flat |= {f"test/{name}_uncalibrated": measured["value"] for name, measured in results["uncalibrated"].items()}
    flat |= {f"final_validation/{name}": value for name, value in results["validation"].items()}
    return {name: float(value) for name, value in flat.items() if value is not None}
