"""Variants of the main run: every fold, seed, scheme and size that `params.yaml` lists, and what they give together.

Run it with `python -m flows.studies --folds --seeds`; see docs/studies.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import click
from prefect import allow_failure, flow
from prefect.futures import wait

from flows.choices import ListedDataset
from flows.command import choosing_datasets, one_line_errors
from flows.pipeline import chosen, prepare
from histopipe.core.errors import ParamsError
from histopipe.core.params import Params, read_params
from histopipe.core.variants import Study, variant_name
from histopipe.core.workspace import Workspace, stage_name
from tasks.parallel import SideBySide
from tasks.reproduction import collect
from tasks.studies import evaluate_variant, split_variant, study, train_variant
from tasks.training import start_weights


@flow(name="histopipe-studies", task_runner=SideBySide())  # type: ignore[arg-type]
def studies(names: tuple[Study, ...] = (), datasets: tuple[ListedDataset, ...] = ()) -> None:
    """Train, evaluate and sum up variants. Unchanged stages are skipped by DVC.

    Args:
        names: Which studies; without any, all that params.yaml sums up (its key studies.summaries).
        datasets: Which of the data sets that params.yaml lists; without any, all of them.
    """
    params = read_params(Workspace.around().params)
    wanted = asked(names, params)
    starts = {name: start_weights(name) for name in params.architectures}
    for dataset in chosen(datasets, params.datasets, "data set"):
        cases = prepare(dataset)
        for study_name in wanted:
            _run_study(study_name, dataset, params, cases, starts)


def _run_study(name: Study, dataset: str, params: Params, cases: Sequence[object], starts: Mapping[str, Any]) -> None:
    """Bring the variants of one study up to date on one data set, and sum them up."""
    listed = [variant_name(name, value) for value in params.studies.listed(name)]
    variants = [(architecture, each) for architecture in params.architectures for each in listed]
    splits = [split_variant(dataset, of, each, wait_for=cases, return_state=True) for of, each in variants]
    runs = [
        train_variant.submit(dataset, of, each, wait_for=[divided, starts[of]])  # type: ignore[call-overload]
        for (of, each), divided in zip(variants, splits, strict=True)
    ]
    scores = [
        evaluate_variant.submit(dataset, of, each, wait_for=[run])  # type: ignore[call-overload]
        for (of, each), run in zip(variants, runs, strict=True)
    ]
    wait(scores)
    done = [variant for variant, score in zip(variants, scores, strict=True) if score.state.is_completed()]
    collect([stage_name(stage, dataset, *of) for of in done for stage in ("train_variant", "evaluate_variant")])
    if done:
        study(dataset, name, wait_for=[allow_failure(score) for score in scores])
    for future in (*starts.values(), *splits, *runs, *scores):
        future.result()  # what failed makes the flow fail, after the others were summed up


def asked(names: Sequence[Study], params: Params) -> list[Study]:
    """The studies asked for, all that `params.yaml` sums up where none is named.

    Raises:
        ParamsError: `params.yaml` doesn't sum up one of them, or none at all.
    """
    summed = params.studies.summaries
    for name in names:
        if name not in summed:
            raise ParamsError(
                f"params.yaml: studies.summaries lacks {name}: add it, and list {name} in studies.variants"
            )
    if not summed:
        raise ParamsError(
            "params.yaml: studies.summaries is empty: list studies, such as folds, and variants, such as fold-0"
        )
    return list(names or summed)


@click.command()
@click.option("--folds", "names", flag_value="folds", multiple=True, help="Every fold of studies.variants.")
@click.option("--seeds", "names", flag_value="seeds", multiple=True, help="Every seed of studies.variants.")
@click.option("--schemes", "names", flag_value="schemes", multiple=True, help="Every scheme of studies.variants.")
@click.option(
    "--sizes", "names", flag_value="sizes", multiple=True, help="The learning curve: every size of studies.variants."
)
@choosing_datasets
def main(names: tuple[str, ...], datasets: tuple[str, ...]) -> None:
    """Run the variants as a Prefect flow; without a choice, all that studies.summaries lists."""
    with one_line_errors():
        params = read_params(Workspace.around().params)
        asked(cast("tuple[Study, ...]", names), params)
        chosen(datasets, params.datasets, "data set")
        studies(cast("tuple[Study, ...]", names), datasets)


if __name__ == "__main__":
    main()
