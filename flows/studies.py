"""Variants of the main run: every fold, seed, scheme and size that `params.yaml` lists, and their summaries.

Run it with `python -m flows.studies --folds --seeds`; see docs/studies.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import click
from prefect import allow_failure, flow
from prefect.futures import wait

from flows.choices import ListedDataset
from flows.command import one_line_errors, with_datasets_option
from flows.pipeline import prepare, select_names
from histopipe.core.errors import ParamsError
from histopipe.core.params import Params, read_params
from histopipe.core.variants import Study, variant_name
from histopipe.core.workspace import Workspace, stage_name
from tasks.parallel import ParallelRunner
from tasks.reproduction import collect
from tasks.studies import evaluate_variant, split_variant, study, train_variant
from tasks.training import start_weights


@flow(name="histopipe-studies", task_runner=ParallelRunner())  # type: ignore[arg-type]
def studies(names: tuple[Study, ...] = (), datasets: tuple[ListedDataset, ...] = ()) -> None:
    """Train, evaluate and summarise variants; DVC skips unchanged stages.

    Args:
        names: Some of the studies that params.yaml lists (its key studies.summaries); all of them by default.
        datasets: Some of the data sets that params.yaml lists; all of them by default.
    """
    params = read_params(Workspace.find().params)
    selected = select_studies(names, params)
    starts = {name: start_weights(name) for name in params.architectures}
    for dataset in select_names(datasets, params.datasets, "data set"):
        cases = prepare(dataset)
        for study_name in selected:
            _run_study(study_name, dataset, params, cases, starts)


def _run_study(name: Study, dataset: str, params: Params, cases: Sequence[object], starts: Mapping[str, Any]) -> None:
    """Train and evaluate the variants of one study on one data set, and summarise them."""
    listed = [variant_name(name, value) for value in params.studies.listed(name)]
    variants = [(architecture, variant) for architecture in params.architectures for variant in listed]
    splits = [split_variant(dataset, *variant, wait_for=cases, return_state=True) for variant in variants]
    runs = [
        train_variant.submit(dataset, *variant, wait_for=[divided, starts[variant[0]]])  # type: ignore[call-overload]
        for variant, divided in zip(variants, splits, strict=True)
    ]
    evaluations = [
        evaluate_variant.submit(dataset, *variant, wait_for=[run])  # type: ignore[call-overload]
        for variant, run in zip(variants, runs, strict=True)
    ]
    wait(evaluations)
    done = [
        variant for variant, evaluation in zip(variants, evaluations, strict=True) if evaluation.state.is_completed()
    ]
    collect(
        [stage_name(stage, dataset, *variant) for variant in done for stage in ("train_variant", "evaluate_variant")]
    )
    if done:
        study(dataset, name, wait_for=[allow_failure(evaluation) for evaluation in evaluations])
    for future in (*starts.values(), *splits, *runs, *evaluations):
        future.result()  # a failed task fails the flow, after the others were summarised


def select_studies(names: Sequence[Study], params: Params) -> list[Study]:
    """Return the selected studies, or all that `params.yaml` summarises where none are selected.

    Raises:
        ParamsError: `params.yaml` doesn't summarise one of them, or none at all.
    """
    summarised = params.studies.summaries
    for name in names:
        if name not in summarised:
            raise ParamsError(
                f"params.yaml: studies.summaries lacks {name}: add it, and list {name} in studies.variants"
            )
    if not summarised:
        raise ParamsError(
            "params.yaml: studies.summaries is empty: list studies, such as folds, and variants, such as fold-0"
        )
    return list(names or summarised)


@click.command()
@click.option("--folds", "names", flag_value="folds", multiple=True, help="Every fold of studies.variants.")
@click.option("--seeds", "names", flag_value="seeds", multiple=True, help="Every seed of studies.variants.")
@click.option("--schemes", "names", flag_value="schemes", multiple=True, help="Every scheme of studies.variants.")
@click.option(
    "--sizes", "names", flag_value="sizes", multiple=True, help="The learning curve: every size of studies.variants."
)
@with_datasets_option
def main(names: tuple[str, ...], datasets: tuple[str, ...]) -> None:
    """Run the variants as a Prefect flow; without a choice, all that studies.summaries lists."""
    with one_line_errors():
        params = read_params(Workspace.find().params)
        select_studies(cast("tuple[Study, ...]", names), params)
        select_names(datasets, params.datasets, "data set")
        studies(cast("tuple[Study, ...]", names), datasets)


if __name__ == "__main__":
    main()
