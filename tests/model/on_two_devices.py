"""Run in a process of its own: one training on a CPU that is cut in two, or `alone` on one half, perhaps killed.

TensorFlow must be told of the two halves before anything else, and lets a process share a batch only one way.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf
import yaml

from histopipe.paths import Workspace
from histopipe.training import loop, train
from tests.conftest import ROOT
from tests.model.test_devices import small


def main(folder: Path, how: str) -> None:
    """Train, on both devices unless `alone`; a number is the epoch in which to die."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    if how.isdigit():
        die_in_epoch(int(how))
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params = small(content, devices="one" if how == "alone" else "all")
    train("idc", "wide_resnet", params, Workspace(folder))


def die_in_epoch(number: int) -> None:
    real = loop._one_epoch

    def perhaps_die(*arguments: Any) -> dict[str, float]:
        if arguments[-1] + 1 == number:
            os._exit(9)
        return real(*arguments)

    loop._one_epoch = perhaps_die


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
