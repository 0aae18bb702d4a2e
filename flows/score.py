"""Batch prediction: new patches and whole slides, in files, folders or archives, graded by the champion.

python -m flows.score idc /data/new-slides.zip /data/slides --pseudonymise
"""

from __future__ import annotations

from typing import cast, get_args

import click
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.choices import AnyDataset
from flows.command import one_line_errors, tell
from histopipe.core.params import require_name
from histopipe.core.workspace import Workspace
from histopipe.inference.overlays import Overlay
from tasks.reproduction import may_overwrite
from tasks.scoring import predict


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
    """Grade new patches and slides; tables, maps and a summary are written, logged to MLflow and shown as artifacts.

    Args:
        dataset: The data set whose champion grades.
        inputs: Paths of image files, slides, folders of them or archives, as the worker's machine sees them.
        model: champion, or another registered model such as models:/histopipe-idc/3.
        out: The folder to write, in the worker's checkout; without one, scores/ and the name of this run.
        overlays: What to write over slides for QuPath.
        pseudonymise: Write pseudonyms for names of cases and files; the paths of inputs stay in Prefect's record.
        overwrite: Whether an earlier grading in that folder is replaced, as a schedule needs it; anything else that
            lies there never is.
    """
    options = [part for overlay in overlays for part in ("--overlay", overlay)]
    options += ["--pseudonymise"] if pseudonymise else []
    out = out or f"scores/{flow_run.name}"
    options += ["--overwrite"] if may_overwrite(out, overwrite) else []
    folder = predict(dataset, inputs, model, out, options)
    return Completed(message=f"Graded into {folder}.")


@click.command()
@click.argument("dataset")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--model", default="champion", show_default=True)
@click.option("--out", default="", help="The folder to write; scores/NAME by default.")
@click.option(
    "--overlay", "overlays", multiple=True, type=click.Choice(get_args(Overlay)), help="Of slides, for QuPath."
)
@click.option("--pseudonymise", is_flag=True, help="Write pseudonyms for names of cases and files.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier grading in that folder, unless it was changed.")
def main(
    dataset: str,
    inputs: tuple[str, ...],
    model: str,
    out: str,
    overlays: tuple[str, ...],
    pseudonymise: bool,
    overwrite: bool,
) -> None:
    """Grade new patches and slides as a Prefect flow."""
    with one_line_errors():
        require_name("data set", dataset)
        Workspace.around()
        chosen = cast("tuple[Overlay, ...]", overlays)
        tell(score(dataset, list(inputs), model, out, chosen, pseudonymise, overwrite, return_state=True))


if __name__ == "__main__":
    main()
