"""Averaging over the symmetries of the square is exact, survives saving, and can be taken off again."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.special import logit

from histopipe.networks.architectures import build
from histopipe.networks.prediction import logit_network
from histopipe.networks.symmetry import averaged_over_symmetries, is_averaged, one_view_network
from histopipe.networks.temperature import calibrated


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(3)
    return build("cancernet", image_size=16)


@pytest.mark.parametrize("shape", [(20, 20), (12, 20)])
def test_the_logit_is_the_mean_over_eight_views(network: keras.Model, shape: tuple[int, int]) -> None:
    patches = np.random.default_rng(0).integers(0, 256, (5, *shape, 3), np.uint8)
    views = [np.rot90(side, turns, axes=(1, 2)) for side in (patches, patches[:, :, ::-1]) for turns in range(4)]
    single = logit_network(network)
    expected = np.mean([single.predict(np.ascontiguousarray(view), verbose=0) for view in views], axis=0)
    found = logit_network(averaged_over_symmetries(network)).predict(patches, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_turning_a_patch_changes_nothing(network: keras.Model) -> None:
    patches = np.random.default_rng(1).integers(0, 256, (5, 20, 20, 3), np.uint8)
    averaged = averaged_over_symmetries(network)
    turned = np.ascontiguousarray(np.rot90(patches, 1, axes=(1, 2)))
    np.testing.assert_allclose(averaged.predict(turned, verbose=0), averaged.predict(patches, verbose=0), atol=1e-6)


def test_the_saved_file_averages_too_and_can_be_calibrated(network: keras.Model, tmp_path: Path) -> None:
    patches = np.random.default_rng(2).integers(0, 256, (5, 20, 20, 3), np.uint8)
    averaged = averaged_over_symmetries(network)
    averaged.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    expected = averaged.predict(patches, verbose=0)
    np.testing.assert_allclose(loaded.predict(patches, verbose=0), expected, atol=1e-6)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loaded(patches)), expected, atol=1e-6)
    with calibrated(loaded, temperature=2.0, offset=0.5):
        cooled = loaded.predict(patches, verbose=0)
    np.testing.assert_allclose(logit(cooled), logit(expected) / 2 + 0.5, atol=1e-4)


def test_one_view_is_the_network_as_trained(network: keras.Model) -> None:
    patches = np.random.default_rng(4).integers(0, 256, (5, 20, 20, 3), np.uint8)
    averaged = averaged_over_symmetries(network)
    assert is_averaged(averaged)
    assert not is_averaged(network)
    single = one_view_network(averaged).predict(patches, verbose=0)
    np.testing.assert_allclose(single, network.predict(patches, verbose=0), atol=1e-6)
