"""Train by fitting a classifier to a frozen backbone's features (Rajaraman et al. 2018, PeerJ 6:e4568).

One pass over the patches pools the features of all candidate layers; then each layer and each regularisation gets its
classifier, and the best by validation AUC becomes the network's last layer. Patches are taken as they are, not
augmented. The history has one row per candidate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import log_loss

from histopipe.core.errors import TrainingError
from histopipe.data.sampling import balanced_weights
from histopipe.networks.architectures import build
from histopipe.networks.architectures.backbones import build_backbone, candidate_layers
from histopipe.networks.architectures.blocks import OUTPUT_LAYER
from histopipe.networks.architectures.features import build_classifier, build_pooling
from histopipe.training.checkpoint import Progress, save_checkpoint
from histopipe.training.linear import Unit, fit, fold
from histopipe.training.optimization import best_epoch
from histopipe.training.plan import Training
from histopipe.training.pooled_features import FOLDER, PooledFeatures
from histopipe.training.start import load_start
from histopipe.training.validation_metrics import validation_metrics

if TYPE_CHECKING:
    import keras

ARCHITECTURE = "features"
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Candidate:
    """A classifier to try: the layer of its features, and its inverse regularisation."""

    layer: str
    c: float


def fit_classifier(training: Training, progress: Progress, after_epoch: Callable[[Progress], None]) -> keras.Model:
    """Fit the remaining candidates, and make the best one the network's last layer.

    Args:
        training: training whose recipe has a classifier.
        progress: progress so far; updated and saved after each candidate.
        after_epoch: called after a candidate has been saved.

    Returns:
        The network.

    Raises:
        TrainingError: the recipe can't be trained this way, or features aren't finite numbers.
    """
    _require_fitting(training)
    extractor = _random_backbone(training)
    progress.notes["weights"] = load_start(training, extractor)
    fitting = Fitting(training, extractor, f"{progress.key[:16]}")
    began = time.perf_counter()
    fitting.compute()
    for number in range(len(progress.history), len(fitting.candidates)):
        row = fitting.try_candidate(number)
        row["seconds"] = round(
            time.perf_counter() - began, 3
        )  # the first candidate's includes the pass over the patches
        progress.history.append(row)
        save_checkpoint(training.checkpoints, progress, [])
        after_epoch(progress)
        began = time.perf_counter()
    chosen = fitting.candidates[best_epoch(progress.history) - 1]
    progress.notes["classifier"] = {**asdict(chosen), "name": fitting.classifier.name, "layers": list(fitting.layers)}
    return fitting.network(chosen)


class Fitting:
    """The candidates of one training and the features they are fitted to."""

    def __init__(self, training: Training, extractor: keras.Model, key: str) -> None:
        assert training.recipe.classifier is not None
        self.training = training
        self.extractor = extractor
        self.classifier = training.recipe.classifier
        self.layers = _layers(training, extractor)
        self.features = PooledFeatures(training.checkpoints / FOLDER / key, self.layers)
        regularisations = self.classifier.c if self.classifier.name != "lda" else self.classifier.c[:1]
        self.candidates = [Candidate(layer, c) for layer in self.layers for c in regularisations]

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The rows of the training patches, then of the validation patches."""
        return np.concatenate([self.training.train_rows, self.training.validation_rows])

    def compute(self) -> None:
        """Compute the missing features; delete those of other trainings."""
        for folder in self.features.folder.parent.glob("*"):
            if folder != self.features.folder:
                PooledFeatures(folder, ()).discard()
        network = build_pooling(self.extractor, _backbone(self.training), self.training.image_size, self.layers)
        self.features.compute(network, self.training.store, self.rows, f"{self.training.title} features")

    def try_candidate(self, number: int) -> dict[str, float]:
        """Fit and validate one candidate; return its row of the history, candidates counted from 1."""
        candidate, (features, labels) = self.candidates[number], self._data(self.candidates[number].layer)
        count = len(self.training.train_rows)
        unit = self._fit(candidate, features[:count], labels[:count])
        logits = features @ unit.kernel + unit.bias
        if not np.isfinite(logits).all():
            raise TrainingError(
                f"{self.training.title}: features of {candidate.layer} are no numbers: change `weights`"
            )
        row = {
            "epoch": number + 1,
            "train/loss": self._weighted_loss(labels[:count], logits[:count]),
            **validation_metrics(labels[count:], logits[count:]),
            "layer": self.layers.index(candidate.layer) + 1,
            "c": candidate.c,
        }
        title = f"{self.training.title} candidate {number + 1}/{len(self.candidates)}"
        metrics = ", ".join(f"{key} {value:.4f}" for key, value in row.items() if "/" in key)
        print(f"{title}: {candidate.layer}, c {candidate.c:g}: {metrics}", flush=True)
        return row

    def network(self, candidate: Candidate) -> keras.Model:
        """Build the network that ends in the candidate's classifier, fitted once more."""
        features, labels = self._data(candidate.layer)
        count = len(self.training.train_rows)
        unit = self._fit(candidate, features[:count], labels[:count])
        network = build_classifier(self.extractor, _backbone(self.training), self.training.image_size, candidate.layer)
        network.get_layer(OUTPUT_LAYER).set_weights(unit.weights)
        return network

    def _data(self, layer: str) -> tuple[NDArray[np.float32], Labels]:
        labels = self.training.store.index["label"].to_numpy()[self.rows]
        return self.features.read(layer, len(self.rows)), labels

    def _fit(self, candidate: Candidate, features: NDArray[np.float32], labels: Labels) -> Unit:
        balanced = self.training.recipe.imbalance == "class_weight"
        pipeline = fit(self.classifier.name, candidate.c, features, labels, balanced, self.training.seed)
        return fold(pipeline)

    def _weighted_loss(self, labels: Labels, logits: NDArray[np.float64]) -> float:
        balanced = self.training.recipe.imbalance == "class_weight"
        negative, positive = balanced_weights(labels) if balanced else (1.0, 1.0)
        weights = np.where(labels > 0, positive, negative)
        # summed over patches and divided by their number, as in Keras
        return float(log_loss(labels, expit(logits), sample_weight=weights) * weights.mean())


def _require_fitting(training: Training) -> None:
    key = f"recipes.{training.name}"
    if training.architecture != ARCHITECTURE:
        raise TrainingError(
            f"{key}.classifier: only the architecture {ARCHITECTURE!r} is fitted, not {training.architecture!r}: "
            "give an optimizer instead"
        )
    if training.recipe.imbalance not in ("none", "class_weight"):
        raise TrainingError(
            f"{key}.imbalance: a classifier knows none and class_weight, not {training.recipe.imbalance}"
        )


def _random_backbone(training: Training) -> keras.Model:
    """Build the whole backbone; its random weights are the seed's, also after a kill."""
    import keras

    build(training.architecture, **training.recipe.model)  # checks the recipe's values
    keras.utils.set_random_seed(training.seed)
    return build_backbone(_backbone(training), training.image_size)


def _layers(training: Training, extractor: keras.Model) -> tuple[str, ...]:
    assert training.recipe.classifier is not None
    only = str(training.recipe.model.get("layer", ""))
    named = (only,) if only else training.recipe.classifier.layers
    return named or candidate_layers(_backbone(training), extractor)


def _backbone(training: Training) -> str:
    return str(training.recipe.model.get("backbone", "squeezenet"))
