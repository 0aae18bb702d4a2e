"""Files that MLflow keeps: those of runs, and those of logged models."""

from __future__ import annotations

from pathlib import Path


def download(address: str, scratch: str | Path) -> Path:
    """Copy the files at an address into a folder.

    Args:
        address: address such as `models:/NAME/3`, `runs:/ID/model` or that of an artifact.
        scratch: folder to copy into.

    Returns:
        Path of the copy; a model whose files are gone may leave an empty folder.

    Raises:
        MlflowException, OSError: the files can't be read.
    """
    import mlflow

    return Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(scratch)))


def model_environment(model_id: str, scratch: str | Path) -> tuple[str, Path]:
    """Read the environment that a logged model needs.

    Args:
        model_id: id of the logged model.
        scratch: folder to copy its list of packages into.

    Returns:
        The version of Python that logged it, and its list of packages.
    """
    import mlflow

    python = mlflow.models.get_model_info(f"models:/{model_id}").flavors["python_function"]["python_version"]
    address = f"{mlflow.get_logged_model(model_id).artifact_location}/requirements.txt"
    return str(python), download(address, scratch)
