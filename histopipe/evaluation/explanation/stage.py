"""The explanation that the evaluate stage adds: maps, checked on a sample of test patches, and a gallery."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histopipe.core.errors import EvaluationError
from histopipe.core.files import write_json
from histopipe.core.operating_point import OperatingPoint
from histopipe.core.params import Params
from histopipe.core.tables import write_csv
from histopipe.data.store import Patches, PatchStore
from histopipe.evaluation.calibration import Calibration
from histopipe.evaluation.cases import counted_cases
from histopipe.evaluation.explanation.gallery import COLUMNS, choose_gallery
from histopipe.evaluation.explanation.record import (
    EXPLANATION_FILE,
    Explanation,
    ExplanationRecord,
    MapsCheck,
    MissingExplanation,
)
from histopipe.evaluation.figures import save_figure
from histopipe.evaluation.metrics import Numbers
from histopipe.evaluation.predictions import calibration_of
from histopipe.networks.prediction import BATCH_SIZE, logit_network

if TYPE_CHECKING:
    import keras

    from histopipe.evaluation.explanation.maps import Explainer
    from histopipe.evaluation.explanation.removal import Predictor

CHECKED = 40  # test patches whose maps are checked; each is predicted 26 times
METHOD = "HiResCAM"
UNEXPLAINED = "not explained"

LOG = logging.getLogger(__name__)


def explain_evaluation(
    network: keras.Model,
    table: pd.DataFrame,
    store: PatchStore,
    point: OperatingPoint,
    architecture: str,
    params: Params,
    folder: Path,
) -> Explanation:
    """Write `explanation.json`, `gallery.csv`, `figures/gallery.png` and `figures/explanation.png` into `folder`.

    Args:
        network: the trained network.
        table: predictions; `row` is the position of each patch in the store.
        store: the store with the patches.
        point: the operating point.
        architecture: name of the recipe, for titles.
        params: number of resamples and seed.
        folder: folder of the evaluation.

    Returns:
        The content of `explanation.json`: the result of `check_maps` and how the maps were computed. For a network
        without a suitable layer it is only a verdict and the reason; then no figures are drawn, and no error is raised.
    """
    from histopipe.evaluation.explanation.figures import draw_curves
    from histopipe.evaluation.explanation.maps import Explainer

    test = table[table["split"] == "test"].reset_index(drop=True)
    chosen = choose_gallery(test, point["threshold"])
    write_csv(chosen[COLUMNS], folder / "gallery.csv")
    try:
        explainer = Explainer.for_network(network)
    except EvaluationError as problem:
        return _write_missing(f"{point['data_set']} {architecture}", problem, folder)
    check = _check(network, explainer, test, store, calibration_of(point), params)
    content: ExplanationRecord = {
        "method": METHOD,
        "layer": explainer.cut.layer,
        "places": list(explainer.cut.shape[:2]),
        **check,
    }
    write_json(folder / EXPLANATION_FILE, content)
    name = f"{architecture} on {point['data_set']}"
    title = f"Maps of {name}: {check['verdict']}\n{_sample(check)}; 95 % intervals by case"
    save_figure(draw_curves(check, title), folder / "figures" / "explanation.png")
    _show_gallery(explainer, chosen, store, point, f"{name}: test patches and the evidence for each class", folder)
    return content


def _write_missing(title: str, problem: EvaluationError, folder: Path) -> MissingExplanation:
    LOG.warning("%s: %s", title, problem)
    content: MissingExplanation = {"method": METHOD, "verdict": UNEXPLAINED, "reason": str(problem)}
    write_json(folder / EXPLANATION_FILE, content)
    return content


def _check(
    network: keras.Model,
    explainer: Explainer,
    test: pd.DataFrame,
    store: PatchStore,
    calibration: Calibration,
    params: Params,
) -> MapsCheck:
    from histopipe.evaluation.explanation.check import check_maps, sample_over_cases
    from histopipe.evaluation.explanation.references import reference_maps

    chosen = sample_over_cases(counted_cases(test), test["decision"].to_numpy(), CHECKED, params.seed)
    sample = test.iloc[chosen]
    patches = store.gather(sample["row"].to_numpy())
    predict = predictor(network, calibration)
    maps, called = explainer.maps(patches), sample["decision"].to_numpy()
    others = reference_maps(network, explainer, patches, called, params.seed)
    resamples, seed = params.evaluate.resamples, params.seed
    return check_maps(patches, maps, called, counted_cases(sample), predict, resamples, seed, others)


def predictor(network: keras.Model, calibration: Calibration) -> Predictor:
    """Return a function that predicts calibrated probabilities without compiling, which would take longer here."""
    from keras import ops

    from histopipe.evaluation.explanation.gradients import without_gradients

    logits = logit_network(network)

    def predict(patches: Patches) -> Numbers:
        parts = [patches[start : start + BATCH_SIZE] for start in range(0, len(patches), BATCH_SIZE)]
        with without_gradients():
            values = np.concatenate([ops.convert_to_numpy(logits(part)) for part in parts])
        return calibration.apply(values[:, 0].astype(np.float64))

    return predict


def _show_gallery(
    explainer: Explainer, chosen: pd.DataFrame, store: PatchStore, point: OperatingPoint, title: str, folder: Path
) -> None:
    from histopipe.evaluation.explanation.figures import draw_gallery

    coordinates = [name for name in ("x", "y") if name in store.index]
    patches = store.gather(chosen["row"].to_numpy())
    placed = chosen.join(store.index[coordinates], on="row")
    figure = draw_gallery(placed, patches, explainer.maps(patches), point, title)
    save_figure(figure, folder / "figures" / "gallery.png")


def _sample(check: MapsCheck) -> str:
    return f"{check['patches']:,} test patches of {check['cases']:,} cases"
