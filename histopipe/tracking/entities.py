"""Types of MLflow's entities, for annotations outside this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models.model import ModelInfo

    __all__ = ["LoggedModel", "MlflowClient", "ModelInfo", "ModelVersion", "Run"]
