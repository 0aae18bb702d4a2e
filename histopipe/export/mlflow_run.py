"""Logging of an export to MLflow: the files into the model's run, a few numbers as tags of the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histopipe.core.workspace import Workspace
from histopipe.export.origin import Origin
from histopipe.export.record import ExportRecord
from histopipe.inference.model import ServedModel
from histopipe.tracking.runs import log_if_changed
from histopipe.tracking.stores import errors_in_one_line, open_client

FOLDER = "exports"  # among the run's artifacts


def log_export(
    files: Sequence[Path], record: ExportRecord, served: ServedModel, origin: Origin, workspace: Workspace
) -> str:
    """Log an export into its model's run, and tag the logged model and the registered version with what it costs.

    Returns:
        A message that names where it was logged, or why it wasn't.

    Raises:
        TrackingUnreachableError: MLflow can't be reached, or the connection breaks.
    """
    if origin.run is None:
        return "not logged: this tracking store has no run of that model"
    kind = f"{record['format']}-{record['quantize']}"
    run_id, folder = origin.run.info.run_id, f"{FOLDER}/{kind}"
    with errors_in_one_line(workspace):
        client = open_client(workspace)
        for path in files:
            log_if_changed(client, run_id, path, folder)
        tags = _tags(kind, folder, record)
        if served.logged.get("model_id"):
            client.set_logged_model_tags(served.logged["model_id"], tags)
        if version := origin.version:
            for name, value in tags.items():
                client.set_model_version_tag(version.name, version.version, name, value)
    return f"logged as {folder} of run {run_id}"


def _tags(kind: str, folder: str, record: ExportRecord) -> dict[str, str]:
    change = record["parity"]["change"]["roc_auc"]
    values = {
        "artifacts": folder,
        "sha256": record["sha256"],
        "bytes": record["bytes"],
        "roc_auc_change": change["value"],
        "roc_auc_change_low": change["low"],
        "roc_auc_change_high": change["high"],
        "decisions_changed": record["parity"]["decisions_changed"]["value"],
    }
    return {f"export.{kind}.{name}": str(value) for name, value in values.items()}
