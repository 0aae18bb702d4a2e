"""Drift: whether new patches still look like those that the champion was made from.

python -m flows.monitor idc /data/new-slides.zip
"""

from __future__ import annotations

import click
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.choices import AnyDataset
from flows.command import one_line_errors, tell
from histopipe.core.params import require_name
from histopipe.core.workspace import Workspace
from tasks.monitoring import Drifted
from tasks.monitoring import monitor as look
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
    """Compare new patches with the cases behind their model; a report is logged and shown. Drift fails the run.

    Args:
        dataset: The data set whose champion grades.
        inputs: Paths of image files, slides, folders of them or archives, as the worker's machine sees them.
        scores: Instead of inputs, the folder of patches that were graded before, such as scores/november.
        model: Without one the champion, of scores the model that graded; or another, such as models:/histopipe-idc/3.
        out: The folder to write, in the worker's checkout; without one, drift/ and the name of this run.
        overwrite: Whether an earlier report in that folder is replaced, as a schedule needs it; anything else that lies
            there never is.
    """
    out = out or f"drift/{flow_run.name}"
    found = look(dataset, inputs, scores or None, model or None, out, may_overwrite(out, overwrite))
    if found["verdict"] == "drift":
        return Failed(message=found["said"], data=Drifted(found["said"]))
    return Completed(message=found["said"])


@click.command()
@click.argument("dataset")
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@click.option("--scores", default="", help="Instead of inputs: a folder that predict or flows.score wrote.")
@click.option("--model", default="", help="champion by default; of scores, the model that graded.")
@click.option("--out", default="", help="The folder to write; drift/NAME by default.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier report in that folder, unless it was changed.")
def main(dataset: str, inputs: tuple[str, ...], scores: str, model: str, out: str, overwrite: bool) -> None:
    """Look for drift as a Prefect flow; exit code 1 where there is some."""
    with one_line_errors():
        require_name("data set", dataset)
        Workspace.around()
        tell(monitor(dataset, inputs, scores, model, out, overwrite, return_state=True))


if __name__ == "__main__":
    main()
