"""Predictions of models for patches of cases that differ."""

from __future__ import annotations

import numpy as np

from histopipe.evaluation.metrics import Predictions


def slides(cases: int, seed: int, patches: int = 30) -> Predictions:
    """Draw predictions for cases that differ: in their share of positives, and in how dark a scanner made them."""
    random = np.random.default_rng(seed)
    case = np.repeat(np.arange(cases), patches)
    labels = random.random(cases * patches) < random.beta(0.8, 2, cases)[case]
    logits = 0.9 * (2 * labels - 1) + random.normal(size=cases * patches) + 0.6 * random.normal(size=cases)[case]
    probabilities = 1 / (1 + np.exp(-logits))
    return Predictions(labels.astype(int), probabilities, (probabilities > 0.5).astype(int), case, cases)
