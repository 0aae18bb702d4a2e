"""Classifiers on frozen features: folded exactly, resumable, and served like any network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from histopipe.core.errors import TrainingError
from histopipe.core.files import read_json
from histopipe.core.params import Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.membership import split_of_patches
from histopipe.data.splitting.stage import split
from histopipe.data.store import PatchStore
from histopipe.evaluation.stage import evaluate
from histopipe.ingest.stage import ingest
from histopipe.networks.architectures.backbones import BACKBONE_LAYER, build_backbone
from histopipe.networks.architectures.features import build_classifier, build_pooling
from histopipe.networks.prediction import logit_network, predict_logits
from histopipe.training import features as training_features
from histopipe.training import pooled_features
from histopipe.training.linear import fit, fold
from histopipe.training.stage import train
from tests.builders.archives import idc_members, write_zip

CLASSIFIERS = ("logistic_regression", "linear_svm", "lda")


@pytest.fixture
def ready(workspace: Workspace, content: dict[str, Any]) -> Workspace:
    """A small data set, ingested and split."""
    write_zip(workspace.raw("idc") / "archive.zip", idc_members(cases=12, patches=10))
    ingest("idc", parse_params(content), workspace)
    split("idc", parse_params(content), workspace)
    return workspace


@pytest.fixture
def small(content: dict[str, Any]) -> dict[str, Any]:
    content["quick"] = {"weights": "random"}
    content["recipes"]["features"]["model"]["image_size"] = 32
    content["recipes"]["features"]["classifier"] = {
        "name": "logistic_regression",
        "layers": ["fire5_concat", "fire9_concat"],
        "c": [0.01, 1.0],
    }
    return content


def history(workspace: Workspace) -> pd.DataFrame:
    return pd.read_csv(workspace.model("idc", "features") / "history.csv").drop(columns="seconds")


def trained(workspace: Workspace) -> keras.Model:
    return keras.saving.load_model(workspace.model("idc", "features") / "model.keras", safe_mode=True)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("balanced", [False, True])
def test_the_folded_network_decides_as_scikit_learn_does(ready: Workspace, name: str, balanced: bool) -> None:
    store, rows = PatchStore.open(ready.store("idc")), np.arange(120)
    labels = store.index["label"].to_numpy()
    extractor = build_backbone("squeezenet", 48)
    pooled = build_pooling(extractor, "squeezenet", 48, ["fire7_concat"]).predict(store.gather(rows), verbose=0)
    pooled = np.asarray(pooled[0] if isinstance(pooled, list) else pooled)
    pipeline = fit(name, 0.1, pooled, labels, balanced, seed=1)
    network = build_classifier(extractor, "squeezenet", 48, "fire7_concat")
    unit = fold(pipeline)
    network.get_layer("logit").set_weights(unit.weights)
    logits = predict_logits(logit_network(network), store, rows)
    np.testing.assert_allclose(logits, pipeline.decision_function(pooled), atol=1e-4)
    assert np.ptp(logits) > 0.1


def test_balance_makes_the_rarer_class_count_as_much() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(300, 4)).astype(np.float32)
    labels = (np.arange(300) % 10 == 0).astype(np.int64)
    for name in CLASSIFIERS:
        plain, even = ((fold(fit(name, 1.0, features, labels, balanced, seed=1))) for balanced in (False, True))
        called = [int((features @ unit.kernel + unit.bias > 0).sum()) for unit in (plain, even)]
        assert called[0] < 10, name
        assert called[1] > 60, name


def test_a_fitted_network_is_trained_graded_and_served_like_the_rest(ready: Workspace, small: dict[str, Any]) -> None:
    params = parse_params(small)
    record = train("idc", "features", params, ready)
    rows = history(ready)
    assert len(rows) == 4
    assert list(rows["epoch"]) == [1, 2, 3, 4]
    assert list(zip(rows["layer"], rows["c"], strict=True)) == [(1, 0.01), (1, 1.0), (2, 0.01), (2, 1.0)]
    best = rows.loc[rows["validation/roc_auc"].idxmax()]
    assert record["best_epoch"] == best["epoch"]
    assert record["weights"] == {"asked": "random"}
    assert record["classifier"]["layer"] == ["fire5_concat", "fire9_concat"][int(best["layer"]) - 1]
    assert record["classifier"]["c"] == best["c"]
    assert record == read_json(ready.model("idc", "features") / "run.json")
    assert not (ready.checkpoint("idc", "features") / "features").exists() or not any(
        (ready.checkpoint("idc", "features") / "features").rglob("*.npz")
    )
    store = PatchStore.open(ready.store("idc"))
    splits = split_of_patches(ready.split("idc"), store.index)
    validation = np.flatnonzero((splits == "validation").to_numpy())
    from sklearn.metrics import roc_auc_score

    logits = predict_logits(logit_network(trained(ready)), store, validation)
    auc = roc_auc_score(store.index["label"].to_numpy()[validation], logits)
    assert auc == pytest.approx(best["validation/roc_auc"], abs=1e-9)
    assert evaluate("idc", "features", params, ready)["recipe_digest"] == record["recipe_digest"]


def test_a_killed_fitting_goes_on_where_it_was(
    ready: Workspace, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = parse_params(small)
    monkeypatch.setattr(pooled_features, "CHUNK", 30)
    train("idc", "features", params, ready)
    expected, weights = history(ready), trained(ready).get_weights()
    (ready.checkpoint("idc", "features") / "checkpoint.npz").unlink()

    predict, try_candidate, ran = pooled_features._predict, training_features.Fitting.try_candidate, []

    def counted(*arguments: Any) -> Any:
        ran.append("chunk")
        if ran.count("chunk") == 3:
            raise KeyboardInterrupt
        return predict(*arguments)

    def dies_in_the_third(fitting: Any, number: int) -> Any:
        ran.append(str(number))
        if number == 2 and ran.count("2") == 1:
            raise KeyboardInterrupt
        return try_candidate(fitting, number)

    monkeypatch.setattr(pooled_features, "_predict", counted)
    monkeypatch.setattr(training_features.Fitting, "try_candidate", dies_in_the_third)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train("idc", "features", params, ready)
    train("idc", "features", params, ready)
    chunks = ran.count("chunk")
    assert chunks == -(-len(ready_rows(ready)) // 30) + 1  # the one that was cut off was computed again, no other
    assert [step for step in ran if step != "chunk"] == ["0", "1", "2", "2", "3"]
    pd.testing.assert_frame_equal(history(ready), expected, check_exact=True)
    for before, after in zip(weights, trained(ready).get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def ready_rows(workspace: Workspace) -> np.ndarray:
    splits = split_of_patches(workspace.split("idc"), PatchStore.open(workspace.store("idc")).index)
    return np.flatnonzero(splits.isin(["train", "validation"]).to_numpy())


def test_a_few_patches_are_learnt_by_heart() -> None:
    """As the other architectures do by gradient descent: 32 patches of noise, labels that say nothing of them."""
    batch = np.random.default_rng(0).integers(0, 256, (32, 48, 48, 3), np.uint8)
    labels = np.arange(32) % 2
    pooled = build_pooling(build_backbone("squeezenet", 48), "squeezenet", 48, ["fire9_concat"]).predict(
        batch, verbose=0
    )
    pooled = np.asarray(pooled[0] if isinstance(pooled, list) else pooled)
    pipeline = fit("logistic_regression", 1e6, pooled, labels, balanced=False, seed=1)
    assert (pipeline.predict(pooled) == labels).all()


def test_random_features_are_the_seeds(ready: Workspace, small: dict[str, Any]) -> None:
    kernels = []
    for seed in (42, 42, 43):
        small["seed"] = seed
        params: Params = parse_params(small)
        split("idc", params, ready)
        train("idc", "features", params, ready)
        kernels.append(trained(ready).get_layer(BACKBONE_LAYER).get_weights()[0])
        (ready.checkpoint("idc", "features") / "checkpoint.npz").unlink()
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "transfer"}, "only the architecture 'features' is fitted, not 'transfer'"),
        ({"imbalance": "focal"}, r"recipes\.features\.imbalance: a classifier knows none and class_weight, not focal"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(
    ready: Workspace, small: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    small["recipes"]["features"] |= change
    with pytest.raises(TrainingError, match=said):
        train("idc", "features", parse_params(small), ready)


def test_published_features_tell_real_tissue_apart_better_than_random_ones(
    workspace: Workspace, content: dict[str, Any], real: Callable[[str], Path]
) -> None:
    """By case, on 1,000 of the real patches; both nets see the same."""
    (workspace.raw("idc")).mkdir(parents=True)
    (workspace.raw("idc") / "idc-sample.zip").symlink_to(real("idc-sample.zip"))
    from histopipe.networks.weights.stage import fetch_weights

    found = {}
    content["recipes"]["features"]["classifier"] |= {"c": [0.001, 0.1], "layers": ["fire7_concat", "fire9_concat"]}
    file = real("weights/squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5")
    for name, weights in (("published", str(file)), ("random", "random")):
        content["quick"] = {"max_patches": 1000}
        content["recipes"]["features"]["weights"] = weights
        params = parse_params(content)
        if not workspace.split("idc").exists():
            ingest("idc", params, workspace)
            split("idc", params, workspace)
        fetch_weights("features", params, workspace)
        train("idc", "features", params, workspace)
        found[name] = history(workspace)["validation/roc_auc"].max()
    assert found["published"] > found["random"] + 0.02
    assert found["published"] > 0.85
