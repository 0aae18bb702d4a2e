"""Commands that run one stage each: parse the arguments, call the stage, print its result."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from histopipe.cli.command import (
    architecture_argument,
    dataset_argument,
    format_with_interval,
    main,
    overwrite_option,
    stage,
)


@main.command()
@dataset_argument
@click.option(
    "--cases", default=60, show_default=True, metavar="N", help="Number of synthetic cases, one slide per case."
)
@click.option(
    "--patches",
    type=int,
    metavar="N",
    help="Total number of patches, without the second copies of --nested-copy.  [default: 6000; breakhis: 360]",
)
@click.option(
    "--seed", default=42, show_default=True, metavar="N", help="Random seed; the same seed gives the same archive."
)
@click.option(
    "--nested-copy/--no-nested-copy",
    default=True,
    show_default=True,
    help="Repeat some cases in a subfolder, as Kaggle's archive does.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="FILE", help="Zip file to write."
)
@overwrite_option
def synth(
    dataset: str, cases: int, patches: int | None, seed: int, nested_copy: bool, out: Path, overwrite: bool
) -> None:
    """Generate synthetic slides as a zip archive in the layout of a data set."""
    from histopipe.core.outputs.claims import claim_file
    from histopipe.core.params import SyntheticParams
    from histopipe.core.workspace import Workspace
    from histopipe.ingest.sources.synthetic import require_drawable
    from histopipe.ingest.synthetic.archive import is_synthetic_archive, write_archive
    from histopipe.ingest.synthetic.plan import SyntheticSlides

    require_drawable(dataset)
    claim = partial(claim_file, out, "synth", {}, overwrite, Workspace.find_or_none(), is_synthetic_archive)
    path = claim()
    patches = SyntheticParams().patches_of(dataset) if patches is None else patches
    drawn = SyntheticSlides(cases, patches, nested_copy, seed, dataset)
    counts = write_archive(path, drawn, signed=True, check=claim)
    click.echo(f"{out}: " + ", ".join(f"{value:,} {name}" for name, value in counts.items()))


@main.command()
@dataset_argument
def locate(dataset: str) -> None:
    """Find the data set's source and record its fingerprint."""
    with stage("locate", dataset) as (params, workspace):
        from histopipe.core.stages.earlier import upgrade_note
        from histopipe.ingest.sources.stage import locate

        record = locate(dataset, params, workspace)
        click.echo(f"{dataset}: {record.kind}, {record.resolved}")
        if note := upgrade_note(dataset, workspace):
            click.echo(note)


@main.command()
@dataset_argument
def fetch(dataset: str) -> None:
    """Download or copy the archive into data/raw."""
    with stage("fetch", dataset) as (params, workspace):
        from histopipe.ingest.sources.stage import fetch

        click.echo(f"{dataset}: {fetch(dataset, params, workspace)}")


@main.command()
@dataset_argument
@click.option(
    "--part",
    metavar="K/N",
    help="Decode only part K of N parts of the archive, such as 2/4; a later ingest joins the parts.",
)
@click.option("--missing-parts", metavar="N", type=int, hidden=True, help="List at most N parts not yet decoded here.")
def ingest(dataset: str, part: str | None, missing_parts: int | None) -> None:
    """Pack the archive's patches into the store."""
    if part is not None:
        _ingest_part(dataset, part)
        return
    if missing_parts is not None:  # used by flows before they start workers
        _list_missing_parts(dataset, missing_parts)
        return
    with stage("ingest", dataset) as (params, workspace):
        from histopipe.ingest.stage import ingest

        report = ingest(dataset, params, workspace)
        click.echo(
            f"{dataset}: {report['patches']:,} patches of {report['cases']} cases, {report['positive']:,} positive, "
            f"{report['undersized']} undersized, {report['second_copies']} second copies, {report['bad']} unusable"
        )


def _ingest_part(dataset: str, text: str) -> None:
    from histopipe.ingest.parts import Part

    part = Part.parse(text)
    with stage("ingest", dataset, variant=str(part)) as (params, workspace):
        from histopipe.ingest.stage import ingest_part

        click.echo(ingest_part(dataset, part, params, workspace).relative_to(workspace.root))


