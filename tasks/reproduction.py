"""Run one DVC stage if it is out of date, on this machine or on a worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from histopipe.core.workspace import Workspace
from tasks.distributed import hand_out, is_distributed, is_on_worker, reproduce_for_flow
from tasks.processes import run_repro


def reproduce(
    stage: str,
    force: bool = False,
    on_line: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
    pull: bool = False,
) -> None:
    """Run one stage if it is out of date, as `dvc repro --single-item` does.

    On a Dask worker, DVC first pulls the stage's inputs, as in the flow's clone, and pushes the outputs. In the flow's
    clone, the outputs that workers will read are pushed.

    Args:
        stage: name of the stage in `dvc.yaml`, such as `train@idc-cancernet`.
        force: whether to run it even if nothing changed.
        on_line: called with every line of the stage's log.
        environment: variables of the stage besides this process's own.
        pull: whether to take the outputs from the remote where another clone has run it.

    Raises:
        BadInput: the stage refused its input.
        StageFailed: it failed otherwise, ran for too long, or stayed busy for as long.
        UnreachableError: workers wait for it, and DVC's remote can't be written.
    """
    if is_on_worker():
        reproduce_for_flow(stage, on_line, environment)
        return
    options = [*(["--force"] if force else []), *(["--pull"] if pull else [])]
    run_repro(stage, *options, on_line=on_line, environment=environment)
    hand_out(stage)


def collect(stages: Sequence[str]) -> None:
    """Bring the outputs of stages that ran in other clones into this one."""
    for stage in stages if is_distributed() else ():
        reproduce(stage, pull=True)


def may_overwrite(out: str, requested: bool) -> bool:
    """Return whether a command may replace its earlier output: on request, or if no output was there at first."""
    return requested or not os.path.lexists(Workspace.find().root / out)
