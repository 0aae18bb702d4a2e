"""The command that starts the service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from histopipe.cli.command import main, model_dataset_option, model_option, patch_pixel_size_option, precision_option

MEBIBYTE = 2**20


def _limits(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `serve` that limit clients; the defaults equal those of `histopipe.service.limits`."""

    def in_bytes(_: click.Context, __: click.Parameter, value: float) -> int:
        return int(value * MEBIBYTE)

    def option(
        name: str, unit: str, default: float, least: float, text: str, most: int | None = None, **more: Any
    ) -> Callable[..., Any]:
        kind = click.IntRange(int(least), most) if isinstance(default, int) else click.FloatRange(least)
        return click.option(name, default=default, show_default=True, type=kind, metavar=unit, help=text, **more)

    options = (
        option("--max-images", "N", 64, 1, "Maximum number of images in one request."),
        option("--max-pixels", "N", 4_000_000, 1, "Maximum number of pixels in one image.", most=4_000_000),
        option("--max-body", "MIB", 32.0, 0, "Maximum size of a request with images, in MiB.", callback=in_bytes),
        option("--max-upload", "MIB", 4096.0, 0, "Maximum size of a slide or an archive, in MiB.", callback=in_bytes),
        option("--max-members", "N", 1_000_000, 1, "Maximum number of files, folders and links in one archive."),
        option(
            *("--max-seconds", "SECONDS", 20.0, 0.1),
            "Time limit for the headers of a request, for its body, and for each pause in an upload or a response.",
        ),
        option("--max-upload-seconds", "SECONDS", 3600.0, 0.1, "Time limit for one upload."),
        option(
            *("--max-wait", "SECONDS", 1.0, 0.01),
            "Maximum time that patches wait for prediction; longer waits are refused with status 429.",
        ),
        option("--max-queue", "N", 1024, 1, "Maximum number of patches that wait for prediction."),
        option(
            *("--max-requests", "N", 64, 1),
            "Maximum number of concurrent requests with images; more are refused with status 429.",
        ),
        option(
            *("--max-memory", "MIB", 512.0, 1),
            "Memory for request bodies and large responses, in MiB; when it is full, requests get status 429.",
            callback=in_bytes,
        ),
        option("--max-jobs", "N", 8, 1, "Maximum number of slides and archives that are predicted or wait."),
        option("--max-job-seconds", "SECONDS", 3600.0, 0.1, "Time limit for one slide or archive."),
        option("--keep", "SECONDS", 3600.0, 0, "How long results of finished jobs stay on disk."),
    )
    for decorate in reversed(options):
        command = decorate(command)
    return command


@main.command()
@model_dataset_option
@model_option("Model to serve")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to listen on; 0.0.0.0 listens on all addresses of the machine.",
)
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Port to listen on; 0 chooses a free port.",
)
@click.option(
    "--no-token", is_flag=True, help="Accept requests without a token ($HISTOPIPE_TOKEN), even from other machines."
)
@precision_option
@patch_pixel_size_option
@click.option(
    "--poll",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="How often to check whether the model's alias has moved to a new version; 0 never checks.",
)
@_limits
def serve(
    dataset: str,
    model: str,
    host: str,
    port: int,
    no_token: bool,
    precision: Any,
    mpp: float | None,
    poll: float,
    **limits: Any,
) -> None:
    """Serve a model as a REST API and a web page."""
    from histopipe.core.params import read_params
    from histopipe.core.workspace import Workspace
    from histopipe.service.limits import Limits
    from histopipe.service.models import ModelRequest
    from histopipe.service.server import ListenAddress, serve

    workspace = Workspace.find()
    read_params(workspace.params).dataset(dataset)
    limits = {name.removeprefix("max_"): value for name, value in limits.items()}
    request = ModelRequest(model, dataset, workspace, precision, mpp)
    serve(request, ListenAddress(host, port, no_token), Limits(**limits), poll)
