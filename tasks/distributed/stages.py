"""Run a stage in a worker's clone with the state of the flow's clone, and push its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from histopipe.core.errors import HistopipeError, UnreachableError
from histopipe.core.params import read_params
from histopipe.core.workspace import Workspace, stage_name
from tasks.distributed.clones import READ_BY_WORKERS, Clone
from tasks.distributed.remote import fetch_inputs, share
from tasks.distributed.workers import end_if_abandoned, flow_clone
from tasks.processes import BadInput, StageFailed, run_repro


def is_distributed() -> bool:
    """Return whether submitted tasks run in other clones."""
    return read_params(Workspace.find().params).flow.task_runner == "dask"


def hand_out(stage: str) -> None:
    """Push a stage's outputs, where it ran in the flow's clone and workers in other clones will read them.

    Raises:
        UnreachableError: there is no remote, or it can't be written.
    """
    if stage.partition("@")[0] in READ_BY_WORKERS and is_distributed():
        share([stage])


def reproduce_for_flow(
    stage: str, on_line: Callable[[str], None] | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """Run a stage in this worker's clone for the flow's; an evaluation first fetches its training.

    Args:
        stage: name of the stage in `dvc.yaml`.
        on_line: called with every line of the stage's log.
        environment: variables of the stage besides this process's own.

    Raises:
        BadInput: the stage refused its input, or this clone has other code.
        StageFailed: it failed otherwise, ran for too long, stayed busy for as long, or DVC's remote can't be reached.
    """
    clone = flow_clone()
    kind, _, about = stage.partition("@")
    training = {"evaluate": "train", "evaluate_variant": "train_variant"}.get(kind)
    chain = [stage_name(training, about), stage] if training else [stage]
    with working_for(clone, clone.inputs_of(stage)):
        for name in chain:
            run_repro(name, "--pull", on_line=on_line, environment=environment, watch=end_if_abandoned)
        share(chain)


@contextmanager
def working_for(clone: Clone, inputs: Sequence[str]) -> Iterator[None]:
    """Give this worker's clone the state of the flow's, with the outputs of these stages.

    Raises:
        BadInput: this clone has other code.
        StageFailed: DVC's remote can't be reached.
    """
    try:
        with clone.applied_to(Workspace.find()):
            fetch_inputs(inputs)
            yield
    except UnreachableError as problem:
        raise StageFailed(str(problem)) from None
    except HistopipeError as problem:
        raise BadInput(str(problem)) from None
