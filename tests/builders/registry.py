"""What the embedded registry of a checkout says of its models of IDC."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import mlflow
from mlflow import MlflowClient

NAME = "histopipe-idc"


class Rooted(Protocol):
    """A workspace, or a checkout with commands."""

    @property
    def root(self) -> Path: ...


def client(checkout: Rooted) -> MlflowClient:
    """Return a client of the checkout's own tracking database."""
    mlflow.set_tracking_uri(f"sqlite:///{checkout.root}/mlflow.db")
    return MlflowClient()


def aliases(checkout: Rooted) -> dict[str, str]:
    """Return the version behind each alias."""
    found = client(checkout).get_registered_model(NAME).aliases
    return {name: str(number) for name, number in found.items()}


def tags(checkout: Rooted, number: str) -> dict[str, str]:
    """Return the tags of a version."""
    return dict(client(checkout).get_model_version(NAME, number).tags)


def finished_runs(checkout: Rooted) -> list[Any]:
    """List the runs that finished."""
    mlflow.set_tracking_uri(f"sqlite:///{checkout.root}/mlflow.db")
    found = mlflow.search_runs(experiment_names=["histopipe-idc"], output_format="list")
    return [run for run in found if run.info.status == "FINISHED"]
