"""What a model is used for: predictions, the watch for drift, files for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from histopipe.cli.command import dataset_argument, main, named, named_if_given, overwrite_option, stage
from histopipe.core.errors import HistopipeError

if TYPE_CHECKING:
    pass


MICROMETRES = click.FloatRange(min=0, min_open=True, max=1000)


_FILE = click.Path(dir_okay=False, path_type=Path)


@main.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INPUT...")
@click.option("--dataset", default="idc", show_default=True, callback=named("data set"), help="That the model is of.")
@click.option("--model", default="champion", show_default=True, help="champion, models:/NAME/VERSION, or a folder.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The folder to write.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--format", "table", type=click.Choice(["parquet", "csv"]), default="parquet", show_default=True)
@click.option("--mpp", type=MICROMETRES, help="To a pixel of the model's patches, where the data set doesn't say.")
@click.option("--slide-mpp", type=MICROMETRES, help="To a pixel of the slides, whatever their files say.")
@click.option("--overlay", "overlays", multiple=True, type=click.Choice(["geojson", "ome-tiff"]), help="For QuPath.")
@click.option("--pseudonymise", is_flag=True, help="Write pseudonyms for names of cases and files.")
@click.option(
    "--pseudonym-key", type=_FILE, help="Its key; else $HISTOPIPE_PSEUDONYM_KEY, else one for this run alone."
)
@click.option("--pseudonym-table", type=_FILE, help="Where to write which pseudonym stands for what; keep it to you.")
@click.option("--log", is_flag=True, help="Log what came out to MLflow.")
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
    """Grade new patches and slides: image files, whole slides, folders of both, archives."""
    from histopipe.inference.inputs import folder_key

    with stage("predict", dataset, variant=folder_key(out)) as (params, workspace):
        from histopipe.core.outputs.claims import claim_folder, claim_place
        from histopipe.inference.mlflow_run import log_score
        from histopipe.inference.model import model_paths
        from histopipe.inference.pixel_size import trained_pixel_size
        from histopipe.inference.pseudonyms import names_asked
        from histopipe.inference.slide_prediction import SlideOptions
        from histopipe.inference.stage import score
        from histopipe.ingest.archives.limits import MemberLimit

        key = [pseudonym_key] if pseudonym_key else []
        reads = {"the input": inputs, "the model": model_paths(model), "the key": key}
        output = claim_folder(out, "predict", reads, overwrite, workspace)
        if pseudonym_table:
            pseudonym_table = claim_place(pseudonym_table, reads, workspace)
        names = names_asked(pseudonymise, pseudonym_key, pseudonym_table, out)
        reading = SlideOptions(mpp or trained_pixel_size(dataset, params.dataset(dataset)), slide_mpp, overlays)
        done = score(
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
            log_score(dataset, done, out, workspace)
    aside = sum(reason["count"] for reason in done["set_aside"].values())
    click.echo(
        f"{out}: {done['patches']:,} patches of {done['cases']:,} cases, {done['positive']:,} called "
        f"{done['positive_class']}" + (f"; {aside:,} set aside" if aside else "")
    )


@main.command()
@dataset_argument
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path), metavar="[INPUT]...")
@click.option(
    "--scores", type=click.Path(file_okay=False, path_type=Path), help="Instead of inputs: what predict wrote."
)
@click.option("--model", help="champion by default, of scores the one that graded; models:/NAME/VERSION, or a folder.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The folder to write.")
@click.option("--log", is_flag=True, help="Log what came out to MLflow.")
@overwrite_option
@click.option("--exit-zero", is_flag=True, help="End with 0 whatever is found; else with 1 where there is drift.")
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
    """Compare new patches with the cases that their model was made from; exit code 1 where they have drifted."""
    from histopipe.inference.inputs import folder_key

    with stage("monitor", dataset, variant=folder_key(out)) as (params, workspace):
        if bool(inputs) == bool(scores):
            raise HistopipeError("name new patches, or --scores with those graded before, and not both")
        from histopipe.core.outputs.claims import claim_folder
        from histopipe.inference.model import model_paths
        from histopipe.monitoring.mlflow_run import log_drift
        from histopipe.monitoring.stage import monitor_inputs, monitor_scores

        reads = {"the input": inputs, "the scores": [scores] if scores else [], "the model": model_paths(model)}
        output = claim_folder(out, "monitor", reads, overwrite, workspace)
        if scores:
            found = monitor_scores(dataset, scores, model, output, params, workspace)
        else:
            found = monitor_inputs(dataset, list(inputs), model or "champion", output, params, workspace)
        if log:
            log_drift(dataset, found, out, workspace)
    click.echo(f"{found['said']}; see {out}")
    context.exit(1 if found["verdict"] == "drift" and not exit_zero else 0)


@main.command()
@dataset_argument
@click.argument("architecture", required=False, callback=named_if_given("architecture"))
@click.option("--model", help="champion (default), models:/NAME/VERSION, or a folder.")
@click.option("--format", "kind", type=click.Choice(["litert", "onnx", "openvino"]), required=True)
@click.option("--quantize", type=click.Choice(["none", "float16", "int8"]), default="none", show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write, or its folder.")
@click.option("--log/--no-log", default=True, show_default=True, help="Log it to MLflow, with its model.")
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
    """Write a model as one file for phones, browsers and other runtimes, and measure what that costs."""
    from histopipe.inference.inputs import folder_key

    with stage("export", dataset, variant=folder_key(out)) as (params, workspace):
        from histopipe.export.report import said
        from histopipe.export.stage import export

        done = export(dataset, architecture, model, kind, quantize, out, params, workspace, log, overwrite)
        click.echo(said(done))
