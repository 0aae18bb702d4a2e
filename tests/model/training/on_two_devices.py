"""Run in a process of its own: a training on a CPU that is cut in two, perhaps killed.

TensorFlow must be told of the two halves before anything else, and lets a process share a batch only one way.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tensorflow as tf
import yaml

from histopipe.core.workspace import Workspace
from histopipe.training.checkpoint import Progress
from tests.builders.paths import ROOT
from tests.builders.trainings import run, small


def main(folder: Path, last: int, recipe: str) -> None:
    """Train over both halves; die when `last` epochs are safely saved."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))

    def perhaps_die(progress: Progress) -> None:
        print("finished epoch", len(progress.history), flush=True)
        if len(progress.history) == last:
            os._exit(9)

    network, _ = run(Workspace(folder), small(content, recipe, devices="all"), perhaps_die)
    network.save(folder / "model.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
