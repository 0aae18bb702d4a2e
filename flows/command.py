"""How a flow started from the command line ends when something is wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

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
