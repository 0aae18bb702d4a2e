"""Bring one DVC stage up to date, wherever the task runs that wants it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from histopipe.core.workspace import Workspace
from tasks.distributed import hand_out, is_distributed, on_worker, reproduce_for_flow
from tasks.processes import run_repro


def reproduce(
    stage: str,
    force: bool = False,
    on_line: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
    pull: bool = False,
) -> None:
    """Bring one stage up to date, as `dvc repro --single-item` does.

    On a Dask worker, DVC first pulls what the stage reads, as the flow's clone has it, and what comes out is pushed. In
    the flow's clone, what workers will read is pushed.

    Args:
        stage: its name in `dvc.yaml`, such as `train@idc-cancernet`.
        force: run it even if nothing changed.
        on_line: is shown every line of the stage's log.
        environment: variables that the stage finds besides this process's own.
        pull: take it from the remote where another clone has run it.

    Raises:
        BadInput: the stage refused its input.
        StageFailed: it failed otherwise, ran for too long, or stayed busy for as long.
        UnreachableError: workers wait for it, and DVC's remote can't be written.
    """
    if on_worker():
        reproduce_for_flow(stage, on_line, environment)
        return
    options = [*(["--force"] if force else []), *(["--pull"] if pull else [])]
    run_repro(stage, *options, on_line=on_line, environment=environment)
    hand_out(stage)


def collect(stages: Sequence[str]) -> None:
    """Where tasks ran in other clones, bring what came out into this one."""
    for stage in stages if is_distributed() else ():
        reproduce(stage, pull=True)


def may_overwrite(out: str, asked: bool) -> bool:
    """Whether a command may replace its earlier output: as asked, or since it can only be that of a run's first try."""
    return asked or not os.path.lexists(Workspace.around().root / out)
