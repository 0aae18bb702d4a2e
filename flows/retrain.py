"""Retraining on new data: looks at every source, and runs the pipeline for those that changed.

A source has changed when its fingerprint (checksum, ETag, size or version) isn't that of the last finished run. A run
that broke off is therefore taken up again the next time. Known cases keep their split, only new ones are divided.
"""

from __future__ import annotations

import click
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.command import one_line_errors
from flows.pipeline import chosen, pipeline
from histopipe.params import read_params
from histopipe.paths import Workspace
from tasks.data import locate, show_growth, source_change, splits_of_cases, use_source
from tasks.parallel import SideBySide


@flow(name="retrain", task_runner=SideBySide())  # type: ignore[arg-type]
def retrain(datasets: list[str] | None = None, architectures: list[str] | None = None) -> State[None]:
    """Run the pipeline for the data sets whose source changed since the last finished run, for no others.

    Args:
        datasets: which of `params.yaml`'s data sets; all by default.
        architectures: which of its architectures; all by default.
    """
    params = read_params(Workspace.around().params)
    changes: dict[str, str] = {}
    for dataset in chosen(datasets, params.datasets, "data set"):
        locate(dataset)
        if change := source_change(dataset):
            changes[dataset] = change
    if not changes:
        return Completed(message="No source has changed since it was last used: nothing to do.")
    before = {dataset: splits_of_cases(dataset) for dataset in changes}
    pipeline(list(changes), architectures)
    for dataset in changes:
        use_source(dataset)
        show_growth(dataset, before[dataset])
    said = "; ".join(f"{dataset}: {change}" for dataset, change in changes.items())
    return Completed(message=f"Retrained. {said}")


@click.command()
@click.option("--datasets", "-d", multiple=True, help="Repeat for several; all of params.yaml by default.")
@click.option("--architectures", "-a", multiple=True, help="Repeat for several; all of params.yaml by default.")
def main(datasets: tuple[str, ...], architectures: tuple[str, ...]) -> None:
    """Retrain where a source changed."""
    with one_line_errors():
        params = read_params(Workspace.around().params)
        chosen(list(datasets), params.datasets, "data set")
        chosen(list(architectures), params.architectures, "architecture")
        click.echo(retrain(list(datasets) or None, list(architectures) or None, return_state=True).message)


if __name__ == "__main__":
    main()
