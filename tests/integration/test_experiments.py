"""`dvc exp run`, as docs/search.md has it: other values in the checkout itself, and in a folder of their own."""

from __future__ import annotations

import csv
from collections.abc import Callable

from tests.builders.checkouts import Checkout, not_activated
from tests.builders.registry import finished_runs

Make = Callable[..., Checkout]
RATE = "recipes.cancernet.optimizer.learning_rate"
TINY = {"max_epochs": 1, "max_patches": 128, "max_image_size": 16}


def experiment(project: Checkout, rate: float, *options: str) -> str:
    """Run all up to the training with another learning rate; returns the log."""
    return project.dvc("exp", "run", *options, "--set-param", f"{RATE}={rate}", "train").stdout


def rates_shown(project: Checkout) -> list[float]:
    """The learning rates of the experiments that DVC lists."""
    shown = csv.DictReader(project.dvc("exp", "show", "--csv").stdout.splitlines())
    return sorted(float(row[RATE]) for row in shown if row["typ"].startswith("branch"))


def test_experiments_are_listed_and_leave_their_runs_in_the_checkout(checkout: Make) -> None:
    project = not_activated(checkout(quick=TINY))
    project.run("git", "commit", "--all", "--quiet", "--message", "smaller")
    experiment(project, 0.02)
    here = {name: (project.root / name).read_bytes() for name in ("params.yaml", "dvc.lock")}
    experiment(project, 0.03, "--temp")
    assert {name: (project.root / name).read_bytes() for name in here} == here
    assert rates_shown(project) == [0.02, 0.03]
    logged = [float(run.data.params["optimizer.learning_rate"]) for run in finished_runs(project)]
    assert sorted(logged) == [0.02, 0.03]
