"""Commands that use a model: predict, monitor and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from histopipe.cli.command import (
    MICROMETRES,
    check_optional_name,
    dataset_argument,
    main,
    model_dataset_option,
    model_option,
    out_folder_option,
    overwrite_option,
    patch_pixel_size_option,
    precision_option,
    stage,
)
from histopipe.core.errors import HistopipeError

_FILE = click.Path(dir_okay=False, path_type=Path)


@main.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INPUT...")
@model_dataset_option
@model_option("Model to predict with")
@out_folder_option
@precision_option
@click.option(
    "--format",
    "table",
    type=click.Choice(["parquet", "csv"]),
    default="parquet",
    show_default=True,
    help="Format of the table of predictions.",
)
@patch_pixel_size_option
@click.option(
    "--slide-mpp",
    type=MICROMETRES,
    metavar="MICROMETRES",
    help="Pixel size of the slides at level 0, in micrometres, instead of what their files state.",
)
@click.option(
    "--overlay",
    "overlays",
    multiple=True,
    type=click.Choice(["geojson", "ome-tiff"]),
    help="Also write overlays of the slides for QuPath; can be given several times.",
)
@click.option("--pseudonymise", is_flag=True, help="Write pseudonyms in place of case ids and file names.")
@click.option(
    "--pseudonym-key",
    type=_FILE,
    metavar="FILE",
    help="File with the key of the pseudonyms.  [default: $HISTOPIPE_PSEUDONYM_KEY, or a random key]",
)
@click.option(
    "--pseudonym-table",
    type=_FILE,
    metavar="FILE",
    help="Write a table of the pseudonyms and the names they replace; keep it private.",
)
@click.option("--log", is_flag=True, help="Log the predictions to MLflow.")
@overwrite_option
def predict(
    inputs: tuple[Path, ...],
    dataset: str,
    model: str,
    out: Path,
    precision: Any,
    table: Any,
    mpp: float | None,
    slide_mpp: float | None,
    overlays: Any,
    pseudonymise: bool,
    pseudonym_key: Path | None,
    pseudonym_table: Path | None,
    log: bool,
    overwrite: bool,
) -> None:
    """Predict new patches and whole slides.

    INPUT is an image, a whole slide, an archive of images, or a folder of images and slides.
    """
    from histopipe.inference.inputs import folder_key

    with stage("predict", dataset, variant=folder_key(out)) as (params, workspace):
        from histopipe.core.outputs.claims import claim_folder, claim_path
        from histopipe.inference.mlflow_run import log_predictions
        from histopipe.inference.model import model_paths
        from histopipe.inference.pixel_size import trained_pixel_size
        from histopipe.inference.pseudonyms import choose_names
        from histopipe.inference.slide_prediction import SlideOptions
        from histopipe.inference.stage import predict as predict_patches
        from histopipe.ingest.archives.limits import MemberLimit

        key = [pseudonym_key] if pseudonym_key else []
        reads = {"the input": inputs, "the model": model_paths(model), "the key": key}
        output = claim_folder(out, "predict", reads, overwrite, workspace)
        if pseudonym_table:
            pseudonym_table = claim_path(pseudonym_table, reads, workspace)
        names = choose_names(pseudonymise, pseudonym_key, pseudonym_table, out)
        reading = SlideOptions(mpp or trained_pixel_size(dataset, params.dataset(dataset)), slide_mpp, overlays)
        summary = predict_patches(
            list(inputs),
            model,
            dataset,
            output,
            workspace,
            precision,
            table,
            reading,
            names,
            pseudonym_table,
            MemberLimit(params.ingest.max_members),
        )
        if log:
            log_predictions(dataset, summary, out, workspace)
    aside = sum(reason["count"] for reason in summary["set_aside"].values())
    click.echo(
        f"{out}: {summary['patches']:,} patches of {summary['cases']:,} cases, {summary['positive']:,} called "
        f"{summary['positive_class']}" + (f"; {aside:,} set aside" if aside else "")
    )


@main.command()
@dataset_argument
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path), metavar="[INPUT]...")
@click.option(
    "--scores",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder written by `histopipe predict`; compare its predictions instead of predicting INPUT.",
)
@click.option(
    "--model",
    metavar="MODEL",
    help="Model to compare with: champion, models:/NAME/VERSION, or a folder.  [default: champion; with --scores the "
    "model that predicted them]",
)
@out_folder_option
@click.option("--log", is_flag=True, help="Log the comparison to MLflow.")
@overwrite_option
@click.option("--exit-zero", is_flag=True, help="End with exit code 0 even if there is drift.")
@click.pass_context
def monitor(
    context: click.Context,
    dataset: str,
    inputs: tuple[Path, ...],
    scores: Path | None,
    model: str | None,
    out: Path,
    log: bool,
    overwrite: bool,
    exit_zero: bool,
) -> None:
    """Compare new patches with the reference cases of their model; exit code 1 means drift.

    INPUT is an image, a whole slide, an archive of images, or a folder of images and slides.
    """
    from histopipe.inference.inputs import folder_key

    with stage("monitor", dataset, variant=folder_key(out)) as (params, workspace):
        if bool(inputs) == bool(scores):
            raise HistopipeError("name either new patches or, with --scores, a folder of earlier predictions")
        from histopipe.core.outputs.claims import claim_folder
        from histopipe.inference.model import model_paths
        from histopipe.monitoring.mlflow_run import log_drift
        from histopipe.monitoring.stage import monitor_inputs, monitor_predictions

        reads = {"the input": inputs, "the predictions": [scores] if scores else [], "the model": model_paths(model)}
        output = claim_folder(out, "monitor", reads, overwrite, workspace)
        if scores:
            drift = monitor_predictions(dataset, scores, model, output, params, workspace)
        else:
            drift = monitor_inputs(dataset, list(inputs), model or "champion", output, params, workspace)
        if log:
            log_drift(dataset, drift, out, workspace)
    click.echo(f"{drift['said']}; see {out}")
    context.exit(1 if drift["verdict"] == "drift" and not exit_zero else 0)


@main.command()
@dataset_argument
@click.argument("architecture", required=False, callback=check_optional_name("architecture"))
@click.option(
    "--model",
    metavar="MODEL",
    help="Model to export: champion, models:/NAME/VERSION, or a folder.  [default: champion, unless ARCHITECTURE is "
    "given]",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["litert", "onnx", "openvino"]),
    required=True,
    help="Format of the exported file.",
)
@click.option(
    "--quantize",
    type=click.Choice(["none", "float16", "int8"]),
    default="none",
    show_default=True,
    help="Number type to quantize the model to; none keeps float32.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="File to write, or the folder to write it into.",
)
@click.option("--log/--no-log", default=True, show_default=True, help="Log the file to the MLflow run of its model.")
@overwrite_option
def export(
    dataset: str,
    architecture: str | None,
    model: str | None,
    kind: str,
    quantize: Any,
    out: Path,
    log: bool,
    overwrite: bool,
) -> None:
    """Export a model as one file for phones, browsers and other runtimes, and compare its predictions.

    Exports the champion, or the latest evaluated model of the recipe ARCHITECTURE.
    """
    from histopipe.inference.inputs import folder_key

    with stage("export", dataset, variant=folder_key(out)) as (params, workspace):
        from histopipe.export.report import describe_export
        from histopipe.export.stage import export

        exported = export(dataset, architecture, model, kind, quantize, out, params, workspace, log, overwrite)
        click.echo(describe_export(exported))
