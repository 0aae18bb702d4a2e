"""Running a network over a store: the same numbers however many patches there are, and no needless compiling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from histopipe.networks.architectures import build
from histopipe.networks.prediction import BATCH_SIZE, logit_network, predict_logits
from tests.builders.stores import store_of


@pytest.fixture(scope="module")
def network() -> Any:
    keras.utils.set_random_seed(1)
    return logit_network(build("cancernet", image_size=16))


@pytest.mark.parametrize("count", [1, 100, BATCH_SIZE, BATCH_SIZE + 1, 2 * BATCH_SIZE + 77])
def test_every_patch_is_predicted_as_in_one_batch(tmp_path: Path, network: Any, count: int) -> None:
    store, rows = store_of(tmp_path, count), np.arange(count)[::-1].copy()
    expected = np.asarray(network(store.gather(rows)))[:, 0]
    np.testing.assert_allclose(predict_logits(network, store, rows), expected, rtol=1e-4, atol=1e-5)


def test_a_store_of_many_batches_is_predicted_in_one_size(
    tmp_path: Path, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = network.predict_on_batch
    monkeypatch.setattr(network, "predict_on_batch", lambda batch: (sizes.append(len(batch)), real(batch))[1])
    predict_logits(network, store_of(tmp_path, 2 * BATCH_SIZE + 77), np.arange(2 * BATCH_SIZE + 77))
    assert sizes == [BATCH_SIZE] * 3


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA is what the other backend runs on")
def test_nothing_is_compiled_by_xla_on_a_cpu(network: Any) -> None:
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    assert network.jit_compile is False
