"""The errors that MLflow raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException


def store_error() -> type[MlflowException]:
    """Return the base class of MLflow's errors; a function, since importing MLflow takes seconds.

    Example:
        >>> try:
        ...     client.get_run("gone")
        ... except store_error() as problem:
        ...     print(problem.error_code)
    """
    from mlflow.exceptions import MlflowException

    return MlflowException
