"""The checkout in which a worker runs flows: its own, wherever that is."""

from __future__ import annotations

import os
from pathlib import Path

from histopipe.core.errors import HistopipeError
from histopipe.core.workspace import Workspace


def enter() -> dict[str, str]:
    """Change to the checkout of HISTOPIPE_HOME, else to the one that this Python imports histopipe from.

    This is the pull step of all deployments (prefect.yaml): they name no path, so each worker uses its own checkout.

    Raises:
        HistopipeError: there is no checkout.
    """
    try:
        root = Workspace.find(Path(os.environ.get("HISTOPIPE_HOME") or __file__)).root
    except HistopipeError as problem:
        raise HistopipeError(f"{problem}; or set HISTOPIPE_HOME to the worker's checkout") from None
    os.chdir(root)
    return {"directory": str(root)}
