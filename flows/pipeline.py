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
from flows.command import choosing_architectures, choosing_datasets, one_line_errors
from histopipe.core.errors import ParamsError
from histopipe.core.params import read_params
from histopipe.core.workspace import Workspace, stage_name
from tasks.data import fetch, ingest, locate, split
from tasks.evaluation import compare, evaluate
from tasks.parallel import SideBySide
from tasks.promotion import promote
from tasks.reproduction import collect
from tasks.training import start_weights, train


@flow(name="histopipe", task_runner=SideBySide())  # type: ignore[arg-type]
def pipeline(datasets: tuple[ListedDataset, ...] = (), architectures: tuple[ListedArchitecture, ...] = ()) -> None:
    """From raw archives to compared models and a champion. Unchanged stages are skipped by DVC.

    Args:
        datasets: Which of the data sets that params.yaml lists; without any, all of them.
        architectures: Which of the networks that params.yaml lists; without any, all of them.
    """
    params = read_params(Workspace.around().params)
    names = chosen(architectures, params.architectures, "architecture")
    starts = {name: start_weights(name) for name in names}
    for dataset in chosen(datasets, params.datasets, "data set"):
        cases = prepare(dataset)
        runs = [
            train.submit(dataset, name, wait_for=[*cases, starts[name]])  # type: ignore[call-overload]
            for name in names
        ]
        scores = [
            evaluate.submit(dataset, name, wait_for=[run])  # type: ignore[call-overload]
            for name, run in zip(names, runs, strict=True)
        ]
        wait(scores)
        done = [name for name, score in zip(names, scores, strict=True) if score.state.is_completed()]
        collect([stage_name(stage, dataset, name) for name in done for stage in ("train", "evaluate")])
        if done:
            ranking = compare(dataset, wait_for=[allow_failure(score) for score in scores])
            promote(dataset, wait_for=[ranking])
        for future in (*starts.values(), *runs, *scores):
            future.result()  # what failed makes the flow fail, after the others were compared


def prepare(dataset: str) -> list[object]:
    """From the source to the split, one after the other; returns what trainings wait for."""
    source = locate(dataset)
    archive = fetch(dataset, wait_for=[source])
    store = ingest(dataset, wait_for=[archive])
    cases = split(dataset, wait_for=[store])
    return [cases]


def chosen(wanted: Sequence[str], known: tuple[str, ...], what: str) -> list[str]:
    """The names asked for, all where none are.

    Raises:
        ParamsError: a name that `params.yaml` doesn't list.
    """
    for name in wanted:
        if name not in known:
            raise ParamsError(f"params.yaml lists no {what} {name!r}; it lists {', '.join(known)}")
    return list(wanted or known)


@click.command()
@choosing_datasets
@choosing_architectures
def main(datasets: tuple[str, ...], architectures: tuple[str, ...]) -> None:
    """Run the pipeline as a Prefect flow."""
    with one_line_errors():
        params = read_params(Workspace.around().params)
        chosen(datasets, params.datasets, "data set")
        chosen(architectures, params.architectures, "architecture")
        pipeline(datasets, architectures)


if __name__ == "__main__":
    main()
