"""Batch prediction of new patches and whole slides, in files, folders or archives, by the champion.

Run it with `python -m flows.score idc /data/new-slides.zip /data/slides --pseudonymise`.
"""

from __future__ import annotations

from typing import cast, get_args

import click
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.choices import AnyDataset
from flows.command import one_line_errors, report_end
from histopipe.core.params import require_name
from histopipe.core.workspace import Workspace
from histopipe.inference.overlays import Overlay
from tasks.prediction import predict
from tasks.reproduction import may_overwrite


@flow(name="score")
def score(
    dataset: AnyDataset,
    inputs: list[str],
    model: str = "champion",
    out: str = "",
    overlays: tuple[Overlay, ...] = (),
    pseudonymise: bool = False,
    overwrite: bool = True,
) -> State[None]:
    """Predict new patches and slides; write tables, maps and a summary, log them to MLflow and show them as artifacts.

    Args:
        dataset: The data set whose champion predicts.
        inputs: Paths of image files, slides, folders of them or archives, as the worker's machine sees them.
        model: champion, or another registered model such as models:/histopipe-idc/3.
        out: The folder to write, in the worker's checkout; scores/ and the name of this run by default.
        overlays: The overlays of slides to write for QuPath.
        pseudonymise: Write pseudonyms for names of cases and files; the paths of inputs stay in Prefect's record.
        overwrite: Whether earlier predictions in that folder are replaced, as a schedule needs it; other files never
            are.
    """
    options = [part for overlay in overlays for part in ("--overlay", overlay)]
    options += ["--pseudonymise"] if pseudonymise else []
    out = out or f"scores/{flow_run.name}"
    options += ["--overwrite"] if may_overwrite(out, overwrite) else []
    folder = predict(dataset, inputs, model, out, options)
    return Completed(message=f"Predictions are in {folder}.")


@click.command()
@click.argument("dataset")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--model", default="champion", show_default=True)
@click.option("--out", default="", help="The folder to write; scores/NAME by default.")
@click.option(
    "--overlay",
    "overlays",
    multiple=True,
    type=click.Choice(get_args(Overlay)),
    help="Overlay of slides for QuPath; repeat for several.",
)
@click.option("--pseudonymise", is_flag=True, help="Write pseudonyms for names of cases and files.")
@click.option("--overwrite", is_flag=True, help="Replace earlier predictions in that folder, unless they were changed.")
def main(
    dataset: str,
    inputs: tuple[str, ...],
    model: str,
    out: str,
    overlays: tuple[str, ...],
    pseudonymise: bool,
    overwrite: bool,
) -> None:
    """Predict new patches and slides as a Prefect flow."""
    with one_line_errors():
        require_name("data set", dataset)
        Workspace.find()
        chosen = cast("tuple[Overlay, ...]", overlays)
        report_end(score(dataset, list(inputs), model, out, chosen, pseudonymise, overwrite, return_state=True))


if __name__ == "__main__":
    main()
