"""The `histopipe` command: one line per stage - parse, call, say what came out."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from histopipe import __version__
from histopipe.core.errors import BusyError, HistopipeError

EXIT_UNKNOWN = 1  # of `gc`: some part of it couldn't be asked

if TYPE_CHECKING:
    from histopipe.core.params import Params
    from histopipe.core.workspace import Workspace


_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room within your quota",
    errno.EACCES: "allow yourself to read and write there",
    errno.EROFS: "use a place that can be written",
    errno.ENOENT: "restore it or correct its path",
    errno.ENOLCK: "keep the checkout on a file system that has locks",
    errno.EOPNOTSUPP: "use a file system that has locks and links",
}


class Commands(click.Group):
    """Turns errors that a user can mend into one line and an exit code."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; bad input ends with exit code 2, a busy stage with 75."""
        try:
            return super().invoke(context)
        except (HistopipeError, BusyError) as problem:
            said, busy = str(problem), isinstance(problem, BusyError)
        except OSError as problem:
            said, busy = _remedy(problem), False
            if not said:
                raise
        from histopipe.core.stages.running import (  # not above: it would load psutil for `--help`
            EXIT_BAD_INPUT,
            EXIT_BUSY,
        )

        click.echo(f"histopipe: {said}", err=True)
        return context.exit(EXIT_BUSY if busy else EXIT_BAD_INPUT)


def _remedy(problem: OSError) -> str:
    """One line for a fault of disks and paths that a user can mend; empty for any other."""
    what = problem.filename or "the disk"
    remedy = _REMEDIES.get(problem.errno or 0)
    if remedy is None or (problem.errno == errno.ENOENT and not problem.filename):
        return ""
    if problem.errno == errno.ENOSPC and _lacks_inodes(Path(problem.filename or ".")):
        remedy = "it has room but no more files may be made on it (`df -i`): remove some"
    return f"{what}: {problem.strerror}: {remedy}, then run again"


def _lacks_inodes(path: Path) -> bool:
    """Whether a file system has reached its number of files; some, such as btrfs, have none."""
    existing = next((parent for parent in (path, *path.absolute().parents) if parent.exists()), Path("/"))
    state = os.statvfs(existing)
    return state.f_files > 0 and state.f_favail == 0 and state.f_bavail > 0


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """From an archive of pathology patches to compared, served models.

    The stages are run by `dvc repro`, which knows what is out of date; each can also be run by hand.
    """
    from histopipe.core.startup_lines import drop_start_up_lines

    drop_start_up_lines()
    # read on import: TensorFlow's later remarks and warnings, MLflow's about its database's first tables
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)


@contextmanager
def _stage(
    name: str, dataset: str | None, architecture: str | None = None, variant: str | None = None
) -> Iterator[tuple[Params, Workspace]]:
    """Parameters and workspace of one stage, which runs locked and watched."""
    from histopipe.core.params import read_params
    from histopipe.core.stages.folders import require_own_folder
    from histopipe.core.stages.running import running
    from histopipe.core.workspace import Workspace, stage_name

    workspace = Workspace.around()
    with running(stage_name(name, dataset, architecture, variant), workspace) as inputs:
        params = read_params(workspace.params, inputs.params_text)
        if dataset:
            params.dataset(dataset)
        if architecture:
            params.recipe(architecture)
        require_own_folder(name, dataset, architecture, variant, workspace)
        yield params, workspace


def _named(what: str) -> Callable[[click.Context, click.Parameter, str], str]:
    """A check of an argument that becomes part of file names, made before any file is."""

    def check(context: click.Context, parameter: click.Parameter, name: str) -> str:
        from histopipe.core.params import require_name

        if not context.resilient_parsing:
            require_name(what, name)
        return name

    return check


