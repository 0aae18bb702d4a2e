"""Batch prediction: new patches and whole slides, in files, folders or archives, graded by the champion.

python -m flows.score idc /data/new-slides.zip /data/slides --pseudonymise
"""

from __future__ import annotations

import click
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.command import one_line_errors, tell
from histopipe.params import require_name
from histopipe.paths import Workspace
from tasks.scoring import predict


@flow(name="score")
def score(
    dataset: str,
    inputs: list[str],
    model: str = "champion",
    out: str | None = None,
    overlays: list[str] | None = None,
    pseudonymise: bool = False,
) -> State[None]:
    """Grade new patches and slides; tables, maps and a summary are written, logged to MLflow and shown as artifacts.

    Args:
        dataset: the data set whose champion grades, such as idc.
        inputs: paths of image files, slides, folders of them, or archives, as the worker sees them.
        model: champion, or an address such as models:/histopipe-idc/3.
        out: the folder to write, in the checkout; `scores/NAME`, by the run's name, where none is given.
        overlays: of slides, for QuPath: geojson, ome-tiff.
        pseudonymise: write pseudonyms for names of cases and files; the paths of `inputs` stay in Prefect's record.
    """
    options = [part for overlay in overlays or [] for part in ("--overlay", overlay)]
    options += ["--pseudonymise"] if pseudonymise else []
    folder = predict(dataset, inputs, model, out or f"scores/{flow_run.name}", options)
    return Completed(message=f"Graded into {folder}.")


@click.command()
@click.argument("dataset")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--model", default="champion", show_default=True)
@click.option("--out", help="The folder to write; scores/NAME by default.")
@click.option("--overlay", "overlays", multiple=True, help="Of slides, for QuPath: geojson, ome-tiff.")
@click.option("--pseudonymise", is_flag=True, help="Write pseudonyms for names of cases and files.")
def main(
    dataset: str, inputs: tuple[str, ...], model: str, out: str | None, overlays: tuple[str, ...], pseudonymise: bool
) -> None:
    """Grade new patches and slides as a Prefect flow."""
    with one_line_errors():
        require_name("data set", dataset)
        Workspace.around()
        tell(score(dataset, list(inputs), model, out, list(overlays), pseudonymise, return_state=True))


if __name__ == "__main__":
    main()
