"""What flows started from the command line share: their options, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from prefect.client.schemas.objects import State

from histopipe.errors import HistopipeError
from tasks.reproduction import BadInput, StageFailed


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what a user can mend into one line and exit code 2; a stage that failed otherwise ends with 1."""
    try:
        yield
    except (HistopipeError, StageFailed) as problem:
        click.echo(f"histopipe: {problem}", err=True)
        sys.exit(1 if isinstance(problem, StageFailed) and not isinstance(problem, BadInput) else 2)


def choosing_datasets(command: Callable[..., None]) -> Callable[..., None]:
    """The option that names data sets."""
    option = click.option("--datasets", "-d", multiple=True, help="Repeat for several; all of params.yaml by default.")
    return option(command)


def choosing_architectures(command: Callable[..., None]) -> Callable[..., None]:
    """The option that names architectures."""
    said = "Repeat for several; all of params.yaml by default."
    return click.option("--architectures", "-a", multiple=True, help=said)(command)


def tell(state: State) -> None:
    """Say with what message a flow run ended; one that failed raises what it failed with."""
    state.result()
    click.echo(state.message)
