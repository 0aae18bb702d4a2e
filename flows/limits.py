"""The server's limit on trainings: tasks tagged `gpu` take turns, whatever flow or machine they belong to.

`prefect deploy` runs it (prefect.yaml). A tag alone limits nothing: the server holds the limit, which is the number of
trainings that run at one time on all machines together.

    python -m flows.limits             # as many as this machine has GPUs, at least one; a limit that is set stays
    python -m flows.limits --gpus 4    # set or changed
"""

from __future__ import annotations

import click

from flows.command import one_line_errors
from tasks.parallel import set_gpu_limit


@click.command()
@click.option("--gpus", type=click.IntRange(min=1), help="GPUs of all machines; by default those of this one.")
def main(gpus: int | None) -> None:
    """Set the number of trainings that the server runs at one time."""
    with one_line_errors():
        limit = set_gpu_limit(gpus)
    click.echo(f"at most {limit} tasks tagged gpu at one time")


if __name__ == "__main__":
    main()
