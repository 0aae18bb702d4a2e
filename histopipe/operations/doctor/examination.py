"""All checks of `histopipe doctor`, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from histopipe.core.errors import HistopipeError
from histopipe.core.params import Params, read_params
from histopipe.core.workspace import Workspace
from histopipe.operations.doctor import data, machine, models, services
from histopipe.operations.doctor.finding import Finding
from histopipe.operations.doctor.outputs import check_outputs

EXIT_CODES = {"ok": 0, "warning": 1, "error": 2}


def examine(workspace: Workspace) -> Iterator[Finding]:
    """Check the machine, the servers, the parameters and the data; yield each finding as soon as it is made."""
    yield machine.check_python()
    yield machine.check_packages(workspace)
    yield machine.check_gpu()
    yield machine.check_disk(workspace)
    yield services.check_mlflow(workspace)
    yield services.check_runs(workspace)
    yield services.check_prefect(workspace)
    yield services.check_git(workspace)
    yield services.check_dvc(workspace)
    outputs = check_outputs(workspace)
    yield outputs
    parameters = _parameters(workspace)
    if isinstance(parameters, Finding):
        yield parameters
        return
    yield Finding("parameters", f"{', '.join(parameters.datasets)}; {', '.join(parameters.architectures)}")
    yield from data.check_stores(parameters, workspace, damaged=outputs.state == "error")
    yield from models.check_models(parameters, workspace)


def _parameters(workspace: Workspace) -> Params | Finding:
    try:
        return read_params(workspace.params)
    except HistopipeError as problem:
        return Finding("parameters", str(problem), "error", "correct params.yaml")


def severity(findings: Iterable[Finding]) -> int:
    """Return the command's exit code: 0 if all is well, 1 with warnings, 2 with errors."""
    return max((EXIT_CODES[finding.state] for finding in findings), default=0)