def _named_if_given(what: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    check = _named(what)
    return lambda context, parameter, name: None if name is None else check(context, parameter, name)


def _dataset(command: Callable[..., None]) -> Callable[..., None]:
    return click.argument("dataset", callback=_named("data set"))(command)


def _architecture(command: Callable[..., None]) -> Callable[..., None]:
    return click.argument("architecture", callback=_named("architecture"))(command)


def _overwrite(command: Callable[..., None]) -> Callable[..., None]:
    text = "Replace what the same command wrote there before, unless somebody changed it or put a file there."
    return click.option("--overwrite", is_flag=True, help=text)(command)


@main.command()
@_dataset
@click.option("--cases", default=60, show_default=True, help="Slides to draw.")
@click.option("--patches", type=int, help="Patches over all cases together.  [default: 6000; of breakhis 360]")
@click.option("--seed", default=42, show_default=True)
@click.option("--nested-copy/--no-nested-copy", default=True, help="Repeat some cases in a folder, as Kaggle does.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The zip to write.")
@_overwrite
def synth(
    dataset: str, cases: int, patches: int | None, seed: int, nested_copy: bool, out: Path, overwrite: bool
) -> None:
    """Draw synthetic slides in a data set's layout, as one zip."""
    from histopipe.core.outputs.claims import claim_file
    from histopipe.core.params import SyntheticParams
    from histopipe.core.workspace import Workspace
    from histopipe.ingest.sources.synthetic import require_drawable
    from histopipe.ingest.synthetic import SyntheticSlides, is_drawn, write_archive

    require_drawable(dataset)
    claim = partial(claim_file, out, "synth", {}, overwrite, Workspace.if_around(), is_drawn)
    path = claim()
    patches = SyntheticParams().patches_of(dataset) if patches is None else patches
    drawn = SyntheticSlides(cases, patches, nested_copy, seed, dataset)
    counts = write_archive(path, drawn, signed=True, check=claim)
    click.echo(f"{out}: " + ", ".join(f"{value:,} {name}" for name, value in counts.items()))


@main.command()
@_dataset
def locate(dataset: str) -> None:
    """Find the source and write its fingerprint."""
    with _stage("locate", dataset) as (params, workspace):
        from histopipe.ingest.sources import locate

        record = locate(dataset, params, workspace)
        click.echo(f"{dataset}: {record.kind}, {record.resolved}")


@main.command()
@_dataset
def fetch(dataset: str) -> None:
    """Bring the archive into data/raw, whole."""
    with _stage("fetch", dataset) as (params, workspace):
        from histopipe.ingest.sources import fetch

        click.echo(f"{dataset}: {fetch(dataset, params, workspace)}")


@main.command()
@_dataset
@click.option("--part", metavar="K/N", help="Only decode the K-th of N parts, for an ingest here or elsewhere.")
def ingest(dataset: str, part: str | None) -> None:
    """Pack the archive's patches into the store."""
    if part is not None:
        _ingest_part(dataset, part)
        return
    with _stage("ingest", dataset) as (params, workspace):
        from histopipe.ingest.stage import ingest

        report = ingest(dataset, params, workspace)
        click.echo(
            f"{dataset}: {report['patches']:,} patches of {report['cases']} cases, {report['positive']:,} positive, "
            f"{report['undersized']} undersized, {report['second_copies']} second copies, {report['bad']} unusable"
        )


def _ingest_part(dataset: str, written: str) -> None:
    from histopipe.ingest.parts import Part

    part = Part.parse(written)
    with _stage("ingest", dataset, variant=str(part)) as (params, workspace):
        from histopipe.ingest.stage import ingest_part

        click.echo(ingest_part(dataset, part, params, workspace).relative_to(workspace.root))


@main.command()
@_dataset
@click.option("--diff", metavar="REV", help="Only show which cases moved since a git revision.")
def split(dataset: str, diff: str | None) -> None:
    """Divide the cases into train, validation and test."""
    from histopipe.core.workspace import Workspace

    if diff:
        from histopipe.data.splitting.difference import moved_cases

        click.echo(moved_cases(dataset, diff, Workspace.around()))
        return
    with _stage("split", dataset) as (params, workspace):
        from histopipe.data.splitting import split

        click.echo(split(dataset, params, workspace).to_string())


@main.command()
@_architecture
@click.option("--force", is_flag=True, help="Also what was looked up before: an alias, published weights.")
def weights(architecture: str, force: bool) -> None:
    """Bring the weights that an architecture's recipe starts from into data/weights."""
    with _stage("weights", None, architecture) as (params, workspace):
        from histopipe.networks.weights import fetch_weights

        found = fetch_weights(architecture, params, workspace, anew=force)
        click.echo(", ".join([f"{architecture}: {found.asked}", *found.shown]))


@main.command()
@_dataset
@_architecture
def train(dataset: str, architecture: str) -> None:
    """Train one architecture, or go on where a killed training stopped."""
    with _stage("train", dataset, architecture) as (params, workspace):
        from histopipe.training import train

        record = train(dataset, architecture, params, workspace)
        click.echo(f"{dataset} {architecture}: {record['epochs']} epochs, MLflow run {record['run_id']}")


@main.command()
@_dataset
@_architecture
def evaluate(dataset: str, architecture: str) -> None:
    """Grade a model on the test split, at the threshold that validation chose."""
    with _stage("evaluate", dataset, architecture) as (params, workspace):
        from histopipe.core.workers import available_cores
        from histopipe.evaluation.stage import evaluate

        metrics = evaluate(dataset, architecture, params, workspace, processes=available_cores())
        auc = metrics["test"]["roc_auc"]
        click.echo(f"{dataset} {architecture}: ROC AUC {_with_interval(auc)} by {metrics['cases']} cases")
        for caution in metrics["cautions"]:
            click.echo(f"intervals may be too narrow: {caution}", err=True)


def _variant(command: Callable[..., None]) -> Callable[..., None]:
    def check(context: click.Context, parameter: click.Parameter, name: str) -> str:
        from histopipe.core.variants import parse_variant

        if not context.resilient_parsing:
            try:
                parse_variant(name)
            except ValueError as problem:
                raise HistopipeError(str(problem)) from None
        return name

    return _dataset(_architecture(click.argument("variant", callback=check)(command)))


@main.command("split_variant")
@_variant
def split_variant(dataset: str, architecture: str, variant: str) -> None:
    """Divide the cases for a variant: fold-0, seed-1, scheme-random (what a leak is worth) or size-25."""
    with _stage("split_variant", dataset, architecture, variant) as (params, workspace):
        from histopipe.experiments.studies.split_stage import split_variant

        counts = split_variant(dataset, architecture, variant, params, workspace)["split"].value_counts()
        shown = ", ".join(f"{counts.get(name, 0)} {name}" for name in ("train", "validation", "test"))
        click.echo(f"{dataset} {architecture} {variant}: {shown}")


@main.command("train_variant")
@_variant
def train_variant(dataset: str, architecture: str, variant: str) -> None:
    """Train a variant, or go on where a killed training stopped."""
    with _stage("train_variant", dataset, architecture, variant) as (params, workspace):
        from histopipe.experiments.studies.train_stage import train_variant

        record = train_variant(dataset, architecture, variant, params, workspace)
        click.echo(f"{dataset} {architecture} {variant}: {record['epochs']} epochs, MLflow run {record['run_id']}")


@main.command("evaluate_variant")
@_variant
def evaluate_variant(dataset: str, architecture: str, variant: str) -> None:
    """Grade a variant on its own test cases."""
    with _stage("evaluate_variant", dataset, architecture, variant) as (params, workspace):
        from histopipe.experiments.studies.evaluate_stage import evaluate_variant

        metrics = evaluate_variant(dataset, architecture, variant, params, workspace)
        auc = _with_interval(metrics["test"]["roc_auc"])
        click.echo(f"{dataset} {architecture} {variant}: ROC AUC {auc} by {metrics['cases']} cases")


@main.command()
@_dataset
@click.argument("name", type=click.Choice(["folds", "seeds", "schemes", "sizes"]))
def study(dataset: str, name: Any) -> None:
    """Sum up the folds, seeds, schemes or sizes of every architecture."""
    with _stage("study", dataset, variant=name) as (params, workspace):
        from histopipe.experiments.studies.summary import summarise_study

        summarise_study(name, dataset, params, workspace)
        click.echo((workspace.study_summary(name, dataset) / "summary.md").read_text(encoding="utf-8"))


@main.command()
@_dataset
@_architecture
@click.option("--trials", default=20, show_default=True, type=click.IntRange(min=0), help="In the study, in the end.")
@click.option("--name", callback=_named_if_given("recipe"), help="Of the best trial's recipe; A_tuned by default.")
def search(dataset: str, architecture: str, trials: int, name: str | None) -> None:
    """Search a recipe's ranges: the trials still missing, one by one; then write the best as a recipe."""
    with _stage("search", dataset, architecture) as (params, workspace):
        from histopipe.experiments.search.stage import search
        from histopipe.experiments.search.winner import paste_hint

        winner = search(dataset, architecture, trials, name, params, workspace)
        folder = workspace.search(dataset, architecture).relative_to(workspace.root)
        click.echo(f"{dataset} {architecture}: {paste_hint(winner, folder)}")


@main.command()
@_dataset
@_architecture
@click.option("--side", default=0, type=click.IntRange(min=0), help="Each of several side by side takes another.")
def trial(dataset: str, architecture: str, side: int) -> None:
    """Run one trial of a search: the one that a killed process left, or the next."""
    with _stage("trial", dataset, architecture, str(side)) as (params, workspace):
        from histopipe.experiments.search.trial import run_trial

        outcome = run_trial(dataset, architecture, params, workspace)
        click.echo(f"{dataset} {architecture} trial {outcome.number}: {outcome.said}")


def _with_interval(metric: dict[str, float | None]) -> str:
    shown = {name: "n/a" if value is None else f"{value:.3f}" for name, value in metric.items()}
    return f"{shown['value']} [{shown['low']}, {shown['high']}]"


@main.command()
@_dataset
def compare(dataset: str) -> None:
    """Rank the evaluated architectures."""
    with _stage("compare", dataset) as (params, workspace):
        from histopipe.reporting.stage import compare

        compare(dataset, params, workspace)
        click.echo((workspace.report(dataset) / "comparison.md").read_text(encoding="utf-8"))


@main.command()
@_dataset
@click.option("--again", is_flag=True, help="Also what was rolled back before.")
@click.option(
    "--replace",
    type=click.IntRange(1),
    metavar="VERSION",
    help="The champion's number, to replace it though it is of other data, was trained in full, or lost its files.",
)
@click.option("--move-anchor", is_flag=True, help="First let the champion be what further ones are held against.")
def promote(dataset: str, again: bool, replace: int | None, move_anchor: bool) -> None:
    """Make the best model by validation champion, if it passes every gate on test."""
    with _stage("promote", dataset) as (params, workspace):
        from histopipe.promotion import held_back, promote

        named = None if replace is None else str(replace)
        said = held_back(dataset, workspace) or promote(dataset, params, workspace, again, named, move_anchor)
        click.echo(f"{dataset}: {said}")


@main.command()
@_dataset
def rollback(dataset: str) -> None:
    """Make the champion before the present one champion again."""
    with _stage("rollback", dataset) as (_, workspace):
        from histopipe.promotion import rollback
        from histopipe.promotion.summary import anchor_line

        taken_back, champion = rollback(dataset, workspace)
        click.echo(
            f"{dataset}: version {champion} is champion again; version {taken_back} returns with "
            f"`histopipe promote {dataset} --again`; {anchor_line(dataset, workspace)}"
        )


_MICROMETRES = click.FloatRange(min=0, min_open=True, max=1000)
_FILE = click.Path(dir_okay=False, path_type=Path)


@main.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INPUT...")
@click.option("--dataset", default="idc", show_default=True, callback=_named("data set"), help="That the model is of.")
@click.option("--model", default="champion", show_default=True, help="champion, models:/NAME/VERSION, or a folder.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The folder to write.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--format", "table", type=click.Choice(["parquet", "csv"]), default="parquet", show_default=True)
@click.option("--mpp", type=_MICROMETRES, help="To a pixel of the model's patches, where the data set doesn't say.")
@click.option("--slide-mpp", type=_MICROMETRES, help="To a pixel of the slides, whatever their files say.")
@click.option("--overlay", "overlays", multiple=True, type=click.Choice(["geojson", "ome-tiff"]), help="For QuPath.")
@click.option("--pseudonymise", is_flag=True, help="Write pseudonyms for names of cases and files.")
@click.option(
    "--pseudonym-key", type=_FILE, help="Its key; else $HISTOPIPE_PSEUDONYM_KEY, else one for this run alone."
)
@click.option("--pseudonym-table", type=_FILE, help="Where to write which pseudonym stands for what; keep it to you.")
@click.option("--log", is_flag=True, help="Log what came out to MLflow.")
@_overwrite
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

    with _stage("predict", dataset, variant=folder_key(out)) as (params, workspace):
        from histopipe.core.outputs.claims import claim_folder, claim_place
        from histopipe.inference import score
        from histopipe.inference.mlflow_run import log_score
        from histopipe.inference.model import model_paths
        from histopipe.inference.pixel_size import trained_pixel_size
        from histopipe.inference.pseudonyms import names_asked
        from histopipe.inference.slide_prediction import SlideOptions
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


def _limits(command: Callable[..., None]) -> Callable[..., None]:
    """Options of `serve` that bound what clients may ask for; defaults are those of `histopipe.service.limits`."""
    mebibyte = 2**20

    def in_bytes(_: click.Context, __: click.Parameter, value: float) -> int:
        return int(value * mebibyte)

    def option(
        name: str, default: float, least: float, text: str, most: int | None = None, **more: Any
    ) -> Callable[..., Any]:
        kind = click.IntRange(int(least), most) if isinstance(default, int) else click.FloatRange(least)
        return click.option(f"--max-{name}", default=default, show_default=True, type=kind, help=text, **more)

    options = (
        option("images", 64, 1, "Images of one request."),
        option("pixels", 4_000_000, 1, "Of one image.", most=4_000_000),
        option("body", 32.0, 0, "MiB of a request with images.", callback=in_bytes),
        option("upload", 4096.0, 0, "MiB of a slide or archive.", callback=in_bytes),
        option("members", 1_000_000, 1, "Files, folders and links in an archive."),
        option("seconds", 20.0, 0.1, "For headers; for a body; between pieces of an upload or an answer."),
        option("upload-seconds", 3600.0, 0.1, "For an upload."),
        option("wait", 1.0, 0.01, "Seconds that patches may wait; beyond that, 429."),
        option("queue", 1024, 1, "Patches that may wait."),
        option("requests", 64, 1, "Requests graded at the same time; beyond that, 429."),
        option("memory", 512.0, 1, "MiB of bodies and answers at the same time; else 429.", callback=in_bytes),
        option("jobs", 8, 1, "Slides and archives under way."),
        option("job-seconds", 3600.0, 0.1, "For one of them."),
        click.option(
            "--keep", default=3600.0, show_default=True, type=click.FloatRange(0), help="Seconds, of results."
        ),
    )
    for one in reversed(options):
        command = one(command)
    return command


@main.command()
@click.option("--dataset", default="idc", show_default=True, callback=_named("data set"), help="That the model is of.")
@click.option("--model", default="champion", show_default=True, help="champion, models:/NAME/VERSION, or a folder.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is everywhere.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option("--no-token", is_flag=True, help="Let other machines ask without a token ($HISTOPIPE_TOKEN).")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--mpp", type=_MICROMETRES, help="To a pixel of the model's patches, where the data set doesn't say.")
@click.option(
    "--poll", default=5.0, show_default=True, type=click.FloatRange(0), help="Seconds between looks at an alias."
)
@_limits
def serve(
    dataset: str,
    model: str,
    host: str,
    port: int,
    no_token: bool,
    precision: Any,
    mpp: float | None,
    poll: float,
    **limits: Any,
) -> None:
    """Serve a model: a REST API, and a page at /."""
    from histopipe.core.params import read_params
    from histopipe.core.workspace import Workspace
    from histopipe.service.limits import Limits
    from histopipe.service.models import Asked
    from histopipe.service.server import Place, serve

    workspace = Workspace.around()
    read_params(workspace.params).dataset(dataset)
    limits = {name.removeprefix("max_"): value for name, value in limits.items()}
    serve(Asked(model, dataset, workspace, precision, mpp), Place(host, port, no_token), Limits(**limits), poll)


@main.command()
@_dataset
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path), metavar="[INPUT]...")
@click.option(
    "--scores", type=click.Path(file_okay=False, path_type=Path), help="Instead of inputs: what predict wrote."
)
@click.option("--model", help="champion by default, of scores the one that graded; models:/NAME/VERSION, or a folder.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The folder to write.")
@click.option("--log", is_flag=True, help="Log what came out to MLflow.")
@_overwrite
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

    with _stage("monitor", dataset, variant=folder_key(out)) as (params, workspace):
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
@_dataset
@click.argument("architecture", required=False, callback=_named_if_given("architecture"))
@click.option("--model", help="champion (default), models:/NAME/VERSION, or a folder.")
@click.option("--format", "kind", type=click.Choice(["litert", "onnx", "openvino"]), required=True)
@click.option("--quantize", type=click.Choice(["none", "float16", "int8"]), default="none", show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write, or its folder.")
@click.option("--log/--no-log", default=True, show_default=True, help="Log it to MLflow, with its model.")
@_overwrite
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

    with _stage("export", dataset, variant=folder_key(out)) as (params, workspace):
        from histopipe.export.report import said
        from histopipe.export.stage import export

        done = export(dataset, architecture, model, kind, quantize, out, params, workspace, log, overwrite)
        click.echo(said(done))


@main.command()
@click.option("--mend", is_flag=True, help="Replace damaged outputs by sound copies of them, then look.")
@click.pass_context
def doctor(context: click.Context, mend: bool) -> None:
    """Check machine, packages, servers, disk and data; exit code 1 with warnings, 2 with errors.

    Every output on record and DVC's copy of it is read: seconds for each gigabyte.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from histopipe.core.workspace import Workspace
    from histopipe.operations.doctor import examine, severity

    if mend:
        _mend(Workspace.around())
    console = Console()
    colours = {"ok": "green", "warning": "yellow", "error": "bold red"}
    table = Table("", "", "found", "remedy", box=box.SIMPLE_HEAD, pad_edge=False)
    findings = []
    with console.status("looking"):
        for finding in examine(Workspace.around()):
            findings.append(finding)
            table.add_row(
                f"[{colours[finding.state]}]{finding.state}", finding.what, *map(escape, (finding.said, finding.remedy))
            )
    console.print(table)
    context.exit(severity(findings))


def _mend(workspace: Workspace) -> None:
    """Bring damaged outputs back, and say which."""
    from histopipe.operations.doctor import mend

    mending = mend(workspace)
    for path in mending.mended:
        click.echo(f"mended {path}")
    for file in mending.lost:
        click.echo(f"no sound copy of {file.path} anywhere: `dvc repro {file.maker}` makes it anew")
    if not mending.mended and not mending.lost:
        click.echo("no output is damaged")


@main.command()
@click.option("--force", "-f", is_flag=True, help="Remove it; without, only say what would be removed.")
@click.option(
    "--older-than", default="7d", show_default=True, metavar="AGE", help="Unchanged for so long: 90s, 30m, 12h, 7d, 2w."
)
@click.option("--only", multiple=True, type=click.Choice(["mlflow", "dvc", "checkpoints", "files"]), help="Repeatable.")
@click.option("--cloud", is_flag=True, help="DVC's remote too, which other clones may use.")
def gc(force: bool, older_than: str, only: tuple[Any, ...], cloud: bool) -> None:
    """Find what no commit, registered model or running flow refers to, and with --force remove it."""
    from contextlib import nullcontext

    from histopipe.core.workspace import Workspace
    from histopipe.operations.gc import activity, collect, removing
    from histopipe.operations.gc.table import show

    workspace = Workspace.around()
    with removing(workspace) if force else nullcontext() as remove:
        found = show(collect(workspace, older_than, only, cloud), remove)
    if not force and any(one.removal for one in found):
        click.echo("nothing was removed: `histopipe gc --force` removes it")
        if works := activity(workspace):
            click.echo(f"not now, though: {works[0]} works here")
    if any(one.state == "unknown" for one in found):
        sys.exit(EXIT_UNKNOWN)


if __name__ == "__main__":
    main()
