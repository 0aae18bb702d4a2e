"""The command group: its one-line errors, and the arguments and options that several commands share."""

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
    errno.EACCES: "give yourself permission to read and write it",
    errno.EROFS: "choose a path on a writable disk",
    errno.ENOENT: "restore it or correct its path",
    errno.ENOLCK: "keep the checkout on a file system that supports locks",
    errno.EOPNOTSUPP: "use a file system that supports locks and links",
}


MICROMETRES = click.FloatRange(min=0, min_open=True, max=1000)


class Commands(click.Group):
    """A command group that prints errors a user can fix as one line and ends with an exit code."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; exit with code 2 for bad input and 75 for a busy stage."""
        try:
            return super().invoke(context)
        except (HistopipeError, BusyError) as problem:
            message, busy = str(problem), isinstance(problem, BusyError)
        except OSError as problem:
            message, busy = _disk_message(problem), False
            if not message:
                raise
        from histopipe.core.stages.running import (  # imported late: it loads psutil, which `--help` does not need
            EXIT_BAD_INPUT,
            EXIT_BUSY,
        )

        click.echo(f"histopipe: {message}", err=True)
        return context.exit(EXIT_BUSY if busy else EXIT_BAD_INPUT)


def _disk_message(problem: OSError) -> str:
    """Return one line for a disk or path error that a user can fix, or an empty string for any other."""
    path = problem.filename or "the disk"
    remedy = _REMEDIES.get(problem.errno or 0)
    if remedy is None or (problem.errno == errno.ENOENT and not problem.filename):
        return ""
    if problem.errno == errno.ENOSPC and _lacks_inodes(Path(problem.filename or ".")):
        remedy = "the disk has space but no inodes left for new files (`df -i`): remove some files"
    return f"{path}: {problem.strerror}: {remedy}, then run again"


def _lacks_inodes(path: Path) -> bool:
    """Return whether a file system has no inodes left; some, such as btrfs, have no limit."""
    existing = next((parent for parent in (path, *path.absolute().parents) if parent.exists()), Path("/"))
    state = os.statvfs(existing)
    return state.f_files > 0 and state.f_favail == 0 and state.f_bavail > 0


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Train, evaluate, compare and serve models of pathology patches.

    `dvc repro` runs the stages that are out of date; each stage can also be run by hand.
    """
    from histopipe.core.startup_lines import drop_startup_lines

    drop_startup_lines()
    # both are read on import; they silence TensorFlow's remarks and MLflow's lines about creating its database
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)


@contextmanager
def stage(
    name: str, dataset: str | None, architecture: str | None = None, variant: str | None = None
) -> Iterator[tuple[Params, Workspace]]:
    """Lock and watch one stage while the block runs; yield the parameters and the workspace."""
    from histopipe.core.params import read_params
    from histopipe.core.stages.folders import require_own_folder
    from histopipe.core.stages.running import running
    from histopipe.core.workspace import Workspace, stage_name

    workspace = Workspace.find()
    with running(stage_name(name, dataset, architecture, variant), workspace) as inputs:
        params = read_params(workspace.params, inputs.params_text)
        if dataset:
            params.dataset(dataset)
        if architecture:
            params.recipe(architecture)
        require_own_folder(name, dataset, architecture, variant, workspace)
        yield params, workspace


def check_name(kind: str) -> Callable[[click.Context, click.Parameter, str], str]:
    """Return a callback that checks a name before any file name is built from it."""

    def check(context: click.Context, parameter: click.Parameter, name: str) -> str:
        from histopipe.core.params import require_name

        if not context.resilient_parsing:
            require_name(kind, name)
        return name

    return check


def check_optional_name(kind: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Return a callback like that of `check_name` for an argument or option that may be missing."""
    check = check_name(kind)
    return lambda context, parameter, name: None if name is None else check(context, parameter, name)


def dataset_argument(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument DATASET to a command."""
    return click.argument("dataset", callback=check_name("data set"))(command)


def architecture_argument(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument ARCHITECTURE, the name of a recipe, to a command."""
    return click.argument("architecture", callback=check_name("architecture"))(command)


def overwrite_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add the option `--overwrite` to a command."""
    text = "Replace an earlier result of the same command, unless its files were changed or others were added."
    return click.option("--overwrite", is_flag=True, help=text)(command)


def model_dataset_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add the option `--dataset` to a command that uses a model."""
    return click.option(
        "--dataset",
        default="idc",
        show_default=True,
        callback=check_name("data set"),
        metavar="NAME",
        help="Data set that the model was trained on.",
    )(command)


def model_option(purpose: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds the option `--model` to a command; its help begins with the purpose."""
    return click.option(
        "--model",
        default="champion",
        show_default=True,
        metavar="MODEL",
        help=f"{purpose}: champion, models:/NAME/VERSION, or a folder.",
    )


def out_folder_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add the option `--out` to a command that writes a folder."""
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option("--out", required=True, type=kind, metavar="FOLDER", help="Folder to write.")(command)


def precision_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add the option `--precision` to a command that predicts."""
    return click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16"]),
        default="float32",
        show_default=True,
        help="Number type that the model computes with.",
    )(command)


def patch_pixel_size_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add the option `--mpp` to a command that cuts slides into patches."""
    return click.option(
        "--mpp",
        type=MICROMETRES,
        metavar="MICROMETRES",
        help="Pixel size of the patches that the model was trained on, in micrometres.  [default: the data set's]",
    )(command)


def format_with_interval(metric: dict[str, float | None]) -> str:
    """Format a metric with its interval, for example `0.932 [0.907, 0.951]`."""
    shown = {name: "n/a" if value is None else f"{value:.3f}" for name, value in metric.items()}
    return f"{shown['value']} [{shown['low']}, {shown['high']}]"
