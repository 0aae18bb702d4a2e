"""The one predictor: last batches are filled and cut, both runtimes agree, and Keras takes over once, saying so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from histopipe.core.errors import InferenceError
from histopipe.networks import openvino, predictor
from histopipe.networks.prediction import KerasNetwork, logit_network
from histopipe.networks.predictor import Predictor, predictor_for, ready_predictor
from tests.builders.networks import patches, settled

SIZE = (50, 50)
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compiles on TensorFlow only")


@pytest.fixture(scope="module")
def network() -> Any:
    return logit_network(settled("cancernet"))


@pytest.mark.parametrize(("count", "computed"), [(0, []), (1, [1]), (6, [8]), (8, [8]), (17, [8, 8, 1]), (13, [8, 8])])
def test_a_batch_is_filled_to_the_next_size_and_cut_again(
    network: Any, monkeypatch: pytest.MonkeyPatch, count: int, computed: list[int]
) -> None:
    sizes: list[int] = []
    batch, real = patches(17)[:count], network.predict_on_batch
    expected = np.asarray(network(batch))[:, 0] if count else np.empty(0)
    monkeypatch.setattr(network, "predict_on_batch", lambda given: (sizes.append(len(given)), real(given))[1])
    logits = Predictor([KerasNetwork(network, (1, 8))]).logits(batch)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert sizes == computed and logits.dtype == np.float64


def test_every_output_of_a_network_is_kept(network: Any) -> None:
    several = keras.Model(network.input, [network.output, keras.ops.concatenate([network.output] * 3, axis=-1)])
    one, three = KerasNetwork(several, (4,)).predict(patches(10).__getitem__, 10)
    assert (one.shape, three.shape) == ((10, 1), (10, 3))
    np.testing.assert_array_equal(three, np.repeat(one, 3, axis=1))


@on_tensorflow
@pytest.mark.parametrize("make", [predictor_for, ready_predictor])
def test_both_runtimes_agree_in_order(network: Any, make: Callable[..., Predictor]) -> None:
    compiled, batch = make(network, SIZE), patches(77)
    by_keras = Predictor([KerasNetwork(network)])
    for count in (1, 5, 77):
        found, expected = compiled.probabilities(batch[:count]), by_keras.probabilities(batch[:count])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected) > 1e-3


@on_tensorflow
@pytest.mark.parametrize("make", [predictor_for, ready_predictor])
def test_keras_takes_over_once_unless_a_precision_was_asked_for(
    network: Any, make: Callable[..., Predictor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise InferenceError("cancernet can't be compiled (odd): predict by Keras")

    monkeypatch.setattr(openvino, "convert", refuse)
    monkeypatch.setattr(predictor, "is_on_tensorflow_cpu", lambda: True)
    monkeypatch.setattr(openvino, "is_on_tensorflow_cpu", lambda: True)
    batch = patches(9)
    with caplog.at_level(logging.WARNING):
        graded = make(network, SIZE)
        logits = [graded.logits(batch) for _ in range(2)]
    assert [record.getMessage() for record in caplog.records] == ["cancernet can't be compiled (odd): predict by Keras"]
    np.testing.assert_allclose(logits[1], np.asarray(network(batch))[:, 0], rtol=1e-4, atol=1e-5)
    with pytest.raises(InferenceError):
        make(network, SIZE, precision="bfloat16")
