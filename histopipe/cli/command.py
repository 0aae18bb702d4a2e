"""The command itself: its errors in one line, and what its families share."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from histopipe import __version__
from histopipe.core.errors import BusyError, HistopipeError

if TYPE_CHECKING:
    from histopipe.core.params import Params
    from histopipe.core.workspace import Workspace


_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room within your quota",
    errno.EACCES: "allow yourself to read and write there",
    errno.EROFS: "use a place that can be written",
    errno.ENOENT: "restore it or correct its path",
    errno.ENOLCK: "keep the checkout on a file system that has locks",
    errno.EOPNOTSUPP: "use a file system that has locks and links",
}


class Commands(click.Group):
    """Turns errors that a user can mend into one line and an exit code."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; bad input ends with exit code 2, a busy stage with 75."""
        try:
            return super().invoke(context)
        except (HistopipeError, BusyError) as problem:
            said, busy = str(problem), isinstance(problem, BusyError)
        except OSError as problem:
            said, busy = _remedy(problem), False
            if not said:
                raise
        from histopipe.core.stages.running import (  # not above: it would load psutil for `--help`
            EXIT_BAD_INPUT,
            EXIT_BUSY,
        )

        click.echo(f"histopipe: {said}", err=True)
        return context.exit(EXIT_BUSY if busy else EXIT_BAD_INPUT)


def _remedy(problem: OSError) -> str:
    """One line for a fault of disks and paths that a user can mend; empty for any other."""
    what = problem.filename or "the disk"
    remedy = _REMEDIES.get(problem.errno or 0)
    if remedy is None or (problem.errno == errno.ENOENT and not problem.filename):
        return ""
    if problem.errno == errno.ENOSPC and _lacks_inodes(Path(problem.filename or ".")):
        remedy = "it has room but no more files may be made on it (`df -i`): remove some"
    return f"{what}: {problem.strerror}: {remedy}, then run again"


def _lacks_inodes(path: Path) -> bool:
    """Whether a file system has reached its number of files; some, such as btrfs, have none."""
    existing = next((parent for parent in (path, *path.absolute().parents) if parent.exists()), Path("/"))
    state = os.statvfs(existing)
    return state.f_files > 0 and state.f_favail == 0 and state.f_bavail > 0


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """From an archive of pathology patches to compared, served models.

    The stages are run by `dvc repro`, which knows what is out of date; each can also be run by hand.
    """
    from histopipe.core.startup_lines import drop_start_up_lines

    drop_start_up_lines()
    # read on import: TensorFlow's later remarks and warnings, MLflow's about its database's first tables
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)


@contextmanager
def stage(
    name: str, dataset: str | None, architecture: str | None = None, variant: str | None = None
) -> Iterator[tuple[Params, Workspace]]:
    """Parameters and workspace of one stage, which runs locked and watched."""
    from histopipe.core.params import read_params
    from histopipe.core.stages.folders import require_own_folder
    from histopipe.core.stages.running import running
    from histopipe.core.workspace import Workspace, stage_name

    workspace = Workspace.around()
    with running(stage_name(name, dataset, architecture, variant), workspace) as inputs:
        params = read_params(workspace.params, inputs.params_text)
        if dataset:
            params.dataset(dataset)
        if architecture:
            params.recipe(architecture)
        require_own_folder(name, dataset, architecture, variant, workspace)
        yield params, workspace


def named(what: str) -> Callable[[click.Context, click.Parameter, str], str]:
    """A check of an argument that becomes part of file names, made before any file is."""

    def check(context: click.Context, parameter: click.Parameter, name: str) -> str:
        from histopipe.core.params import require_name

        if not context.resilient_parsing:
            require_name(what, name)
        return name

    return check


def named_if_given(what: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Check as `named` does, where there is an argument at all."""
    check = named(what)
    return lambda context, parameter, name: None if name is None else check(context, parameter, name)


def dataset_argument(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the argument `dataset`."""
    return click.argument("dataset", callback=named("data set"))(command)


def architecture_argument(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the argument `architecture`."""
    return click.argument("architecture", callback=named("architecture"))(command)


def overwrite_option(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option `--overwrite`."""
    text = "Replace what the same command wrote there before, unless somebody changed it or put a file there."
    return click.option("--overwrite", is_flag=True, help=text)(command)


def with_interval(metric: dict[str, float | None]) -> str:
    """Show a metric with its interval, as commands say it."""
    shown = {name: "n/a" if value is None else f"{value:.3f}" for name, value in metric.items()}
    return f"{shown['value']} [{shown['low']}, {shown['high']}]"
