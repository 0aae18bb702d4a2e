"""Cheap networks of every architecture, and patches for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml

from histopipe.networks.architectures import build, list_architectures
from histopipe.networks.prediction import for_prediction
from tests.builders.paths import ROOT

# What makes a network cheap enough for one core, on top of a small image; the builders' own sizes elsewhere.
TINY: dict[str, dict[str, Any]] = {
    "cancernet": {"image_size": 48},
    "resnet": {"image_size": 16},
    "wide_resnet": {"width": 1},
}
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
SMALL_IMAGE = (PARAMS["quick"] or {}).get("max_image_size") or 32  # pixels: `make repro` needs networks of this size
DEEP = "densenet201"  # TensorFlow takes minutes to trace its 201 layers: `make test` only builds and asks it
every_architecture = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name == DEEP else []) for name in list_architectures()]
)


def patches(count: int, size: int = 50, seed: int = 0) -> np.ndarray:
    """Draw patches of random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def tiny(name: str, **params: Any) -> Any:
    """Build a cheap network of the architecture, the same at each call."""
    import keras

    keras.utils.set_random_seed(1)
    return build(name, **({"image_size": SMALL_IMAGE} | TINY.get(name, {}) | params))


def settled(name: str) -> Any:
    """Build a cheap network with batch-norm statistics of other patches than those to come, to show training."""
    import keras

    network = for_prediction(tiny(name))
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    network(patches(16, seed=1), training=True)
    return network


# compiling would take longer than what is compiled
HASTE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
