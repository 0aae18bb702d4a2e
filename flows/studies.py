"""Variants of the main run: every fold, seed, scheme and size that `params.yaml` lists, and what they give together.

Run it with `python -m flows.studies --folds --seeds`; see docs/studies.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import click
from prefect import allow_failure, flow
from prefect.futures import wait

from flows.choices import ListedDataset
from flows.command import choosing_datasets, one_line_errors
from flows.pipeline import chosen, prepare
from histopipe.core.errors import ParamsError
from histopipe.core.params import Params, Study, read_params
from histopipe.core.workspace import Workspace, stage_name
from tasks.parallel import SideBySide
from tasks.reproduction import collect
from tasks.studies import study, variant
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
        for name in wanted:
            stage = name.removesuffix("s")
            variants = [(of, one) for of in params.architectures for one in getattr(params.studies, name)]
            runs = [
                variant.submit(stage, dataset, of, one, wait_for=[*cases, starts[of]])  # type: ignore[call-overload]
                for of, one in variants
            ]
            wait(runs)
            done = [variants[number] for number, run in enumerate(runs) if run.state.is_completed()]
            collect([stage_name(stage, dataset, of, str(one)) for of, one in done])
            if done:
                study(dataset, name, wait_for=[allow_failure(run) for run in runs])
            for run in (*starts.values(), *runs):
                run.result()  # what failed makes the flow fail, after the others were summed up


def asked(names: Sequence[str], params: Params) -> list[str]:
    """The studies asked for, all that `params.yaml` sums up where none is named.

    Raises:
        ParamsError: `params.yaml` doesn't sum up one of them, or none at all.
    """
    summed = params.studies.summaries
    for name in names:
        if name not in summed:
            raise ParamsError(f"params.yaml: studies.summaries lacks {name}: add it, and list the {name}")
    if not summed:
        raise ParamsError("params.yaml: studies.summaries is empty: list studies, such as folds, and their variants")
    return list(names or summed)


@click.command()
@click.option("--folds", "names", flag_value="folds", multiple=True, help="Every fold of studies.folds.")
@click.option("--seeds", "names", flag_value="seeds", multiple=True, help="Every seed of studies.seeds.")
@click.option("--schemes", "names", flag_value="schemes", multiple=True, help="Every scheme of studies.schemes.")
@click.option("--sizes", "names", flag_value="sizes", multiple=True, help="The learning curve of studies.sizes.")
@choosing_datasets
def main(names: tuple[str, ...], datasets: tuple[str, ...]) -> None:
    """Run the variants as a Prefect flow; without a choice, all that studies.summaries lists."""
    with one_line_errors():
        params = read_params(Workspace.around().params)
        asked(names, params)
        chosen(datasets, params.datasets, "data set")
        studies(cast("tuple[Study, ...]", names), datasets)


if __name__ == "__main__":
    main()
