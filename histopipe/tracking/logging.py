"""Logging into the active run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def active_run(
    name: str | None = None, run_id: str | None = None, tags: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Open a run of the experiment that was prepared last, or go on with a known one; yields its id.

    Args:
        name: of a new run.
        run_id: of the run to go on with, instead.
        tags: of a new run from its start on, so that a kill leaves none without.
    """
    import mlflow

    with mlflow.start_run(run_id=run_id, run_name=name, tags=dict(tags) if tags else None) as run:
        yield str(run.info.run_id)


def log_metrics(metrics: Mapping[str, float], model_id: str | None = None) -> None:
    """Log numbers into the active run, and link them with a logged model where one is named."""
    import mlflow

    mlflow.log_metrics(dict(metrics), model_id=model_id)


def set_tags(tags: Mapping[str, str]) -> None:
    """Set tags of the active run."""
    import mlflow

    mlflow.set_tags(dict(tags))


def log_file(path: Path, folder: str | None = None) -> None:
    """Log a file into the active run, into a folder of its artifacts where one is named."""
    import mlflow

    mlflow.log_artifact(str(path), folder)
