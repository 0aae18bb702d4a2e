"""Log into the active run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def active_run(
    name: str | None = None, run_id: str | None = None, tags: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Open a run of the experiment prepared last, or continue an earlier one; yield its id.

    Args:
        name: name of a new run.
        run_id: id of the run to continue, instead.
        tags: tags of a new run; they are set as it is created, so that a kill leaves no run without them.
    """
    import mlflow

    with mlflow.start_run(run_id=run_id, run_name=name, tags=dict(tags) if tags else None) as run:
        yield str(run.info.run_id)


def log_metrics(metrics: Mapping[str, float], model_id: str | None = None) -> None:
    """Log metrics into the active run, and link them with a logged model where one is named."""
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
