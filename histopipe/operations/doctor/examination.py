"""All checks, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from histopipe.core.errors import HistopipeError
from histopipe.core.params import Params, read_params
from histopipe.core.workspace import Workspace
from histopipe.operations.doctor import data, machine, models, services
from histopipe.operations.doctor.finding import Finding
from histopipe.operations.doctor.outputs import outputs

EXIT_CODES = {"ok": 0, "warning": 1, "error": 2}


def examine(workspace: Workspace) -> Iterator[Finding]:
    """Check the machine, the parameters, the services and the data; findings come as they are made."""
    yield machine.python()
    yield machine.packages(workspace)
    yield machine.gpu()
    yield machine.disk(workspace)
    yield services.mlflow(workspace)
    yield services.orphaned_runs(workspace)
    yield services.prefect(workspace)
    yield services.git(workspace)
    yield services.dvc(workspace)
    written = outputs(workspace)
    yield written
    parameters = _parameters(workspace)
    if isinstance(parameters, Finding):
        yield parameters
        return
    yield Finding("parameters", f"{', '.join(parameters.datasets)}; {', '.join(parameters.architectures)}")
    yield from data.stores(parameters, workspace, damaged=written.state == "error")
    yield from models.models(parameters, workspace)


def _parameters(workspace: Workspace) -> Params | Finding:
    try:
        return read_params(workspace.params)
    except HistopipeError as problem:
        return Finding("parameters", str(problem), "error", "correct params.yaml")


def severity(findings: Iterable[Finding]) -> int:
    """The command's exit code: 0 where all is well, 1 with warnings, 2 with errors."""
    return max((EXIT_CODES[finding.state] for finding in findings), default=0)
