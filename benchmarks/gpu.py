"""Training with store, augmentation and network on the accelerator, compared with batches fed from the host.

Every recipe, with the batch that it asks for and with a larger one: above its own batch it is no longer the recipe, but
shows what the accelerator could do. The patches lie on the device; many steps, each with a batch of rows, are one call
(XLA's loop on JAX and TensorFlow). The others are Keras' `fit` on host batches, as in `histopipe train`, and the
arithmetic limit: the network's multiplications, three times over for forward and backward pass, at the speed of a large
product of matrices in the same precision. A process for each recipe and batch, in which the sides take turns. The loop
on the device is this benchmark's own: what `histopipe train` does is the other side.

    python -m benchmarks.gpu
    KERAS_BACKEND=jax python -m benchmarks.gpu --recipe cancernet --batch 0 --batch 1024
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.measuring import alternate, medians, report, run_side
from benchmarks.training import PATCHES as STORED
from benchmarks.training import prepared

PUBLISHED_PATCHES, EPOCHS = 200_000, 40  # of CancerNet's training
RECIPES = ("cancernet", "histonet", "resnet", "wide_resnet", "densenet201")
OWN, LARGE = 0, 1024  # batch sizes
CALL = 2048  # patches of a call on the device, at least

Run = Callable[[int], object]  # takes a number of steps


@dataclass(frozen=True)
class Job:
    """A recipe's training on this machine.

    Attributes:
        trainer: compiled, with the augmentation in front of the network.
        training: as the train stage plans it.
        batch: patches of a step.
        patches: how many lie on the device.
    """

    trainer: Any
    training: Any
    batch: int
    patches: int

    @property
    def call(self) -> int:
        """The steps of one call on the device, a constant, since XLA compiles a loop again for another length."""
        return max(8, CALL // self.batch)

    def rows(self, steps: int, below: int) -> Any:
        """Draw rows below `below`, int32 (steps, batch): the same ones for the same number of steps."""
        return np.random.default_rng(steps).integers(0, below, (steps, self.batch), dtype=np.int32)

    def on_device(self) -> tuple[Any, Any, Any]:
        """Return patches, labels and weights on the device; drawn patches are repeated."""
        from keras import ops

        store, rows = self.training.store, np.arange(self.patches) % STORED
        labels = store.index["label"].to_numpy(np.float32)[rows][:, None]
        patches, labels, weights = map(ops.convert_to_tensor, (store.gather(rows), labels, 1.0 + labels[:, 0]))
        return patches, labels, weights


@contextmanager
def planned(folder: Path, recipe: str, batch: int, patches: int) -> Iterator[Job]:
    """Build a training of the recipe in full, with its faster kernels inside the block."""
    import keras

    from histopipe.core.params import QuickParams, read_params
    from histopipe.training.kernels import quicker_kernels
    from histopipe.training.loop import build_training
    from histopipe.training.plan import plan_training

    workspace = prepared(folder)
    content = read_params(workspace.params).model_copy(update={"quick": QuickParams(weights="random")})
    training = plan_training("idc", recipe, content, workspace)
    keras.utils.set_random_seed(training.seed)
    network, trainer = build_training(training)
    with quicker_kernels(network):
        yield Job(trainer, training, batch or training.recipe.batch_size, patches)


def resident(job: Job) -> Run:
    """Return a function that runs steps on batches taken from patches on the device, many in one call."""
    from histopipe.networks.backend import backend_name

    ways = {"jax": by_jax, "tensorflow": by_tensorflow, "torch": step_by_step}
    stored = job.on_device()
    job.trainer._symbolic_build(data_batch=tuple(part[:2] for part in stored))
    run = ways[backend_name()](job.trainer, stored)

    def calls(steps: int) -> float:
        for rows in job.rows(steps, job.patches).reshape(-1, job.call, job.batch):
            loss = run(rows)
        return finite(float(loss), job)

    return calls


def by_jax(trainer: Any, stored: tuple[Any, Any, Any]) -> Callable[[Any], Any]:
    """Return XLA's loop over the steps, which carries the trainer's state."""
    import jax

    groups = (
        trainer.trainable_variables,
        trainer.non_trainable_variables,
        trainer.optimizer.variables,
        trainer.metrics_variables,
    )
    state = tuple([jax.numpy.copy(variable.value) for variable in group] for group in groups)

    @partial(jax.jit, donate_argnums=0)
    def run(state: Any, rows: Any, *stored: Any) -> tuple[Any, Any]:
        def step(state: Any, batch: Any) -> tuple[Any, Any]:
            logs, state = trainer.train_step(state, tuple(part[batch] for part in stored))
            return state, logs["loss"]

        return jax.lax.scan(step, state, rows)

    def steps(rows: Any) -> Any:
        nonlocal state
        state, losses = run(state, rows, *stored)
        return losses[-1]

    return steps


def by_tensorflow(trainer: Any, stored: tuple[Any, Any, Any]) -> Callable[[Any], Any]:
    """Return TensorFlow's loop over the steps, compiled by XLA where the trainer is."""
    import tensorflow as tf

    @tf.function(jit_compile=trainer.jit_compile)
    def run(rows: Any, *stored: Any) -> Any:
        loss = tf.constant(0.0)
        for batch in rows:
            loss = trainer.train_step(tuple(tf.gather(part, batch) for part in stored))["loss"]
        return loss

    return lambda rows: run(tf.constant(rows), *stored)