def _list_missing_parts(dataset: str, limit: int) -> None:
    from histopipe.core.params import read_params
    from histopipe.core.workspace import Workspace
    from histopipe.ingest.stage import get_parts_folder, list_missing_parts

    workspace = Workspace.find()
    params = read_params(workspace.params)
    if parts := list_missing_parts(dataset, limit, params.flow.part_shards, params, workspace):
        folder = get_parts_folder(dataset, params, workspace).relative_to(workspace.root)
        for part in parts:
            click.echo(f"{part.number}/{part.of} {folder / str(part)}")


@main.command()
@dataset_argument
@click.option("--diff", metavar="REV", help="Only print which cases have changed their split since a git revision.")
def split(dataset: str, diff: str | None) -> None:
    """Split the cases into train, validation and test."""
    from histopipe.core.workspace import Workspace

    if diff:
        from histopipe.data.splitting.difference import moved_cases

        click.echo(moved_cases(dataset, diff, Workspace.find()))
        return
    with stage("split", dataset) as (params, workspace):
        from histopipe.data.splitting.stage import split

        click.echo(split(dataset, params, workspace).to_string())


@main.command()
@architecture_argument
@click.option("--force", is_flag=True, help="Look up aliases and published weights again.")
def weights(architecture: str, force: bool) -> None:
    """Download or copy the weights that a recipe starts from into data/weights."""
    with stage("weights", None, architecture) as (params, workspace):
        from histopipe.networks.weights.stage import fetch_weights

        pretrained = fetch_weights(architecture, params, workspace, refresh=force)
        click.echo(", ".join([f"{architecture}: {pretrained.choice}", *pretrained.shown]))


@main.command()
@dataset_argument
@architecture_argument
def train(dataset: str, architecture: str) -> None:
    """Train the model of one recipe, or resume its training after a kill."""
    with stage("train", dataset, architecture) as (params, workspace):
        from histopipe.training.stage import train

        record = train(dataset, architecture, params, workspace)
        click.echo(f"{dataset} {architecture}: {record['epochs']} epochs, MLflow run {record['run_id']}")


@main.command()
@dataset_argument
@architecture_argument
def evaluate(dataset: str, architecture: str) -> None:
    """Evaluate a trained model on the test split, at the threshold chosen on validation."""
    with stage("evaluate", dataset, architecture) as (params, workspace):
        from histopipe.core.processes import available_cores
        from histopipe.evaluation.stage import evaluate

        metrics = evaluate(dataset, architecture, params, workspace, processes=available_cores())
        auc = metrics["test"]["roc_auc"]
        click.echo(f"{dataset} {architecture}: ROC AUC {format_with_interval(auc)} from {metrics['cases']} cases")
        for caution in metrics["cautions"]:
            click.echo(f"intervals may be too narrow: {caution}", err=True)


@main.command()
@dataset_argument
def compare(dataset: str) -> None:
    """Compare and rank the evaluated models of a data set."""
    with stage("compare", dataset) as (params, workspace):
        from histopipe.reporting.stage import compare

        compare(dataset, params, workspace)
        click.echo((workspace.report(dataset) / "comparison.md").read_text(encoding="utf-8"))


@main.command()
@dataset_argument
@click.option("--again", is_flag=True, help="Allow a model that was rolled back to become champion again.")
@click.option(
    "--replace",
    type=click.IntRange(1),
    metavar="VERSION",
    help="Number of the present champion, which may then be replaced even if its data differ, its files are gone, or "
    "only the candidate was trained under `quick`.",
)
@click.option(
    "--move-anchor",
    is_flag=True,
    help="First make the present champion the anchor, whose ROC AUC no later champion may fall short of by more than "
    "promotion.total_margin.",
)
def promote(dataset: str, again: bool, replace: int | None, move_anchor: bool) -> None:
    """Make the model that is best on validation the champion, if it passes every gate on test."""
    with stage("promote", dataset) as (params, workspace):
        from histopipe.promotion.stage import promote, why_not_promoted

        named = None if replace is None else str(replace)
        outcome = why_not_promoted(dataset, workspace) or promote(dataset, params, workspace, again, named, move_anchor)
        click.echo(f"{dataset}: {outcome}")


@main.command()
@dataset_argument
def rollback(dataset: str) -> None:
    """Make the previous champion the champion again."""
    with stage("rollback", dataset) as (_, workspace):
        from histopipe.promotion.stage import rollback
        from histopipe.promotion.summary import describe_anchor

        withdrawn, champion = rollback(dataset, workspace)
        click.echo(
            f"{dataset}: version {champion} is champion again; version {withdrawn} returns with "
            f"`histopipe promote {dataset} --again`; {describe_anchor(dataset, workspace)}"
        )
