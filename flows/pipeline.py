"""The main flow: from raw archives to a champion.

Run it with `python -m flows.pipeline --datasets idc --architectures cancernet`; with `PREFECT_API_URL` set it reports
to that server, otherwise to a temporary one.
"""

from __future__ import annotations

from collections.abc import Sequence

import click
from prefect import allow_failure, flow
from prefect.futures import wait

from flows.choices import ListedArchitecture, ListedDataset
from flows.command import one_line_errors, with_architectures_option, with_datasets_option
from histopipe.core.errors import ParamsError
from histopipe.core.params import read_params
from histopipe.core.workspace import Workspace, stage_name
from tasks.data import fetch, ingest, locate, split
from tasks.evaluation import compare, evaluate
from tasks.parallel import ParallelRunner
from tasks.promotion import promote
from tasks.reproduction import collect
from tasks.training import start_weights, train


@flow(name="histopipe", task_runner=ParallelRunner())  # type: ignore[arg-type]
def pipeline(datasets: tuple[ListedDataset, ...] = (), architectures: tuple[ListedArchitecture, ...] = ()) -> None:
    """Lead from raw archives to compared models and a champion; DVC skips unchanged stages.

    Args:
        datasets: Some of the data sets that params.yaml lists; all of them by default.
        architectures: Some of the recipes that params.yaml lists under `architectures`; all of them by default.
    """
    params = read_params(Workspace.find().params)
    names = select_names(architectures, params.architectures, "architecture")
    starts = {name: start_weights(name) for name in names}
    for dataset in select_names(datasets, params.datasets, "data set"):
        cases = prepare(dataset)
        runs = [
            train.submit(dataset, name, wait_for=[*cases, starts[name]])  # type: ignore[call-overload]
            for name in names
        ]
        evaluations = [
            evaluate.submit(dataset, name, wait_for=[run])  # type: ignore[call-overload]
            for name, run in zip(names, runs, strict=True)
        ]
        wait(evaluations)
        done = [name for name, evaluation in zip(names, evaluations, strict=True) if evaluation.state.is_completed()]
        collect([stage_name(stage, dataset, name) for name in done for stage in ("train", "evaluate")])
        if done:
            ranking = compare(dataset, wait_for=[allow_failure(evaluation) for evaluation in evaluations])
            promote(dataset, wait_for=[ranking])
        for future in (*starts.values(), *runs, *evaluations):
            future.result()  # a failed task fails the flow, after the others were compared


def prepare(dataset: str) -> list[object]:
    """Run the stages from the source to the split, one after the other; return the tasks that trainings wait for."""
    source = locate(dataset)
    archive = fetch(dataset, wait_for=[source])
    store = ingest(dataset, wait_for=[archive])
    cases = split(dataset, wait_for=[store])
    return [cases]


def select_names(selected: Sequence[str], available: tuple[str, ...], kind: str) -> list[str]:
    """Return the selected names, or all where none are selected.

    Raises:
        ParamsError: `params.yaml` doesn't list a name.
    """
    for name in selected:
        if name not in available:
            raise ParamsError(f"params.yaml lists no {kind} {name!r}; it lists {', '.join(available)}")
    return list(selected or available)


@click.command()
@with_datasets_option
@with_architectures_option
def main(datasets: tuple[str, ...], architectures: tuple[str, ...]) -> None:
    """Run the pipeline as a Prefect flow."""
    with one_line_errors():
        params = read_params(Workspace.find().params)
        select_names(datasets, params.datasets, "data set")
        select_names(architectures, params.architectures, "architecture")
        pipeline(datasets, architectures)


if __name__ == "__main__":
    main()
