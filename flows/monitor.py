"""Check for drift: compare new patches with those that the champion was made from.

Run it with `python -m flows.monitor idc /data/new-slides.zip`.
"""

from __future__ import annotations

import click
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.choices import AnyDataset
from flows.command import one_line_errors, report_end
from histopipe.core.params import require_name
from histopipe.core.workspace import Workspace
from tasks.monitoring import Drifted
from tasks.monitoring import monitor as monitor_task
from tasks.reproduction import may_overwrite


@flow(name="monitor")
def monitor(
    dataset: AnyDataset,
    inputs: tuple[str, ...] = (),
    scores: str = "",
    model: str = "",
    out: str = "",
    overwrite: bool = True,
) -> State[None]:
    """Compare new patches with the cases of their model, log and show the result; drift fails the run.

    Args:
        dataset: The data set whose champion is used.
        inputs: Paths of image files, slides, folders of them or archives, as the worker's machine sees them.
        scores: Instead of inputs, the folder of earlier predictions, such as scores/november.
        model: A model such as models:/histopipe-idc/3; by default the champion, or the model of `scores`.
        out: The folder to write, in the worker's checkout; without one, drift/ and the name of this run.
        overwrite: Whether an earlier report in that folder is replaced, as a schedule needs it; other files never are.
    """
    out = out or f"drift/{flow_run.name}"
    summary = monitor_task(dataset, inputs, scores or None, model or None, out, may_overwrite(out, overwrite))
    if summary["verdict"] == "drift":
        return Failed(message=summary["said"], data=Drifted(summary["said"]))
    return Completed(message=summary["said"])


@click.command()
@click.argument("dataset")
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@click.option("--scores", default="", help="Instead of inputs: a folder that predict or flows.score wrote.")
@click.option("--model", default="", help="Model; champion by default, of --scores the model that predicted.")
@click.option("--out", default="", help="The folder to write; drift/NAME by default.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier report in that folder, unless it was changed.")
def main(dataset: str, inputs: tuple[str, ...], scores: str, model: str, out: str, overwrite: bool) -> None:
    """Look for drift as a Prefect flow; exit with code 1 where there is some."""
    with one_line_errors():
        require_name("data set", dataset)
        Workspace.find()
        report_end(monitor(dataset, inputs, scores, model, out, overwrite, return_state=True))


if __name__ == "__main__":
    main()
