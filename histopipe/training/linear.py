"""Linear classifiers of scikit-learn on scaled features, and the same as the weights of one layer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

ITERATIONS = 5000
BALANCED_PRIORS = (0.5, 0.5)


class Unit(NamedTuple):
    """A linear unit: its output is `features @ kernel + bias`."""

    kernel: NDArray[np.float64]  # (channels,)
    bias: float

    @property
    def weights(self) -> list[NDArray[np.float64]]:
        """The weights of a dense layer: kernel (channels, 1) and bias (1,)."""
        return [self.kernel[:, None], np.array([self.bias])]


def fit(
    name: str, c: float, features: NDArray[np.float32], labels: NDArray[np.int64], balanced: bool, seed: int
) -> Pipeline:
    """Fit a scaler and a classifier.

    Args:
        name: `logistic_regression`, `linear_svm` or `lda`.
        c: inverse regularisation; `lda` estimates its own from the data (Ledoit & Wolf 2004).
        features: (patches, channels).
        labels: 0 or 1, (patches,).
        balanced: whether both classes have the same weight, whatever their numbers of patches.
        seed: seed of the solver.
    """
    pipeline: Pipeline = make_pipeline(StandardScaler(), _classifier(name, c, balanced, seed))
    return pipeline.fit(features, labels)


def _classifier(name: str, c: float, balanced: bool, seed: int) -> ClassifierMixin:
    weight = "balanced" if balanced else None
    if name == "lda":
        priors = BALANCED_PRIORS if balanced else None
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=priors)
    if name == "linear_svm":
        return LinearSVC(C=c, class_weight=weight, max_iter=ITERATIONS, random_state=seed)
    return LogisticRegression(C=c, class_weight=weight, max_iter=ITERATIONS)


def fold(pipeline: Pipeline) -> Unit:
    """Fold scaler and classifier into one unit: (x - mean) / scale @ w + b, multiplied out."""
    scaler, classifier = pipeline[0], pipeline[-1]
    kernel = classifier.coef_[0].astype(np.float64) / scaler.scale_
    return Unit(kernel, float(classifier.intercept_[0] - scaler.mean_ @ kernel))
