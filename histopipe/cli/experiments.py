"""Trainings beyond the main run: variants, studies and searches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from histopipe.cli.command import architecture_argument, dataset_argument, main, named_if_given, stage, with_interval
from histopipe.core.errors import HistopipeError

if TYPE_CHECKING:
    pass


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
    """Divide the cases for a variant: fold-0, seed-1, scheme-random (what a leak is worth) or size-25."""
    with stage("split_variant", dataset, architecture, variant) as (params, workspace):
        from histopipe.experiments.studies.split_stage import split_variant

        counts = split_variant(dataset, architecture, variant, params, workspace)["split"].value_counts()
        shown = ", ".join(f"{counts.get(name, 0)} {name}" for name in ("train", "validation", "test"))
        click.echo(f"{dataset} {architecture} {variant}: {shown}")


@main.command("train_variant")
@_variant
def train_variant(dataset: str, architecture: str, variant: str) -> None:
    """Train a variant, or go on where a killed training stopped."""
    with stage("train_variant", dataset, architecture, variant) as (params, workspace):
        from histopipe.experiments.studies.train_stage import train_variant

        record = train_variant(dataset, architecture, variant, params, workspace)
        click.echo(f"{dataset} {architecture} {variant}: {record['epochs']} epochs, MLflow run {record['run_id']}")


@main.command("evaluate_variant")
@_variant
def evaluate_variant(dataset: str, architecture: str, variant: str) -> None:
    """Grade a variant on its own test cases."""
    with stage("evaluate_variant", dataset, architecture, variant) as (params, workspace):
        from histopipe.experiments.studies.evaluate_stage import evaluate_variant

        metrics = evaluate_variant(dataset, architecture, variant, params, workspace)
        auc = with_interval(metrics["test"]["roc_auc"])
        click.echo(f"{dataset} {architecture} {variant}: ROC AUC {auc} by {metrics['cases']} cases")


@main.command()
@dataset_argument
@click.argument("name", type=click.Choice(["folds", "seeds", "schemes", "sizes"]))
def study(dataset: str, name: Any) -> None:
    """Sum up the folds, seeds, schemes or sizes of every architecture."""
    with stage("study", dataset, variant=name) as (params, workspace):
        from histopipe.experiments.studies.summary import summarise_study

        summarise_study(name, dataset, params, workspace)
        click.echo((workspace.study_summary(name, dataset) / "summary.md").read_text(encoding="utf-8"))


@main.command()
@dataset_argument
@architecture_argument
@click.option("--trials", default=20, show_default=True, type=click.IntRange(min=0), help="In the study, in the end.")
@click.option("--name", callback=named_if_given("recipe"), help="Of the best trial's recipe; A_tuned by default.")
def search(dataset: str, architecture: str, trials: int, name: str | None) -> None:
    """Search a recipe's ranges: the trials still missing, one by one; then write the best as a recipe."""
    with stage("search", dataset, architecture) as (params, workspace):
        from histopipe.experiments.search.stage import search
        from histopipe.experiments.search.winner import paste_hint

        winner = search(dataset, architecture, trials, name, params, workspace)
        folder = workspace.search(dataset, architecture).relative_to(workspace.root)
        click.echo(f"{dataset} {architecture}: {paste_hint(winner, folder)}")


@main.command()
@dataset_argument
@architecture_argument
@click.option("--side", default=0, type=click.IntRange(min=0), help="Each of several side by side takes another.")
def trial(dataset: str, architecture: str, side: int) -> None:
    """Run one trial of a search: the one that a killed process left, or the next."""
    with stage("trial", dataset, architecture, str(side)) as (params, workspace):
        from histopipe.experiments.search.trial import run_trial

        outcome = run_trial(dataset, architecture, params, workspace)
        click.echo(f"{dataset} {architecture} trial {outcome.number}: {outcome.said}")
