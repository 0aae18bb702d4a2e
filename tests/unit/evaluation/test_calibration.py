"""Temperature and offset fitted on validation."""

from __future__ import annotations

import numpy as np
import pytest

from histopipe.evaluation.calibration import TEMPERATURES, Calibration, fit_calibration, log_loss


def honest(patches: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose probabilities are true, and labels drawn from them."""
    random = np.random.default_rng(2)
    logits = random.normal(-0.5, 1.5, patches)
    return logits, (random.random(patches) < 1 / (1 + np.exp(-logits))).astype(int)


@pytest.mark.parametrize(("temperature", "offset"), [(1.0, 0.0), (3.0, 0.0), (0.5, -1.2), (2.0, 1.0)])
def test_a_distortion_is_found_and_undone(temperature: float, offset: float) -> None:
    logits, labels = honest()
    found = fit_calibration((logits - offset) * temperature, labels)
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.offset == pytest.approx(offset, abs=0.05)


def test_no_nearby_calibration_has_a_lower_loss() -> None:
    logits, labels = honest(2000)
    distorted = 2.5 * logits + 1
    found = fit_calibration(distorted, labels)

    def loss(temperature: float, offset: float) -> float:
        return log_loss(distorted / temperature + offset, labels)

    around = [(found.temperature * t, found.offset + o) for t in (0.9, 1, 1.1) for o in (-0.1, 0, 0.1)]
    assert loss(*found) <= min(loss(*candidate) for candidate in around)


def test_what_is_told_apart_without_error_is_not_sharpened_without_end() -> None:
    found = fit_calibration(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([0, 0, 1, 1]))
    assert found.temperature == pytest.approx(TEMPERATURES[0])


def test_sure_logits_neither_overflow_nor_lose_their_order() -> None:
    with np.errstate(all="raise", under="ignore"):
        calibrated = Calibration(50.0, 0.0).apply(np.array([-900.0, 0.0, 800.0, 900.0]))
    assert calibrated[1] == 0.5
    assert (np.diff(calibrated) > 0).all()
