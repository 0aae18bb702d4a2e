"""Networks compiled for the CPU: the numbers that Keras gives, in order, however many patches there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from histopipe.core.errors import InferenceError
from histopipe.networks import logits as evaluation_logits
from histopipe.networks import openvino as inference
from histopipe.networks.architectures.blocks import patch_input
from histopipe.networks.logits import finite_logits
from histopipe.networks.openvino import BATCH_SIZE, CompiledNetwork
from histopipe.networks.prediction import Runtime, logit_network, predict_logits, row_logits
from histopipe.networks.symmetry import averaged_over_symmetries
from tests.builders.networks import every_architecture, patches, settled
from tests.builders.paths import ROOT
from tests.builders.stores import store_of

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compiles on TensorFlow only")
without_gpu = pytest.mark.skipif(
    keras.backend.backend() == "tensorflow" and not inference.is_quicker(10**9), reason="this machine has a GPU"
)


def logits_of(runtime: Runtime, batch: np.ndarray) -> np.ndarray:
    return runtime.predict(batch.__getitem__, len(batch))[0][:, 0]


def probabilities(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


@every_architecture
def test_a_compiled_network_agrees_with_keras(name: str) -> None:
    network, batch = logit_network(settled(name)), patches(BATCH_SIZE + 6)
    expected = np.asarray(network.predict_on_batch(batch))[:, 0]
    found = logits_of(CompiledNetwork(network, (50, 50)), batch)
    np.testing.assert_allclose(probabilities(found), probabilities(expected), rtol=0, atol=1e-4)
    assert np.ptp(probabilities(expected)) > 5e-4


@pytest.mark.parametrize(("length", "resized"), [(50, 48), (48, 50), (50, 50), (64, 7), (1, 5)])
def test_matrices_resize_as_keras_does(length: int, resized: int) -> None:
    picture = np.random.default_rng(length).random((1, length, 3, 1)).astype(np.float32)
    expected = keras.ops.image.resize(picture, (resized, 3), interpolation="bilinear")
    found = inference.bilinear_weights(length, resized) @ picture[0, :, :, 0]
    np.testing.assert_allclose(found, np.asarray(expected)[0, :, :, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, BATCH_SIZE, 5 * BATCH_SIZE + 7])
def test_every_patch_gets_its_own_number(tmp_path: Path, count: int) -> None:
    network = logit_network(averaged_over_symmetries(settled("cancernet")))
    store, rows = store_of(tmp_path, count), np.arange(count)[::-1].copy()
    expected = predict_logits(network, store, rows)
    found = row_logits(CompiledNetwork(network, store.patch_size), store, rows)
    assert count == 1 or np.ptp(probabilities(expected)) > 0.01
    np.testing.assert_allclose(probabilities(found), probabilities(expected), rtol=0, atol=1e-4)


def test_bfloat16_is_near_or_refused() -> None:
    network, batch = logit_network(settled("cancernet")), patches(BATCH_SIZE)
    expected = probabilities(logits_of(CompiledNetwork(network, (50, 50)), batch))
    try:
        compiled = CompiledNetwork(network, (50, 50), "bfloat16")
    except InferenceError as problem:
        assert str(problem) == "this CPU has no bfloat16: predict in float32"
        return
    found = probabilities(logits_of(compiled, batch))
    assert np.abs(found - expected).max() > 0
    assert np.corrcoef(found, expected)[0, 1] > 0.99  # of noise, to which an untrained network is touchy


def test_what_cannot_be_compiled_is_graded_by_keras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenVINO knows no flip over two axes at once, as earlier averaged networks hold it."""
    inner = settled("cancernet")
    inputs = patch_input()
    network = keras.Model(inputs, inner(keras.ops.flip(inputs, (1, 2))))
    logits = keras.Model(inputs, keras.ops.log(network.output / (1 - network.output)))
    store, rows = store_of(tmp_path, 100), np.arange(100)
    with pytest.raises(InferenceError, match=r"can't be compiled \(.*\): predict by Keras$"):
        CompiledNetwork(logits, store.patch_size)
    monkeypatch.setattr(inference, "WORTH_COMPILING", 100)
    monkeypatch.setattr(evaluation_logits, "logit_network", lambda given: given)
    found = finite_logits(logits, store, rows, "odd")
    np.testing.assert_array_equal(found, predict_logits(logits, store, rows))
    assert "odd: " in caplog.text and "can't be compiled" in caplog.text


@without_gpu
def test_many_patches_are_graded_by_a_compiled_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, store, rows = settled("cancernet"), store_of(tmp_path, 100), np.arange(100)
    expected = finite_logits(network, store, rows, "few")
    used: list[int] = []
    real = inference.CompiledNetwork.predict
    monkeypatch.setattr(inference, "WORTH_COMPILING", 100)
    monkeypatch.setattr(CompiledNetwork, "predict", lambda self, *given: (used.append(given[1]), real(self, *given))[1])
    found = finite_logits(network, store, rows, "many")
    np.testing.assert_allclose(probabilities(found), probabilities(expected), rtol=0, atol=1e-4)
    assert used == [100]


def test_nobody_is_told_of_it() -> None:
    """OpenVINO reports to its makers unless its telemetry can't be imported."""
    code = (
        "import sys; from histopipe.networks.openvino import load_openvino; load_openvino(); "
        "assert not [name for name, module in sys.modules.items() if 'openvino_telemetry' in name and module]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