def step_by_step(trainer: Any, stored: tuple[Any, Any, Any]) -> Callable[[Any], Any]:
    """Return a function with a call for every step, since Torch has no loop."""
    from keras import ops

    def steps(rows: Any) -> Any:
        for batch in ops.convert_to_tensor(rows):
            patches, labels, weights = (part[batch] for part in stored)
            logs = trainer.train_on_batch(patches, labels, sample_weight=weights, return_dict=True)
        return logs["loss"]

    return steps


def from_host(job: Job) -> Run:
    """Return a function that runs Keras' `fit` on batches from the store."""
    from histopipe.training.loading import PatchBatches
    from histopipe.training.loop import _fit

    def run(steps: int) -> float:
        rows = job.rows(steps, STORED).ravel()
        return finite(_fit(job.trainer, PatchBatches(job.training.store, rows, job.batch), job.training.name), job)

    return run


def finite(loss: float, job: Job) -> float:
    """Return the loss if it is a number: `fit` ends early where it isn't, and would seem fast.

    Raises:
        SystemExit: the loss isn't a number.
    """
    if not math.isfinite(loss):
        raise SystemExit(
            f"{job.training.name} in batches of {job.batch}: the loss became {loss}, so nothing was measured"
        )
    return loss


def measure(job: Job, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure patches per second of both ways, in turn, each for about that many seconds, and the limit."""
    sides = {}
    for name, run in {"host": from_host(job), "resident": resident(job)}.items():
        steps = fitting_steps(run, seconds, job.call)
        sides[name] = lambda run=run, steps=steps: {"speed": steps * job.batch / _seconds(lambda: run(steps))}
    speeds = {name: medians(runs)["speed"] for name, runs in alternate(sides, rounds).items()}
    return {
        "batch": job.batch,
        **speeds,
        "limit": round(arithmetic_limit(job), 1),
        "epoch_seconds": {name: round(PUBLISHED_PATCHES / speed, 2) for name, speed in speeds.items()},
        "minutes": {name: round(EPOCHS * PUBLISHED_PATCHES / speed / 60, 2) for name, speed in speeds.items()},
        "ratio": round(speeds["resident"] / speeds["host"], 2),
        "on": accelerator(job),
    }


def fitting_steps(run: Run, seconds: float, few: int) -> int:
    """Return the multiple of `few` steps that fills the time; `run` is compiled then."""
    run(few)
    steps, taken = few, _seconds(partial(run, few))
    while taken < 0.7 * seconds:
        steps = few * math.ceil(steps / few * min(10.0, 1.1 * seconds / taken))
        run(steps)
        taken = _seconds(partial(run, steps))
    return steps


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def arithmetic_limit(job: Job) -> float:
    """Compute patches per second if every multiplication of the network ran as fast as a large product's."""
    return products_per_second(job.trainer.compute_dtype) / (3 * products_per_patch(job.trainer))


def products_per_second(dtype: str, side: int = 4096) -> float:
    """Measure multiplications (with their additions) per second in a product of square matrices."""
    import keras
    from keras import ops

    first, second = (keras.random.normal((side, side), dtype=dtype, seed=seed) for seed in (1, 2))

    def run(times: int) -> float:
        for _ in range(times):
            product = ops.matmul(first, second)
        return float(product[0, 0])  # waits for all of them

    times = fitting_steps(run, seconds=1.0, few=2)
    return times * side**3 / _seconds(lambda: run(times))


def products_per_patch(network: Any) -> float:
    """Count the multiplications of a forward pass, from kernels and output shapes."""
    total = 0.0
    for layer in network._flatten_layers():
        kernels = [getattr(layer, name, None) for name in ("kernel", "depthwise_kernel", "pointwise_kernel")]
        if any(kernel is not None for kernel in kernels):
            positions = np.prod(layer.output.shape[1:-1]) if len(layer.output.shape) == 4 else 1
            total += float(positions * sum(np.prod(kernel.shape) for kernel in kernels if kernel is not None))
    return total


def accelerator(job: Job) -> str:
    """Describe the device that Keras computes on: backend, devices, precision."""
    from histopipe.networks.backend import backend_name

    if backend_name() == "jax":
        import jax

        devices = [device.device_kind for device in jax.devices()]
    elif backend_name() == "torch":
        import torch

        devices = [torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"]
    else:
        import keras

        devices = keras.distribution.list_devices()
    return f"{backend_name()} on {', '.join(map(str, devices))}, {job.trainer.dtype_policy.name}"


@click.command()
@click.option("--recipe", "recipes", multiple=True, default=RECIPES, show_default=True)
@click.option("--batch", "batches", multiple=True, default=(OWN, LARGE), show_default=True, help="0: the recipe's own.")
@click.option("--patches", default=PUBLISHED_PATCHES, show_default=True, help="How many lie on the device.")
@click.option("--rounds", default=5, show_default=True, help="How often each side runs.")
@click.option("--seconds", default=2.0, show_default=True, help="Of each side's run.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "histopipe-benchmarks")
@click.option("--child", is_flag=True, hidden=True)
def main(
    recipes: tuple[str, ...],
    batches: tuple[int, ...],
    patches: int,
    rounds: int,
    seconds: float,
    folder: Path,
    child: bool,
) -> None:
    """Measure every recipe and batch; the last line is JSON and holds `ratio`: of the first, resident over host."""
    folder.mkdir(parents=True, exist_ok=True)
    if child:
        with planned(folder, recipes[0], batches[0], patches) as job:
            print(json.dumps(measure(job, rounds, seconds)))
        return
    prepared(folder)
    options = ("--patches", str(patches), "--rounds", str(rounds), "--seconds", str(seconds), "--folder", str(folder))
    results: dict[str, Any] = {}
    for recipe in recipes:
        for batch in batches:
            side = ("--recipe", recipe, "--batch", str(batch), "--child")
            name = f"{recipe}_{batch or 'own'}"
            results[name] = run_side("benchmarks.gpu", *options, *side)
            print(
                name, json.dumps(results[name]), file=sys.stderr, flush=True
            )  # so that a killed run has shown its results
    first = next(iter(results.values()))
    report(
        "gpu",
        ratio=first["ratio"],
        accelerator=first["on"],
        patches=patches,
        rounds=rounds,
        **results,
    )


if __name__ == "__main__":
    main()
