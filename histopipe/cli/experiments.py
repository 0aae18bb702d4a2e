"""Commands for training beyond the main run: variants, studies and searches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from histopipe.cli.command import (
    architecture_argument,
    check_optional_name,
    dataset_argument,
    format_with_interval,
    main,
    stage,
)
from histopipe.core.errors import HistopipeError


def _variant(command: Callable[..., None]) -> Callable[..., None]:
    def check(context: click.Context, parameter: click.Parameter, name: str) -> str:
        from histopipe.core.variants import parse_variant

        if not context.resilient_parsing:
            try:
                parse_variant(name)
            except ValueError as problem:
                raise HistopipeError(str(problem)) from None
        return name

    return dataset_argument(architecture_argument(click.argument("variant", callback=check)(command)))


@main.command("split_variant")
@_variant
def split_variant(dataset: str, architecture: str, variant: str) -> None:
    """Split the cases for a variant, such as fold-0, seed-1, scheme-random or size-25."""
    with stage("split_variant", dataset, architecture, variant) as (params, workspace):
        from histopipe.experiments.studies.split_stage import split_variant

        counts = split_variant(dataset, architecture, variant, params, workspace)["split"].value_counts()
        shown = ", ".join(f"{counts.get(name, 0)} {name}" for name in ("train", "validation", "test"))
        click.echo(f"{dataset} {architecture} {variant}: {shown}")


@main.command("train_variant")
@_variant
def train_variant(dataset: str, architecture: str, variant: str) -> None:
    """Train a variant, or resume its training after a kill."""
    with stage("train_variant", dataset, architecture, variant) as (params, workspace):
        from histopipe.experiments.studies.train_stage import train_variant

        record = train_variant(dataset, architecture, variant, params, workspace)
        click.echo(f"{dataset} {architecture} {variant}: {record['epochs']} epochs, MLflow run {record['run_id']}")


@main.command("evaluate_variant")
@_variant
def evaluate_variant(dataset: str, architecture: str, variant: str) -> None:
    """Evaluate a variant on its own test cases."""
    with stage("evaluate_variant", dataset, architecture, variant) as (params, workspace):
        from histopipe.experiments.studies.evaluate_stage import evaluate_variant

        metrics = evaluate_variant(dataset, architecture, variant, params, workspace)
        auc = format_with_interval(metrics["test"]["roc_auc"])
        click.echo(f"{dataset} {architecture} {variant}: ROC AUC {auc} from {metrics['cases']} cases")


@main.command()
@dataset_argument
@click.argument("name", type=click.Choice(["folds", "seeds", "schemes", "sizes"]))
def study(dataset: str, name: Any) -> None:
    """Summarise a study (folds, seeds, schemes or sizes) over all recipes."""
    with stage("study", dataset, variant=name) as (params, workspace):
        from histopipe.experiments.studies.summary import summarise_study

        summarise_study(name, dataset, params, workspace)
        click.echo((workspace.study_summary(name, dataset) / "summary.md").read_text(encoding="utf-8"))


@main.command()
@dataset_argument
@architecture_argument
@click.option(
    "--trials",
    default=20,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Total number of trials of this search, earlier ones included.",
)
@click.option(
    "--name",
    callback=check_optional_name("recipe"),
    metavar="RECIPE",
    help="Name of the recipe made from the best trial.  [default: ARCHITECTURE_tuned]",
)
def search(dataset: str, architecture: str, trials: int, name: str | None) -> None:
    """Search hyper-parameters of a recipe and write the best trial as a new recipe.

    Runs the missing trials one after the other, until there are --trials of them.
    """
    with stage("search", dataset, architecture) as (params, workspace):
        from histopipe.experiments.search.stage import search
        from histopipe.experiments.search.winner import paste_hint

        winner = search(dataset, architecture, trials, name, params, workspace)
        folder = workspace.search(dataset, architecture).relative_to(workspace.root)
        click.echo(f"{dataset} {architecture}: {paste_hint(winner, folder)}")


@main.command()
@dataset_argument
@architecture_argument
@click.option(
    "--side",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Number of this process; give trials that run in parallel different numbers.",
)
def trial(dataset: str, architecture: str, side: int) -> None:
    """Run one trial of a search: the one that a killed process left unfinished, or the next."""
    with stage("trial", dataset, architecture, str(side)) as (params, workspace):
        from histopipe.experiments.search.trial import run_trial

        outcome = run_trial(dataset, architecture, params, workspace)
        click.echo(f"{dataset} {architecture} trial {outcome.number}: {outcome.text}")
