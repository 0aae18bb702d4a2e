"""Options and error handling of flows started from the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager

import click
import httpx
from prefect.client.schemas.objects import State
from prefect.settings import get_current_settings

from histopipe.core.addresses import public_url
from histopipe.core.dvc import require_repository
from histopipe.core.errors import HistopipeError
from histopipe.core.workspace import Workspace
from tasks.processes import BadInput, StageFailed


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Report an error that the user can fix in one line with exit code 2; other failed stages end with 1."""
    try:
        _require_repository()
        yield
    except (HistopipeError, StageFailed) as problem:
        click.echo(f"histopipe: {problem}", err=True)
        sys.exit(1 if isinstance(problem, StageFailed) and not isinstance(problem, BadInput) else 2)
    except CancelledError as problem:
        if not type(problem).__module__.startswith("distributed"):
            raise
        # Dask's client cancels all futures once its scheduler is gone
        reason = str(problem).partition("\n")[0]
        click.echo(f"histopipe: {reason} Start Dask's scheduler, then run again: finished work is kept", err=True)
        sys.exit(1)
    except (httpx.HTTPError, RuntimeError) as problem:
        if (refusal := server_refusal(problem)) is None:
            raise
        click.echo(f"histopipe: {refusal}", err=True)
        sys.exit(2)


def _require_repository() -> None:
    """Check that DVC works in the checkout, where this is one: some commands, such as the watch, need none."""
    try:
        workspace = Workspace.find()
    except HistopipeError:
        return
    require_repository(workspace)


def server_refusal(problem: Exception) -> str | None:
    """Return a message with the remedy where Prefect's server is away or refuses; None for any other error."""
    address = get_current_settings().api.url
    location = public_url(address) if address else "the flow's own address"
    if isinstance(problem, httpx.HTTPStatusError):
        status = problem.response.status_code
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            return f"Prefect's server at {location} is in trouble ({status}): see its log, then run again"
        refused = status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
        remedy = "set PREFECT_API_AUTH_STRING to the text that the server was started with"
        return f"Prefect's server at {location} refuses: {remedy}" if refused else None
    away = isinstance(problem, httpx.TransportError) or str(problem).startswith("Failed to reach API")
    return f"no Prefect server answers at {location}: start it, or set PREFECT_API_URL right" if away else None


def with_datasets_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add the option that selects data sets."""
    option = click.option("--datasets", "-d", multiple=True, help="Repeat for several; all of params.yaml by default.")
    return option(command)


def with_architectures_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add the option that selects recipes."""
    help_text = "Repeat for several; all of params.yaml by default."
    return click.option("--architectures", "-a", multiple=True, help=help_text)(command)


def report_end(state: State) -> None:
    """Print the message of a flow run's final state; raise the error of a failed run."""
    state.result()
    click.echo(state.message)
