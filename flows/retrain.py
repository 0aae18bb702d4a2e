"""Retrain on new data: look at every source, and run the pipeline for those that changed.

A source has changed when its fingerprint (checksum, ETag, size or version) differs from that of the last finished run.
A run that broke off is therefore resumed the next time. Known cases keep their split, only new ones are divided.
"""

from __future__ import annotations

from typing import Any

import click
from prefect import flow, tags
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.choices import ListedArchitecture, ListedDataset
from flows.command import one_line_errors, report_end, with_architectures_option, with_datasets_option
from flows.pipeline import pipeline, select_names
from flows.watch import TAG
from histopipe.core.params import read_params
from histopipe.core.workspace import Workspace
from tasks.data import locate, show_growth, source_change, source_record, splits_of_cases, use_source

UNCHANGED = "No source has changed since it was last used: nothing to do."


@flow(name="retrain")
def retrain(
    datasets: tuple[ListedDataset, ...] = (), architectures: tuple[ListedArchitecture, ...] = ()
) -> State[None]:
    """Run the pipeline for the data sets whose source changed since the last finished run.

    Args:
        datasets: Some of the data sets that params.yaml lists; all of them by default.
        architectures: Some of the recipes that params.yaml lists under `architectures`; all of them by default.
    """
    params = read_params(Workspace.find().params)
    names = select_names(architectures, params.architectures, "architecture")
    everything = set(names) == set(params.architectures)
    selected = select_names(datasets, params.datasets, "data set")
    ended = {dataset: retrain_if_changed(dataset, names, everything) for dataset in selected}
    failed = [state for state in ended.values() if state.is_failed() or state.is_crashed()]
    if failed:
        return failed[0]  # after the other data sets have been handled
    changes = {dataset: state.message for dataset, state in ended.items() if state.message != UNCHANGED}
    if not changes:
        return Completed(message=UNCHANGED)
    return Completed(message="Retrained. " + "; ".join(f"{dataset}: {change}" for dataset, change in changes.items()))


def retrain_if_changed(dataset: str, architectures: list[str], everything: bool) -> State[Any]:
    """Look at one data set's source and run the pipeline if it changed; the state's message describes the change.

    Args:
        dataset: name of the data set.
        architectures: recipes to train.
        everything: whether these are all that `params.yaml` lists; else others still lack the change.
    """
    located = locate(dataset, return_state=True)
    if not located.is_completed():
        return located
    change = source_change(dataset)
    if change is None:
        return Completed(message=UNCHANGED)
    record, before = source_record(dataset), splits_of_cases(dataset)
    with tags(TAG):  # so that the server watches this run too (flows.watch)
        trained: State[Any] = pipeline((dataset,), tuple(architectures), return_state=True)
    if not trained.is_completed():
        return trained
    if everything:
        use_source(record, dataset)
    show_growth(dataset, before)
    return Completed(message=change)


@click.command()
@with_datasets_option
@with_architectures_option
def main(datasets: tuple[str, ...], architectures: tuple[str, ...]) -> None:
    """Retrain where a source changed."""
    with one_line_errors():
        params = read_params(Workspace.find().params)
        select_names(datasets, params.datasets, "data set")
        select_names(architectures, params.architectures, "architecture")
        report_end(retrain(datasets, architectures, return_state=True))


if __name__ == "__main__":
    main()
