"""Delete for good what is marked as deleted, by the methods behind `mlflow gc`.

The command itself also deletes other projects' experiments and models, and MLflow has no public call for one run: these
are the only private methods of MLflow that histopipe uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel


@dataclass(frozen=True)
class Database:
    """MLflow's direct access to its database, where the tracking store isn't a server.

    Attributes:
        store: MLflow's tracking store.
    """

    store: Any

    def deleted_runs(self, seconds: float) -> list[str]:
        """List the ids of the runs that have been marked as deleted for that long."""
        return list(self.store._get_deleted_runs(older_than=int(seconds * 1000)))

    def deleted_models(self, seconds: float) -> list[LoggedModel]:
        """List the logged models that have been marked as deleted for that long."""
        listed = self.store._get_deleted_logged_models(older_than=int(seconds * 1000))
        return [self.store.get_logged_model(identifier, allow_deleted=True) for identifier in listed]

    def purge_run(self, run_id: str) -> None:
        """Delete a run's rows."""
        self.store._hard_delete_run(run_id)

    def purge_model(self, model_id: str) -> None:
        """Delete a logged model's rows."""
        self.store._hard_delete_logged_model(model_id)


def open_database(uri: str) -> Database | None:
    """Open the database behind a tracking store; None where the store is a server."""
    from mlflow.tracking._tracking_service.utils import _get_store

    store = _get_store(uri)
    return Database(store) if hasattr(store, "_hard_delete_run") else None


def delete_artifacts(address: str) -> None:
    """Delete the files at an artifacts' address."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(address).delete_artifacts()
