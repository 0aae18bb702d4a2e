"""Drift: whether new patches still look like those that the champion was made from.

python -m flows.monitor idc /data/new-slides.zip
"""

from __future__ import annotations

import click
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.command import one_line_errors, tell
from histopipe.params import require_name
from histopipe.paths import Workspace
from tasks.monitoring import Drifted
from tasks.monitoring import monitor as look


@flow(name="monitor")
def monitor(
    dataset: str,
    inputs: list[str] | None = None,
    scores: str | None = None,
    model: str | None = None,
    out: str | None = None,
) -> State[None]:
    """Compare new patches with the cases behind their model; a report is logged and shown. Drift fails the run.

    Args:
        dataset: the data set whose champion grades, such as idc.
        inputs: paths of image files, folders of them, or archives, as the worker sees them.
        scores: instead of inputs, the folder of patches that were graded before, such as scores/november.
        model: the champion by default, of scores the model that graded; or an address such as models:/histopipe-idc/3.
        out: the folder to write, in the checkout; `drift/NAME`, by the run's name, where none is given.
    """
    found = look(dataset, inputs or [], scores, model, out or f"drift/{flow_run.name}")
    if found["verdict"] == "drift":
        return Failed(message=found["said"], data=Drifted(found["said"]))
    return Completed(message=found["said"])


@click.command()
@click.argument("dataset")
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@click.option("--scores", help="Instead of inputs: a folder that predict or flows.score wrote.")
@click.option("--model", help="champion by default; of scores, the model that graded.")
@click.option("--out", help="The folder to write; drift/NAME by default.")
def main(dataset: str, inputs: tuple[str, ...], scores: str | None, model: str | None, out: str | None) -> None:
    """Look for drift as a Prefect flow; exit code 1 where there is some."""
    with one_line_errors():
        require_name("data set", dataset)
        Workspace.around()
        tell(monitor(dataset, list(inputs), scores, model, out, return_state=True))


if __name__ == "__main__":
    main()
