"""What every registered architecture must do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histopipe.architectures import build, list_architectures
from histopipe.errors import ArchitectureError


def patches(count: int, size: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.mark.parametrize("name", list_architectures())
@pytest.mark.parametrize("size", [48, 50, 64])
def test_any_patch_size_gives_one_probability_each(name: str, size: int) -> None:
    probabilities = build(name).predict(patches(3, size), verbose=0)
    assert probabilities.shape == (3, 1)
    assert probabilities.dtype == np.float32
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


@pytest.mark.parametrize("name", list_architectures())
def test_predict_call_and_saved_file_agree(name: str, tmp_path: Path) -> None:
    import keras

    network = build(name)
    # statistics that a network in training mode would not use, so that a mix-up shows
    network.set_weights([weight + 0.01 * number % 0.1 for number, weight in enumerate(network.get_weights())])
    batch = patches(16)
    expected = network.predict(batch, verbose=0)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(network(batch)), expected, atol=1e-6)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.predict(batch, verbose=0), expected)


@pytest.mark.parametrize("name", list_architectures())
def test_a_few_patches_can_be_learned_by_heart(name: str) -> None:
    import keras

    keras.utils.set_random_seed(1)
    network = build(name)
    batch, labels = patches(32), (np.arange(32) % 2).astype("float32")[:, None]
    network.compile("adam", "binary_crossentropy")
    losses = network.fit(batch, labels, batch_size=32, epochs=40, verbose=0).history["loss"]
    assert losses[-1] < 0.35 * losses[0]


def test_cancernet_has_the_weights_of_the_paper_count() -> None:
    """Counted on paper for 48 px: a separable 3x3 convolution from a to b channels has 9a + ab + b weights."""

    def separable(a: int, b: int) -> int:
        return 9 * a + a * b + b

    channels = [(3, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 128)]
    convolutions = sum(separable(a, b) + 4 * b for a, b in channels)  # each with a batch norm of 4 per channel
    head = 6 * 6 * 128 * 256 + 256 + 4 * 256 + 256 + 1
    assert build("cancernet").count_params() == convolutions + head == 1_234_876


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(ArchitectureError, match="unknown architecture 'cancernett'; did you mean 'cancernet'"):
        build("cancernett")


def test_an_unknown_model_parameter_is_named() -> None:
    with pytest.raises(ArchitectureError, match="cancernet takes no 'drop_out' under `model`"):
        build("cancernet", drop_out=0.5)
